"""Hard parameter sharing."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mtlrun.models.architectures.base import Architecture, MakeBackbone
from mtlrun.models.architectures.reading import Reading, stage_outputs
from mtlrun.types import Layout


class HPS(Architecture):
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
        self._one = len(streams) == 1 and self.reading.alike(list(self.stream_of))

    @property
    def one_representation(self) -> bool:
        """True where there is one stream, and all heads read the same stages."""
        return self._one

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        found: dict[str, Tensor] = {}
        for stream in dict.fromkeys(self.stream_of[task] for task in tasks):
            here = [task for task in tasks if self.stream_of[task] == stream]
            found |= self.reading.shared(here, stage_outputs(self.backbone, inputs[stream]))
        return {task: found[task] for task in tasks}

    def shared_parameters(self) -> list[nn.Parameter]:
        """All parameters of the backbone."""
        return list(self.backbone.parameters())

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """None: a task has its head alone."""
        del task
        return []

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The backbone's last layer."""
        return self.backbone.last_layer()

    def out_channels(self, task: str) -> int:
        """Channels of the stages that the task's head reads."""
        return self.reading.out_channels(task)

    def layout(self, task: str) -> Layout:
        """That of the stages that the task's head reads."""
        return self.reading.layout(task)
