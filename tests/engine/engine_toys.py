"""Small models, batches, weightings and datasets for the engine's tests."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtlrun.data.base import Dataset, Source, Targets, TensorSource
from mtlrun.engine.backward import StepFigures
from mtlrun.engine.step import TrainingStep, parameter_groups
from mtlrun.models.architectures.base import Architecture
from mtlrun.models.architectures.hps import HPS
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.heads.linear import LinearHead
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.tasks.classification import Classification
from mtlrun.tasks.regression import Regression
from mtlrun.types import Batch, Layout, StreamBatch, TaskInfo
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
    return LinearHead(in_channels=width, out_channels=task.output_size, layout="vector")


def hps_model(
    trunk: nn.Module,
    tasks: Mapping[str, Task],
    streams: Mapping[str, Sequence[str]] | None = None,
    heads: Mapping[str, nn.Module] | None = None,
) -> MultiTaskModel:
    """Hard sharing of a trunk that gives WIDTH features."""
    backbone = Backbone([trunk], [WIDTH], ["vector"])
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


class Branched(Architecture):
    """A shared layer, a layer of each task, and a second shared layer on top of it."""

    def __init__(self) -> None:
        super().__init__(streams={"rows": NAMES})
        self.below = nn.Linear(5, 8)
        self.middle = nn.ModuleList(nn.Linear(8, 8) for _ in NAMES)
        self.above = nn.Linear(8, WIDTH)

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        below = torch.tanh(self.below(inputs["rows"]))
        branches = {task: self.middle[NAMES.index(task)](below) for task in tasks}
        return {task: self.above(torch.tanh(hidden)) for task, hidden in branches.items()}

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.below.parameters(), *self.above.parameters()]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        return list(self.middle[NAMES.index(task)].parameters())

    def last_shared_layer(self) -> list[nn.Parameter]:
        return [self.above.weight]

    def out_channels(self, task: str) -> int:
        return WIDTH

    def layout(self, task: str) -> Layout:
        return "vector"


def branched_model() -> tuple[MultiTaskModel, dict[str, Task]]:
    torch.manual_seed(0)
    tasks = toy_tasks()
    heads = {name: linear_head(task) for name, task in tasks.items()}
    return MultiTaskModel(Branched(), heads), tasks


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


WEIGHTS = {"a": 0.5, "b": 2.0, "c": -0.75}


def given(heads: Heads = "unweighted") -> Given:
    return Given(list(WEIGHTS.values()), heads)


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
