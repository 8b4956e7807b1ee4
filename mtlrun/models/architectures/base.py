"""The contract of an architecture."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.types import Layout

MakeBackbone = Callable[[int], Backbone]
"""Builds copy ``n`` of the configured backbone. The initial weights depend on ``n`` alone: copy 0
is what a run with one backbone starts from."""


class Architecture(nn.Module):
    """Maps inputs to features for each task, and says which parameters are shared.

    Args:
        make_backbone: see :data:`MakeBackbone`.
        streams: for each stream its tasks.
    """

    def __init__(
        self, *, make_backbone: MakeBackbone, streams: Mapping[str, Sequence[str]]
    ) -> None:
        super().__init__()
        del make_backbone
        self.stream_of = {task: stream for stream, tasks in streams.items() for task in tasks}

    @property
    def one_representation(self) -> bool:
        """Whether all tasks of a stream read the very same tensor, and there is one stream."""
        return False

    @abstractmethod
    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """Features of each of ``tasks``; tasks that read one tensor get the same object.

        Args:
            inputs: for each stream that carries any of ``tasks`` its inputs, [N, ...].
            tasks: the tasks wanted.
        """

    def forward(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`features`."""
        return self.features(inputs, tasks)

    @abstractmethod
    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters that more than one task trains, in a fixed order."""

    @abstractmethod
    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Parameters of the architecture (heads are not its) that ``task`` alone trains."""

    @abstractmethod
    def last_shared_layer(self) -> list[nn.Parameter]:
        """The weights of the last layer that all tasks share; empty where there is none."""

    @abstractmethod
    def out_channels(self, task: str) -> int:
        """Channels of the features of ``task``."""

    @abstractmethod
    def layout(self, task: str) -> Layout:
        """Of the features of ``task``."""
