"""One optimizer step: what a weighting declares, the engine obeys."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mtlrun.engine.adapters import LossesAsGramian
from mtlrun.engine.annealing import Annealing
from mtlrun.engine.backward import Backward, Forward, FromLosses, GradientSettings, StepFigures
from mtlrun.engine.balanced import FromGradients
from mtlrun.engine.distillation import Distillation
from mtlrun.engine.rules import Rescale
from mtlrun.engine.several import FromBatches
from mtlrun.engine.shares import first_nonfinite, labelled
from mtlrun.engine.watching import Watcher
from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global_step
from mtlrun.tasks.base import Task
from mtlrun.types import Batch, StepInfo
from mtlrun.weighting.base import (
    GramianWeighting,
    JacobianWeighting,
    LossWeighting,
    Place,
    Weighting,
)


def parameter_groups(
    model: MultiTaskModel,
    weighting: Weighting,
    learning_rate: float,
    beside: Iterable[nn.Parameter] = (),
) -> list[dict[str, object]]:
    """The optimizer's parameter groups: the network, and the weighting's own parameters.

    Parts of the network whose architecture wants another rate have groups of their own, behind the
    first, to which belongs what is trained beside the network (adaptors to features of teachers).
    The weighting's are never decayed; their learning rate is its own where it has one.
    """
    faster = [
        ([p for p in parameters if p.requires_grad], factor)
        for parameters, factor in model.architecture.learning_rates()
        if factor != 1
    ]
    apart = {id(parameter) for parameters, _ in faster for parameter in parameters}
    plain = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
    groups: list[dict[str, object]] = [
        {"params": [*plain, *beside]},
        *({"params": found, "lr": learning_rate * factor} for found, factor in faster if found),
    ]
    own = [parameter for parameter in weighting.parameters() if parameter.requires_grad]
    if own:
        rate = weighting.learning_rate
        rate = learning_rate if rate is None else rate
        groups.append({"params": own, "lr": rate, "weight_decay": 0.0})
    return groups


def make_backward(
    forward: Forward,
    weighting: Weighting,
    settings: GradientSettings,
    *,
    check: bool,
    accumulating: bool,
) -> Backward:
    """The way to ``.grad`` for the kind of method."""
    if isinstance(weighting, LossWeighting):
        if settings.rescale != "norm":
            return FromLosses(forward, weighting, settings, check=check)
        weighting = LossesAsGramian(weighting)  # the norm is that of task gradients
        settings = replace(settings, place="parameters")
    assert isinstance(weighting, (GramianWeighting, JacobianWeighting))
    several = isinstance(weighting, GramianWeighting) and weighting.batches > 1
    kind = FromBatches if several else FromGradients
    return kind(forward, weighting, settings, check=check, accumulating=accumulating)


class TrainingStep:
    """Runs optimizer steps.

    Args:
        model: the network.
        tasks: for each task its :class:`~mtlrun.tasks.base.Task`.
        weighting: the method.
        optimizer: over the groups of :func:`parameter_groups`.
        seed: the run's seed.
        place: where task gradients are taken; None for methods that see losses only.
        every: steps between two refreshes of the weights.
        smoothing: of the weights, see :class:`~mtlrun.engine.rules.WeightRules`.
        rescale: of the weights, likewise.
        memory: bytes that rows of task gradients may take before they are formed in parts.
        amp: whether the network runs under bfloat16 autocast.
        accumulate: micro-batches of a step.
        clip_norm: largest norm of the gradient; for independent networks, of each one's.
        check: whether non-finite losses are noticed before the update.
        compiled: whether the architecture and the heads go through ``torch.compile``.
        distillation: teachers of the network, or None.
        annealing: what is left of auxiliary tasks, or None where all stay.

    Attributes:
        watchers: look at each step between its backward pass and the update.
        held: parameters that no step trains, whatever reaches them: those of tasks that have left.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, Task],
        weighting: Weighting,
        optimizer: Optimizer,
        *,
        seed: int,
        place: Place | None = None,
        every: int = 1,
        smoothing: float = 0.0,
        rescale: Rescale = "none",
        memory: float = GradientSettings.memory,
        amp: bool = False,
        accumulate: int = 1,
        clip_norm: float | None = None,
        check: bool = True,
        compiled: bool = False,
        distillation: Distillation | None = None,
        annealing: Annealing | None = None,
    ) -> None:
        self.model = model
        self.names = tuple(tasks)
        self.weighting = weighting
        self.optimizer = optimizer
        self.seed = seed
        self.clip_norm = clip_norm
        self.distillation = distillation
        self.annealing = annealing
        self.backward = make_backward(
            Forward(model, tasks, amp, compiled, distillation),
            weighting,
            GradientSettings(place, every, smoothing, rescale, memory),
            check=check,
            accumulating=accumulate > 1,
        )
        self.watchers: list[Watcher] = []
        self.held: Sequence[nn.Parameter] = ()
        self._looks_ahead = isinstance(weighting, GramianWeighting) and weighting.lookahead
        self._indices: dict[tuple[tuple[str, ...], ...], tuple[int, ...]] = {}
        self._clip_groups = self._independent_parameters() if clip_norm is not None else []

    def _independent_parameters(self) -> list[list[nn.Parameter]]:
        beside = self.backward.forward.adaptor_parameters
        if self.model.shared_parameters() or self.model.architecture.terms:
            return [[*self.model.parameters(), *(p for name in self.names for p in beside(name))]]
        return [
            [p for task in group for p in (*self.model.own_parameters(task), *beside(task))]
            for group in self.model.independent_groups()
        ]

    def _labelled(self, batch: Batch) -> tuple[int, ...]:
        """Indices of a batch's tasks. Nearly all batches have the same: so they are looked up."""
        key = tuple(part.present for part in batch.values())
        indices = self._indices.get(key)
        if indices is None:
            indices = self._indices[key] = labelled(batch, self.names)
        return indices

    def __call__(self, batches: Sequence[Batch], epoch: int, step: int) -> StepFigures:
        """One optimizer step on one or more micro-batches.

        Args:
            batches: the micro-batches.
            epoch: counted from 0.
            step: steps done before, over the whole run.
        """
        found = [self._labelled(batch) for batch in batches]
        batches = [batch for batch, tasks in zip(batches, found, strict=True) if tasks]
        if not batches:
            return StepFigures((), [])
        present = found[0] if len(found) == 1 else tuple(sorted(set().union(*found)))
        rate = float(self.optimizer.param_groups[0]["lr"])
        info = StepInfo(self.seed, epoch, step, present, rate)
        if self.distillation is not None:
            self.distillation.begin_step(batches, step)
        seed_global_step(self.seed, "dropout", epoch, step)
        self.weighting.begin_step(info)
        self.model.architecture.start_step(epoch, step)
        self.optimizer.zero_grad(set_to_none=True)
        for watcher in self.watchers:
            watcher.begin(info)
        self.backward.shows = any(watcher.wants_gradients(info) for watcher in self.watchers)
        left: dict[str, float] = {}
        if self.annealing is not None:
            factors = self.backward.factors = self.annealing.factors(present, step)
            left = {self.names[at]: factor for at, factor in zip(present, factors, strict=True)}
        self.backward.terms.start(1 if self._looks_ahead else len(batches), left)
        figures = self.backward(batches, info)
        if left and figures.weights is not None:  # those that apply
            figures.weights = self.backward.faded(torch.stack(list(figures.weights)))
        self._finish_terms(figures)
        if figures.nonfinite is not None:
            self.optimizer.zero_grad(set_to_none=True)
            figures.shared = None
            return figures
        self._keep_only()
        for watcher in self.watchers if figures.present else ():
            watcher.look(batches, info, figures)
        figures.shared = None  # figures are kept until they are read back
        for parameters in self._clip_groups:
            assert self.clip_norm is not None
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        if not figures.present:
            return figures
        self.optimizer.step()
        self.weighting.after_step()
        if isinstance(self.weighting, LossWeighting) and self.weighting.reevaluates:
            self.weighting.reevaluated(self._losses_again(batches, info))
        return figures

    def _finish_terms(self, figures: StepFigures) -> None:
        """The architecture's auxiliary losses: checked, shown, and added to ``.grad``."""
        terms = self.backward.terms
        figures.terms = terms.values
        if not figures.terms or figures.nonfinite is not None:
            return
        if self.backward.check:
            values = list(figures.terms.values())
            numbers = [len(self.names) + list(terms.weights).index(name) for name in figures.terms]
            figures.nonfinite = first_nonfinite(values, numbers)
        if figures.nonfinite is None:
            terms.add()

    def _keep_only(self) -> None:
        """Drop the gradients of what this step does not train."""
        for parameter in self.held:
            parameter.grad = None
        only = self.model.architecture.only()
        if only is None:
            return
        wanted = {id(parameter) for parameter in only}
        for parameter in self.model.parameters():
            if id(parameter) not in wanted:
                parameter.grad = None
        for name in self.names:  # adaptors train with their task's head
            if not any(id(p) in wanted for p in self.model.head_of[name].parameters()):
                for parameter in self.backward.forward.adaptor_parameters(name):
                    parameter.grad = None

    def _losses_again(self, batches: Sequence[Batch], info: StepInfo) -> Tensor:
        """Losses of the step's batches after it, with its dropout masks."""
        forward = self.backward.forward
        with torch.no_grad(), forward.kept_buffers():
            return torch.stack(forward.step_losses(batches, info))
