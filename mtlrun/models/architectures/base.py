"""The contract of an architecture."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.types import Layout, Structure

MakeBackbone = Callable[[int], Backbone]
"""Builds copy ``n`` of the configured backbone. The initial weights depend on ``n`` alone: copy 0
is what a run with one backbone starts from."""


@dataclass
class Pass:
    """What one pass through an architecture gives in training.

    Attributes:
        features: of each task.
        terms: auxiliary losses by the names that :attr:`Architecture.terms` declares, scalars,
            without their weights.
        predictions: auxiliary losses that are a task's own loss on an intermediate prediction: by
            the declared name the task, and a prediction of the shape that its head gives.
    """

    features: dict[str, Tensor]
    terms: dict[str, Tensor] = field(default_factory=dict)
    predictions: dict[str, tuple[str, Tensor]] = field(default_factory=dict)


class Architecture(nn.Module):
    """Maps inputs to features for each task, and says which parameters are shared.

    Beside its own settings an architecture takes those runtime facts that it wants, as keywords:

    * ``make_backbone``: see :data:`MakeBackbone`;
    * ``streams``: for each stream its tasks;
    * ``reads``: for each task the stages that its head reads, see
      :class:`~mtlrun.models.sharing.reading.Reading`. One that does not take it serves heads
      that read the last stage;
    * ``input_kind``, ``input_shape``: of the inputs, see :data:`~mtlrun.types.InputKind`;
    * ``outputs``: for each task the :class:`~mtlrun.types.OutputShape` of its prediction;
    * ``epochs``: of the run.

    A module that several tasks' gradients reach is shared, whoever it is named after. Draws in
    training use torch's global generator, which the engine seeds for each step; evaluation draws
    nothing. All that evaluation depends on stands in parameters and buffers, so that a checkpoint
    evaluates as the network did.

    Args:
        streams: for each stream its tasks.

    Attributes:
        stream_of: for each task its stream.
        terms: names of the auxiliary losses, and what each is multiplied by in the objective; those
            with the weight 0 are left out.
    """

    def __init__(self, *, streams: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.stream_of = {task: stream for stream, tasks in streams.items() for task in tasks}
        self.terms: dict[str, float] = {}

    def by_stream(self, tasks: Sequence[str]) -> dict[str, list[str]]:
        """Those of ``tasks`` that each stream carries, in the order of its first task."""
        found: dict[str, list[str]] = {}
        for task in tasks:
            found.setdefault(self.stream_of[task], []).append(task)
        return found

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

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        """Features, and the auxiliary losses: called in training where :attr:`terms` has any.

        Args:
            inputs: see :meth:`features`.
            tasks: likewise.
        """
        return Pass(self.features(inputs, tasks))

    def forward(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`features`."""
        return self.features(inputs, tasks)

    # -- parameters --------------------------------------------------------------------------------

    @abstractmethod
    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters that the losses of more than one task reach, in a fixed order."""

    @abstractmethod
    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Parameters of the architecture (heads are not its) that the loss of ``task`` alone
        reaches."""

    @abstractmethod
    def last_shared_layer(self) -> list[nn.Parameter]:
        """The weights of the last layer that all tasks share; empty where there is none."""

    def learning_rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """Groups of parameters whose learning rate is so many times the network's."""
        return []

    # -- what heads read ---------------------------------------------------------------------------

    @abstractmethod
    def out_channels(self, task: str) -> int:
        """Channels of the features of ``task``."""

    @abstractmethod
    def layout(self, task: str) -> Layout:
        """Of the features of ``task``."""

    # -- over a run --------------------------------------------------------------------------------

    def start_step(self, epoch: int, step: int) -> None:
        """Called before each training step, for schedules (phases, temperatures).

        What it does depends on its arguments and buffers alone: so a run can go on anywhere.

        Args:
            epoch: counted from 0.
            step: optimizer steps done before, over the whole run.
        """

    def only(self) -> Collection[nn.Parameter] | None:
        """The parameters that this step trains, heads' among the others; None for all of them."""
        return None

    def start_evaluation(self) -> None:
        """Called before each pass over a split, for those that note what they do there."""

    def structure(self) -> list[Structure]:
        """What has been learned of who shares what, to be drawn; called after an evaluation."""
        return []
