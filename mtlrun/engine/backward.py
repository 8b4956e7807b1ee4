"""From the losses of a step to ``.grad``: one way for each kind of weighting.

The methods declare what they need to see by the class that they extend; nothing here knows a method
by name. Every way fills ``.grad`` of all parameters that a step trains, and gives back the figures
that are logged.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mtlrun.engine.adapters import derivatives
from mtlrun.engine.rules import Rescale, WeightRules
from mtlrun.engine.shared_gradients import SharedGradients, from_graph
from mtlrun.engine.shares import add_losses, first_nonfinite, micro_batch_shares
from mtlrun.engine.terms import TermGradients
from mtlrun.models.architectures.base import Pass
from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global_step
from mtlrun.tasks.base import Task
from mtlrun.types import Batch, StepInfo
from mtlrun.weighting.base import LossWeighting, Place

if TYPE_CHECKING:  # teachers are networks that are called like this one
    from mtlrun.engine.distillation import Distillation


@dataclass(frozen=True)
class GradientSettings:
    """The ``gradients`` section of the configuration.

    Attributes:
        place: where task gradients are taken; None for methods that see losses only.
        every: steps between two refreshes of the weights; in between they are reused.
        smoothing: see :class:`~mtlrun.engine.rules.WeightRules`.
        rescale: likewise.
        memory: bytes that the rows of the task gradients may take.
    """

    place: Place | None = None
    every: int = 1
    smoothing: float = 0.0
    rescale: Rescale = "none"
    memory: float = 4 * 2**30


@dataclass
class StepFigures:
    """What a step has to show.

    Attributes:
        present: indices of the tasks of this step.
        losses: their scalar losses, detached, on the device.
        weights: their weights, [T] or T scalars; None for a method that has no weights.
        gramian: inner products of their gradients, [T, T], float64 on the CPU, where taken.
        nonfinite: the first task whose loss or gradient is NaN or infinite, where that is known
            before the update; then nothing was put into ``.grad``. Numbers from T on are those of
            the architecture's terms.
        remark: what the run's log has to say about this step.
        terms: the architecture's auxiliary losses by name, detached, without their weights.
        shared: its tasks' gradients on the shared parameters, where they are asked for
            (:attr:`Backward.shows`) and the pass had them; dropped when the step is made.
    """

    present: tuple[int, ...]
    losses: list[Tensor]
    weights: Tensor | Sequence[Tensor] | None = None
    gramian: Tensor | None = None
    nonfinite: int | None = None
    remark: str | None = None
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    shared: SharedGradients | None = None


PLAIN = nullcontext()


@dataclass
class Forward:
    """How the network is called: in which precision, compiled or not.

    Attributes:
        model: the network.
        tasks: the run's tasks, in their order.
        amp: whether it runs under bfloat16 autocast.
        compiled: whether its parts go through ``torch.compile``.
        distillation: the teachers, whose say is a part of :meth:`loss`; None where there are none.
        names: the tasks' names.
        task_of_term: the task that an auxiliary loss is of, of those that have come up.
        observer: is told of each loss while its graph is whole: the task, the features that its
            head read, the target and the loss; None for nobody.
    """

    model: MultiTaskModel
    tasks: Mapping[str, Task]
    amp: bool = False
    compiled: bool = False
    distillation: "Distillation | None" = None
    names: tuple[str, ...] = field(init=False)
    task_of_term: dict[str, str] = field(init=False, default_factory=dict)
    observer: Callable[[int, Tensor, Tensor, Tensor], None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.names = tuple(self.tasks)
        self.device_type = next(self.model.parameters()).device.type
        self.stream_of = self.model.architecture.stream_of
        self.architecture: Callable[..., dict[str, Tensor]] = self.model.architecture
        self.with_terms: Callable[..., Pass] = self.model.architecture.with_terms
        self.head_of: dict[str, Callable[[Tensor], Tensor]] = dict(self.model.head_of)
        if self.compiled:
            # Task gradients walk one graph several times; donated buffers allow a single walk.
            torch._functorch.config.donated_buffer = False
            self.architecture = torch.compile(self.architecture)
            self.with_terms = torch.compile(self.with_terms)
            self.head_of = {name: torch.compile(head) for name, head in self.head_of.items()}

    def precision(self) -> AbstractContextManager[object]:
        """Autocast to bfloat16, or nothing."""
        if self.amp:
            return torch.autocast(self.device_type, dtype=torch.bfloat16)
        return PLAIN

    def features(self, batch: Batch, present: Sequence[int]) -> dict[str, Tensor]:
        """Features of the tasks named."""
        inputs = {stream: part.inputs for stream, part in batch.items()}
        with self.precision():
            return self.architecture(inputs, [self.names[index] for index in present])

    def training_pass(
        self, batch: Batch, present: Sequence[int], *, terms: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features of the tasks named, and the architecture's terms: auxiliary losses by name.

        Args:
            batch: the (micro-)batch.
            present: the tasks.
            terms: whether the terms are wanted.
        """
        if not (terms and self.model.architecture.terms):
            return self.features(batch, present), {}
        inputs = {stream: part.inputs for stream, part in batch.items()}
        with self.precision():
            made = self.with_terms(inputs, [self.names[index] for index in present])
        found = {name: value.float() for name, value in made.terms.items()}
        for name, (task, prediction) in made.predictions.items():
            target = self.target(batch, self.names.index(task))
            found[name] = self.tasks[task].loss(prediction.float(), target)
            self.task_of_term[name] = task
        return made.features, found

    def prediction(self, index: int, features: Tensor) -> Tensor:
        """A task's prediction from its features, in float32."""
        with self.precision():
            return self.head_of[self.names[index]](features).float()

    def target(self, batch: Batch, index: int) -> Tensor:
        """A task's target in a batch."""
        name = self.names[index]
        return batch[self.stream_of[name]].targets[name]

    def loss(self, batch: Batch, index: int, features: Tensor) -> Tensor:
        """The scalar loss that a task is trained by, from its features."""
        name = self.names[index]
        prediction = self.prediction(index, features)
        target = self.target(batch, index)
        loss = self.tasks[name].loss(prediction, target)
        if self.observer is not None:
            self.observer(index, features, target, loss)
        if self.distillation is None:
            return loss
        part = batch[self.stream_of[name]]
        return self.distillation.objective(name, loss, prediction, features, part)

    def losses(self, batch: Batch, present: Sequence[int]) -> list[Tensor]:
        """The scalar losses of the tasks named."""
        features = self.features(batch, present)
        return [self.loss(batch, index, features[self.names[index]]) for index in present]

    def step_losses(self, batches: Sequence[Batch], info: StepInfo) -> list[Tensor]:
        """The losses of a step's batches, with the step's dropout masks, as they are by now.

        Args:
            batches: its micro-batches with labels.
            info: of the step.

        Returns:
            a scalar for each of its tasks: the mean over the micro-batches that have it.
        """
        seed_global_step(info.seed, "dropout", info.epoch, info.step)
        sums: list[Tensor] = []
        shares = micro_batch_shares(batches, self.names, info.present)
        for batch, share in zip(batches, shares, strict=True):
            places = [place for place, value in enumerate(share) if value > 0]
            tasks = [info.present[place] for place in places]
            sums = add_losses(sums, self.losses_of_pass(batch, tasks), places, share)
        return sums

    def losses_of_pass(self, batch: Batch, present: Sequence[int]) -> list[Tensor]:
        """The scalar losses of the tasks named, with what the step's own pass draws.

        That is what :meth:`losses` gives, but of architectures with terms, which may draw for them.
        """
        features, _ = self.training_pass(batch, present)
        return [self.loss(batch, index, features[self.names[index]]) for index in present]

    def adaptor_parameters(self, name: str) -> list[nn.Parameter]:
        """What a task trains beside the network: its adaptors to the features of teachers."""
        return [] if self.distillation is None else self.distillation.adaptor_parameters(name)

    @contextmanager
    def kept_buffers(self) -> Iterator[None]:
        """Leave running statistics as they are, whatever passes are made inside."""
        with kept(list(self.model.buffers())):
            yield


