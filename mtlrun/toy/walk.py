"""Walking on the toy's losses: the real engine's steps on a network that is a point."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from mtlrun.engine.compatibility import resolve_place
from mtlrun.engine.step import TrainingStep, parameter_groups
from mtlrun.errors import UserError
from mtlrun.models.architectures.hps import HPS
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.heads.base import Head
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Metric, Statistics, Task
from mtlrun.toy.problem import SIDES, Floats, Problem, loss_and_slopes
from mtlrun.types import StreamBatch, TaskInfo
from mtlrun.weighting.base import Weighting

TASKS = ("loss_1", "loss_2")
INFOS = tuple(TaskInfo(name, "gaussian", None, 1) for name in TASKS)
"""What a weighting may know of the two tasks."""

STEPS_PER_EPOCH = 50
"""For methods that change their weights from epoch to epoch."""


@dataclass(frozen=True)
class Walker:
    """How a point walks: Adam's settings.

    Attributes:
        steps: of one walk.
        learning_rate: of Adam.
        betas: of Adam.
        record_every: steps between two points that are kept, beside the first and the last one.
        seed: of methods that draw.
    """

    steps: int
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    record_every: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Walk:
    """A method's path from one start.

    Attributes:
        steps: steps done at each point that was kept, [K], from 0.
        points: [K, 2].
        losses: there, [K, 2].
        stopped: why it ended before its time; empty where it did not.
        remarks: what the engine had to say of single steps, such as a solver without an answer.
    """

    steps: list[int]
    points: Floats
    losses: Floats
    stopped: str
    remarks: list[str]

    @property
    def start(self) -> tuple[float, float]:
        """The first point."""
        return float(self.points[0, 0]), float(self.points[0, 1])

    @property
    def end(self) -> tuple[float, float]:
        """The last point."""
        return float(self.points[-1, 0]), float(self.points[-1, 1])


# -- a network that is a point ---------------------------------------------------------------------


class Point(nn.Module):
    """A backbone's stage that gives its only parameter, [1, 2], whatever it is shown."""

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.tensor([list(start)], dtype=torch.float32))

    def forward(self, inputs: Tensor) -> Tensor:
        """The point."""
        del inputs
        return self.position.view(1, 2)


class Same(Head):
    """Gives the features as they are."""

    def forward(self, features: Tensor) -> Tensor:
        """The features."""
        return features


class ToyLoss(Task):
    """One of the toy's losses as a task: its prediction is the point.

    Args:
        name: the task's name.
        side: -1 for the first loss, 1 for the second.
        factor: of the loss.
    """

    metrics: Mapping[str, Metric] = {"loss": Metric(higher_is_better=False, optimum=-20.0)}
    output_size = 2
    likelihood = "gaussian"

    def __init__(self, *, name: str, side: float, factor: float) -> None:
        super().__init__(name=name)
        self.side = side
        self.factor = factor

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of the point, [1, 2]; there is nothing to compare it with."""
        del target
        applied: Any = _Loss.apply  # torch gives it no types
        loss: Tensor = applied(prediction, self.side, self.factor)
        return loss

    def labelled(self, target: Tensor) -> Tensor:
        """Always."""
        return torch.ones(len(target), dtype=torch.bool, device=target.device)

    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """The loss."""
        return {"loss": self.loss(prediction, target).double()}

    def compute(self, statistics: Statistics) -> dict[str, float]:
        """The loss."""
        return {"loss": statistics["loss"].item()}


class _Loss(torch.autograd.Function):
    """A loss with its derivative in closed form: three times as fast as some forty small operators,
    which would take nine tenths of a step."""

    @staticmethod
    def forward(ctx: Any, point: Tensor, side: float, factor: float) -> Tensor:
        loss, by_x, by_y = loss_and_slopes(side, *point[0].tolist())
        ctx.gradient = point.new_tensor([[factor * by_x, factor * by_y]])
        return point.new_tensor(factor * loss)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        return outer[0] * ctx.gradient, None, None


def point_model(start: Sequence[float]) -> MultiTaskModel:
    """The network: hard sharing of a point."""
    backbone = Backbone([Point(start)], [2], ["vector"])
    architecture = HPS(make_backbone=lambda _: backbone, streams={"toy": TASKS})
    return MultiTaskModel(architecture, {name: Same() for name in TASKS})


def toy_tasks(problem: Problem) -> dict[str, Task]:
    """The two losses as tasks."""
    return {
        name: ToyLoss(name=name, side=side, factor=factor)
        for name, side, factor in zip(TASKS, SIDES, problem.factors, strict=True)
    }


# -- walking ---------------------------------------------------------------------------------------


def walk(
    problem: Problem, make: Callable[[], Weighting], start: Sequence[float], walker: Walker
) -> Walk:
    """One walk by a method.

    It stops early, and says why, where a loss, a gradient or the point itself is not finite, and
    where the method refuses to go on.

    Args:
        problem: the two losses.
        make: makes the method, as new.
        start: the first point.
        walker: how.
    """
    weighting = make()
    model = point_model(start)
    groups = parameter_groups(model, weighting, walker.learning_rate)
    optimizer = Adam(groups, lr=walker.learning_rate, betas=walker.betas)
    step = TrainingStep(
        model,
        toy_tasks(problem),
        weighting,
        optimizer,
        seed=walker.seed,
        place=resolve_place(weighting, "auto", 1),
    )
    nothing = torch.zeros(1, 1)
    batch = {"toy": StreamBatch(nothing, dict.fromkeys(TASKS, nothing), TASKS)}
    # There are no batches to draw: methods that want several independent ones get equal ones.
    batches = [batch] * weighting.batches

    (position,) = model.architecture.shared_parameters()
    seen, remarks, stopped = {0: position[0].tolist()}, [], ""
    last = seen[0]
    epochs = _Epochs(weighting)
    done = 0
    while done < walker.steps:
        try:
            epochs.before(done)
            figures = step(batches, done // STEPS_PER_EPOCH, done)
        except UserError as error:
            stopped = str(error)
            break
        point = position[0].tolist()
        if figures.nonfinite is not None or not all(map(math.isfinite, point)):
            stopped = "a loss, a gradient or a weight was not finite"
            break
        epochs.after(figures.losses)
        if figures.remark:
            remarks.append(figures.remark)
        done, last = done + 1, point
        if done % walker.record_every == 0:
            seen[done] = point
    seen[done] = last
    points = np.array(list(seen.values()))
    return Walk(list(seen), points, problem.losses(points), stopped, remarks)


class _Epochs:
    """Tells a method the mean losses of its epochs."""

    def __init__(self, weighting: Weighting) -> None:
        self.weighting = weighting
        self.means: list[Tensor] = []
        self._total = torch.zeros(len(TASKS), dtype=torch.float64)

    def before(self, done: int) -> None:
        """A step begins, after so many."""
        if done % STEPS_PER_EPOCH == 0:
            if done:
                self.means.append(self._total / STEPS_PER_EPOCH)
                self._total = torch.zeros_like(self._total)
            self.weighting.start_epoch(self.means)

    def after(self, losses: Sequence[Tensor]) -> None:
        """A step had these losses."""
        self._total += torch.stack(list(losses)).double()
