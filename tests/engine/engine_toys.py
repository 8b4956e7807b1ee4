"""Small models, batches and weightings for the engine's tests, and plain autograd beside them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtlrun.data.base import Dataset, Source, Targets, TensorSource
from mtlrun.engine.backward import StepFigures
from mtlrun.engine.step import TrainingStep, parameter_groups
from mtlrun.models.architectures.hps import HPS
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.heads.linear import LinearHead
from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global_step
from mtlrun.tasks.base import Task
from mtlrun.tasks.classification import Classification
from mtlrun.tasks.regression import Regression
from mtlrun.types import Batch, StreamBatch, TaskInfo
from mtlrun.weighting.base import GramianWeighting, JacobianWeighting, Place, Weighting

NAMES = ("a", "b", "c")
SEED = 3
RATE = 0.1
WIDTH = 6
"""Features that the toy trunks give."""

Heads = Literal["weighted", "unweighted"]


# -- tasks, models, batches -----------------------------------------------------------------------


def toy_tasks() -> dict[str, Task]:
    """A classification of 3 classes, a squared error and a Huber loss over 2 outputs."""
    return {
        "a": Classification(name="a", classes=3),
        "b": Regression(name="b"),
        "c": Regression(name="c", outputs=2, loss="huber"),
    }


def task_infos(tasks: Mapping[str, Task]) -> list[TaskInfo]:
    return [TaskInfo(n, task.likelihood, task.initial_loss, 10) for n, task in tasks.items()]


def linear_head(task: Task, width: int = WIDTH) -> LinearHead:
    return LinearHead(in_channels=width, out_channels=task.output_size, spatial=False)


def hps_model(
    trunk: nn.Module,
    tasks: Mapping[str, Task],
    streams: Mapping[str, Sequence[str]] | None = None,
    heads: Mapping[str, nn.Module] | None = None,
) -> MultiTaskModel:
    """Hard sharing of a trunk that gives WIDTH features."""
    backbone = Backbone([trunk], [WIDTH], [False])
    architecture = HPS(make_backbone=lambda _: backbone, streams=streams or {"rows": tuple(tasks)})
    own = {name: linear_head(task) for name, task in tasks.items()}
    return MultiTaskModel(architecture, {**own, **(heads or {})})


def mlp(inputs: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, WIDTH), nn.Tanh())


def mlp_model(seed: int = 0, **options: Any) -> tuple[MultiTaskModel, dict[str, Task]]:
    torch.manual_seed(seed)
    tasks = toy_tasks()
    return hps_model(mlp(), tasks, **options), tasks


def toy_targets(rows: int, seed: int) -> Targets:
    draws = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randint(3, (rows,), generator=draws),
        "b": torch.randn(rows, generator=draws),
        "c": torch.randn(rows, 2, generator=draws),
    }


def toy_batch(
    seed: int = 0,
    rows: int = 7,
    inputs: Tensor | None = None,
    present: Sequence[str] = NAMES,
) -> Batch:
    """One stream; tasks that are not present have no label in it."""
    targets = toy_targets(rows, seed)
    if inputs is None:
        inputs = torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed + 1000))
    for name, target in targets.items():
        if name not in present:
            target.fill_(-1 if name == "a" else torch.nan)
    return {"rows": StreamBatch(inputs, targets, tuple(present))}


# -- weightings -----------------------------------------------------------------------------------


class Given(GramianWeighting):
    """Fixed weights; notes what it is shown."""

    def __init__(self, weights: Sequence[float], heads: Heads = "unweighted") -> None:
        super().__init__()
        self.heads = heads
        self.fixed = torch.tensor(weights, dtype=torch.float64)
        self.gramians: list[Tensor] = []
        self.losses: list[Tensor] = []

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        self.gramians.append(gramian.clone())
        self.losses.append(losses.clone())
        return self.pick(self.fixed)


class GivenDirection(JacobianWeighting):
    """The sum of the task gradients with fixed weights; notes what it is shown."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.fixed = torch.tensor(weights)
        self.jacobians: list[Tensor] = []

    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        self.jacobians.append(jacobian.clone())
        return self.pick(self.fixed) @ jacobian


def training_step(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    weighting: Weighting,
    place: Place | None = "parameters",
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
    **options: Any,
) -> TrainingStep:
    groups = parameter_groups(model, weighting, RATE)
    chosen = optimizer(groups, lr=RATE)  # type: ignore[call-arg]
    return TrainingStep(model, tasks, weighting, chosen, seed=SEED, place=place, **options)


def weights_of(figures: StepFigures) -> list[float]:
    assert figures.weights is not None
    return [float(weight) for weight in figures.weights]


# -- plain autograd -------------------------------------------------------------------------------


