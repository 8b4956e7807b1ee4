"""Hard parameter sharing."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.sharing.depth import behind_others, drop_unread, last_common_layer
from mtlrun.models.sharing.reading import Reading, StageReading, stage_outputs


class HPS(StageReading):
    """Hard parameter sharing (Caruana, 1993): one backbone that all tasks read.

    The tasks of a stream read the very same tensor, computed once.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks. Streams go through the backbone one after the other.
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
        self.backbone = make_backbone(0)
        self.reading = Reading(self.backbone, reads)
        drop_unread(self.backbone, self.reading, list(self.stream_of))
        self._one = len(streams) == 1 and self.reading.alike(list(self.stream_of))

    @property
    def one_representation(self) -> bool:
        """True where there is one stream, and all heads read the same stages."""
        return self._one

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        found: dict[str, Tensor] = {}
        for stream, here in self.by_stream(tasks).items():
            outputs = stage_outputs(self.backbone, inputs[stream], self.reading.deepest(here))
            found |= self.reading.shared(here, outputs)
        return {task: found[task] for task in tasks}

    def shared_parameters(self) -> list[nn.Parameter]:
        """The backbone's, but for stages that the head of one task alone reads."""
        alone = {id(p) for task in self.stream_of for p in self.task_parameters(task)}
        return [p for p in self.backbone.parameters() if id(p) not in alone]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """None but for stages beyond those that the other tasks' heads read."""
        return behind_others(self.backbone, self.reading, task, list(self.stream_of))

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The backbone's last layer, or that of the last stage that all heads' stages rest on."""
        return last_common_layer(self.backbone, self.reading, list(self.stream_of))
