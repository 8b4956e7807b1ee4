"""Hard parameter sharing."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mtlrun.models.architectures.base import Architecture, MakeBackbone
from mtlrun.types import Layout


class HPS(Architecture):
    """Hard parameter sharing (Caruana, 1993): one backbone that all tasks read.

    The tasks of a stream read the very same tensor, computed once.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks. Streams go through the backbone one after the other.
    """

    def __init__(
        self, *, make_backbone: MakeBackbone, streams: Mapping[str, Sequence[str]]
    ) -> None:
        super().__init__(make_backbone=make_backbone, streams=streams)
        self.backbone = make_backbone(0)
        self._one_stream = len(streams) == 1

    @property
    def one_representation(self) -> bool:
        """True where there is one stream."""
        return self._one_stream

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        streams = dict.fromkeys(self.stream_of[task] for task in tasks)
        representation = {stream: self.backbone(inputs[stream]) for stream in streams}
        return {task: representation[self.stream_of[task]] for task in tasks}

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
        """Channels of the backbone's last stage."""
        del task
        return self.backbone.channels[-1]

    def layout(self, task: str) -> Layout:
        """That of the backbone's last stage."""
        del task
        return self.backbone.layouts[-1]