@contextmanager
def kept(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Tensors that may be changed inside; afterwards they are, bit for bit, as before."""
    before = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in before:
                tensor.copy_(values)


class Backward(ABC):
    """Fills ``.grad`` for one step.

    Args:
        forward: how the network is called.
        check: whether losses are looked at before the update; costs a wait for the device.

    Attributes:
        failures: steps in which the method's solver had no answer.
        shows: whether the next step's task gradients are asked for, whatever it does with them.
        factors: for each task of the next step what multiplies the weight that the method gives it
            (see :class:`~mtlrun.engine.annealing.Annealing`); None for nothing.
    """

    failures: int = 0
    shows: bool = False
    factors: Sequence[float] | None = None

    def __init__(self, forward: Forward, *, check: bool) -> None:
        self.forward = forward
        self.check = check
        self.terms = TermGradients(forward.model.architecture, forward.task_of_term)
        self.shared = forward.model.shared_parameters()

    @abstractmethod
    def __call__(self, batches: Sequence[Batch], info: StepInfo) -> StepFigures:
        """One step over micro-batches (one, unless ``engine.accumulate`` is more)."""

    def faded(self, weights: Tensor) -> Tensor:
        """The weights that apply where the method gives these, [..., T]."""
        if self.factors is None:
            return weights
        scaled = [w * f for w, f in zip(weights.unbind(-1), self.factors, strict=True)]
        return torch.stack(scaled, dim=-1)  # without a copy from the host

    def features(
        self, batch: Batch, present: Sequence[int], terms: bool = True
    ) -> dict[str, Tensor]:
        """Features of the tasks; the gradients of the architecture's terms are put aside."""
        features, found = self.forward.training_pass(batch, present, terms=terms)
        self.terms.take(found)
        for task, tensor in features.items():
            if not tensor.requires_grad:  # below it all is frozen, though not elsewhere
                features[task] = tensor + 0 * self.shared[0].flatten()[0]
        return features

    def state_dict(self) -> dict[str, Tensor]:
        """What has to be kept between steps beside the weighting's own state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The reverse of :meth:`state_dict`."""
        del state


class FromLosses(Backward):
    """One plain backward pass through everything, for methods that see losses only."""

    def __init__(
        self,
        forward: Forward,
        weighting: LossWeighting,
        settings: GradientSettings | None = None,
        *,
        check: bool,
    ) -> None:
        super().__init__(forward, check=check)
        settings = settings or GradientSettings()
        self.weighting = weighting
        self.rules = WeightRules(len(forward.names), settings.smoothing, settings.rescale)

    def state_dict(self) -> dict[str, Tensor]:
        """See :meth:`Backward.state_dict`: smoothed weights."""
        return self.rules.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Backward.load_state_dict`."""
        self.rules.load_state_dict(state)

    def __call__(self, batches: Sequence[Batch], info: StepInfo) -> StepFigures:
        """See :meth:`Backward.__call__`."""
        if len(batches) > 1:
            return self._accumulate(batches, info)
        losses, terms = self._losses(batches[0], info.present)
        detached = [loss.detach() for loss in losses]
        figures = StepFigures(info.present, detached)
        if self.check:
            figures.nonfinite = first_nonfinite(detached, info.present)
            if figures.nonfinite is not None:
                return figures
        weights = self._weights(detached, info)
        applied = weights if self.factors is None else self.faded(torch.stack(weights)).unbind()
        walk(losses, applied, terms, retain_graph=self.shows)
        figures.weights = weights
        if self.shows:
            figures.shared = SharedGradients(from_graph(losses, None, self.shared))
        return figures

    def _losses(self, batch: Batch, present: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """The losses of the tasks named, and what the terms add to the objective: one or none."""
        features, terms = self.forward.training_pass(batch, present)
        losses = [self.forward.loss(batch, i, features[self.forward.names[i]]) for i in present]
        total = self.terms.weighted(terms)
        return losses, [total] if total.requires_grad else []

    def _weights(self, losses: Sequence[Tensor], info: StepInfo) -> list[Tensor]:
        """The derivatives of the objective by the losses; its own parameters get theirs."""
        weights = derivatives(self.weighting, losses)
        if not self.rules.active:
            return weights
        return list(self.rules(torch.stack(weights), info.present).unbind())

    def _accumulate(self, batches: Sequence[Batch], info: StepInfo) -> StepFigures:
        """Exact for methods that are linear in the losses: their weights are known beforehand."""
        device = next(self.forward.model.parameters()).device
        ones = [torch.ones((), device=device, requires_grad=True) for _ in info.present]
        weights = torch.stack(
            [
                torch.zeros((), device=device) if g is None else g
                for g in torch.autograd.grad(
                    self.weighting.objective(ones), ones, allow_unused=True
                )
            ]
        ).detach()
        if self.rules.active:
            weights = self.rules(weights, info.present)
        applied = self.faded(weights)
        shares = micro_batch_shares(batches, self.forward.names, info.present)
        sums = torch.zeros(len(info.present), device=device)
        for batch, share in zip(batches, shares, strict=True):
            places = [place for place, value in enumerate(share) if value > 0]
            losses, terms = self._losses(batch, [info.present[place] for place in places])
            scaled = [applied[place] * share[place] for place in places]
            walk(losses, scaled, terms)
            for place, loss in zip(places, losses, strict=True):
                sums[place] += loss.detach() * share[place]
        means = [mean.requires_grad_() for mean in sums.unbind()]
        figures = StepFigures(info.present, [mean.detach() for mean in means], weights)
        if self.check:
            figures.nonfinite = first_nonfinite(figures.losses, info.present)
        trained = [p for p in self.weighting.parameters() if p.requires_grad]
        if trained and figures.nonfinite is None:
            objective = self.weighting.objective(means)
            for parameter, gradient in zip(
                trained, torch.autograd.grad(objective, trained, allow_unused=True), strict=True
            ):
                parameter.grad = gradient
        return figures


def walk(
    losses: Sequence[Tensor],
    weights: Sequence[Tensor],
    terms: Sequence[Tensor],
    *,
    retain_graph: bool = False,
) -> None:
    """The backward pass of losses times weights, plus terms; those of frozen parts are left out."""
    trained = [(loss, w) for loss, w in zip(losses, weights, strict=True) if loss.requires_grad]
    trained += [(term, torch.ones_like(term)) for term in terms]
    if trained:
        losses, weights = zip(*trained, strict=True)
        torch.autograd.backward(losses, weights, retain_graph=retain_graph)