@dataclass
class Plain:
    """Per-task gradients by plain autograd.

    Attributes:
        names: the parameters' names.
        losses: for each present task its loss.
        gradients: for each present task, for each parameter its gradient, None if not reached.
        cotangents: for each present task its gradient on the features (of the last micro-batch).
    """

    names: list[str]
    losses: dict[str, Tensor]
    gradients: dict[str, dict[str, Tensor | None]]
    cotangents: dict[str, Tensor]

    def row(self, task: str, names: Sequence[str]) -> Tensor:
        """The task's gradient on the parameters named, zero where it does not reach."""
        one = next(g for row in self.gradients.values() for g in row.values() if g is not None)
        parts = []
        for name in names:
            gradient = self.gradients[task][name]
            size = next(
                (row[name].numel() for row in self.gradients.values() if row[name] is not None), 0
            )
            parts.append(one.new_zeros(size) if gradient is None else gradient.reshape(-1))
        return torch.cat(parts).double()

    def jacobian(self, names: Sequence[str]) -> Tensor:
        return torch.stack([self.row(task, names) for task in self.gradients])

    def gramian(self, names: Sequence[str]) -> Tensor:
        jacobian = self.jacobian(names)
        return jacobian @ jacobian.T

    def combined(self, weights: Mapping[str, float], name: str) -> Tensor | None:
        """The weighted sum of the task gradients on one parameter."""
        parts = [
            w * self.gradients[task][name] for task, w in weights.items() if self._has(task, name)
        ]
        return sum(parts[1:], parts[0]) if parts else None

    def _has(self, task: str, name: str) -> bool:
        return self.gradients[task][name] is not None


def in_double(batch: Batch) -> Batch:
    def wide(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    return {
        stream: StreamBatch(
            wide(part.inputs), {t: wide(v) for t, v in part.targets.items()}, part.present
        )
        for stream, part in batch.items()
    }


def plain_gradients(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    batches: Sequence[Batch],
    *,
    double: bool = True,
    epoch: int = 0,
    step: int = 0,
) -> Plain:
    """Per-task gradients of the mean over micro-batches of the losses, on a copy of the model.

    The copy is float64, or float32 with the step's own dropout masks.
    """
    model = copy.deepcopy(model)
    if double:
        model, batches = model.double(), [in_double(batch) for batch in batches]
    seed_global_step(SEED, "dropout", epoch, step)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parts: dict[str, list[tuple[Tensor, list[Tensor | None]]]] = {}
    cotangents = {}
    for batch in batches:
        present = [t for t in tasks if any(t in part.present for part in batch.values())]
        inputs = {stream: part.inputs for stream, part in batch.items()}
        features = model.architecture(inputs, present)
        for task in present:
            target = batch[model.architecture.stream_of[task]].targets[task]
            loss = tasks[task].loss(model.head_of[task](features[task]), target)
            *gradients, cotangent = torch.autograd.grad(
                loss, [*trained.values(), features[task]], retain_graph=True, allow_unused=True
            )
            parts.setdefault(task, []).append((loss.detach(), gradients))
            cotangents[task] = cotangent
    order = [task for task in tasks if task in parts]
    return Plain(
        list(trained),
        {task: torch.stack([loss for loss, _ in parts[task]]).mean() for task in order},
        {task: _mean_gradients(list(trained), [g for _, g in parts[task]]) for task in order},
        cotangents,
    )


def _mean_gradients(
    names: Sequence[str], micro_batches: Sequence[Sequence[Tensor | None]]
) -> dict[str, Tensor | None]:
    means: dict[str, Tensor | None] = {}
    for place, name in enumerate(names):
        found = [row[place] for row in micro_batches if row[place] is not None]
        means[name] = sum(found[1:], found[0]) / len(micro_batches) if found else None
    return means


def names_of(model: nn.Module, parameters: Sequence[nn.Parameter]) -> list[str]:
    by_id = {id(p): name for name, p in model.named_parameters()}
    return [by_id[id(parameter)] for parameter in parameters]


def gradients_of(model: nn.Module) -> dict[str, Tensor | None]:
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


# -- comparisons ----------------------------------------------------------------------------------


def assert_near(actual: Tensor | None, expected: Tensor | None, relative: float = 1e-5) -> None:
    """The distance is at most ``relative`` of the expected tensor's norm."""
    if expected is None or actual is None:
        assert actual is None, "expected None"
        assert expected is None, "expected a tensor"
        return
    assert actual.shape == expected.shape
    distance = (actual.double() - expected.double()).norm()
    assert distance <= relative * expected.double().norm(), f"{distance} of {expected.norm()}"


def assert_gramian(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Every entry is right relative to the norms of its two gradients."""
    assert actual.dtype == torch.float64
    norms = expected.diagonal().sqrt()
    scale = torch.outer(norms, norms).clamp(min=1e-300)
    assert ((actual - expected) / scale).abs().max() <= relative
    assert ((actual - actual.T) / scale).abs().max() <= 1e-6


# -- datasets -------------------------------------------------------------------------------------


class Toy(Dataset):
    """A dataset of given sources; adds a draw to the inputs where it trains, if asked to."""

    def __init__(
        self,
        splits: Mapping[str, Mapping[str, Source]],
        streams: Mapping[str, Sequence[str]],
        noise: bool = False,
    ) -> None:
        self.splits = {split: dict(sources) for split, sources in splits.items()}
        self.streams = {stream: tuple(tasks) for stream, tasks in streams.items()}
        self.input_shape = dict.fromkeys(streams, (1,))
        self.facts = {}
        self.noise = noise

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        if draws is not None and self.noise:
            inputs = inputs + torch.rand(inputs.shape, generator=draws)
        return inputs, targets


def numbered(rows: int, tasks: Sequence[str], **labelled: Tensor) -> TensorSource:
    """Rows whose input is their number, and whose target is ten times that."""
    numbers = torch.arange(rows, dtype=torch.float32)
    targets = dict.fromkeys(tasks, numbers * 10)
    for task, mask in labelled.items():
        targets[task] = torch.where(mask, targets[task], torch.nan)
    return TensorSource(numbers.unsqueeze(1), targets)
