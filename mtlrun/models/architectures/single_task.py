"""One network a task: what multi-task learning is compared with."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.sharing.depth import drop_unread
from mtlrun.models.sharing.reading import Reading, StageReading, stage_outputs


class SingleTask(StageReading):
    """A backbone of its own for each task; nothing is shared.

    Every backbone starts from the same weights, those of the one backbone of a run with shared
    parameters, so that training T networks side by side equals T runs of one task each.
    (Exceptions: dropout masks depend on what else is drawn in a step; stopping=joint and a
    ReduceLROnPlateau scheduler look at all networks.)

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(streams=streams)
        self.backbone_of: dict[str, Backbone] = {task: make_backbone(0) for task in self.stream_of}
        # Registered in a list: a ModuleDict refuses tasks named "a.b", "type" or "keys"
        self.backbones = nn.ModuleList(self.backbone_of.values())
        self.reading = Reading(next(iter(self.backbone_of.values())), reads)
        for task, backbone in self.backbone_of.items():
            drop_unread(backbone, self.reading, [task])

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        found: dict[str, Tensor] = {}
        for task in tasks:
            stream, deepest = self.stream_of[task], self.reading.deepest([task])
            outputs = stage_outputs(self.backbone_of[task], inputs[stream], deepest)
            found[task] = self.reading(task, outputs)
        return found

    def shared_parameters(self) -> list[nn.Parameter]:
        """None."""
        return []

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """All parameters of the task's backbone."""
        return list(self.backbone_of[task].parameters())

    def last_shared_layer(self) -> list[nn.Parameter]:
        """None."""
        return []
