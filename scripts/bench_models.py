"""The networks, batches and optimizer steps that ``bench_weighting.py`` compares.

Two trunks that all tasks read, each with heads of two layers:

* ``cnn``: ResNet-18's layout at width 32, BatchNorm in training mode, 16 images of 64x64;
* ``mlp``: five linear layers, 128-512-512-512-512-256, dropout, 128 rows.

Learning rates are 0, so that steps of one network do not depend on those taken before.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun import build
from mtlrun.cli import config_folder
from mtlrun.config import Config
from mtlrun.engine.backward import GradientSettings
from mtlrun.engine.balanced import FromGradients
from mtlrun.engine.compatibility import resolve_place
from mtlrun.engine.rows import PlainRows, SweptRows
from mtlrun.engine.step import TrainingStep, parameter_groups
from mtlrun.models.architectures.hps import HPS
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.heads.base import Head
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.tasks.regression import Regression
from mtlrun.types import Batch, StreamBatch, TaskInfo
from mtlrun.weighting.base import GramianWeighting, Weighting

Model = Literal["cnn", "mlp"]
Way = Literal["chosen", "plain", "segments"]
Step = Callable[[int], object]

MODELS: tuple[Model, ...] = get_args(Model)
STREAM = "inputs"
LEARNING_RATE = 0.0
MOST_BATCHES = 3
EPOCH = 5
"""Epoch of the timed steps: methods that begin with equal weights are past that."""


# -- networks --------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, inputs: Tensor) -> Tensor:
        return F.relu(self.body(inputs) + self.shortcut(inputs))


def convolutional_trunk(width: int = 32) -> Backbone:
    """ResNet-18's layout for small images: 2.8M parameters at width 32."""
    stages: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    ]
    channels = [width]
    for factor in (1, 2, 4, 8):
        for stride in (1 if factor == 1 else 2, 1):
            stages.append(Residual(channels[-1], width * factor, stride))
            channels.append(width * factor)
    stages.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    channels.append(channels[-1])
    return Backbone(stages, channels, [True] * (len(stages) - 1) + [False])


def linear_trunk() -> Backbone:
    """Linear layers with dropout between them: 0.985M parameters."""
    widths = [128, 512, 512, 512, 512]
    stages: list[nn.Module] = [
        nn.Sequential(nn.Linear(size, out), nn.ReLU(), nn.Dropout(0.1))
        for size, out in pairwise(widths)
    ]
    stages.append(nn.Sequential(nn.Linear(512, 256), nn.ReLU()))
    return Backbone(stages, [*widths[1:], 256], [False] * len(stages))


class TwoLayers(Head):
    """A head of two layers with one output."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_channels, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.layers(features)
        return output


class SquaredError(Regression):
    """A task whose loss costs next to nothing: no label is missing."""

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction[:, 0], target)


@dataclass
class Problem:
    """A network, its tasks, and batches to step on."""

    model: MultiTaskModel
    tasks: dict[str, Task]
    batches: list[Batch]

    @classmethod
    def of(cls, model: Model, tasks: int, rows: int | None = None) -> "Problem":
        torch.manual_seed(0)
        trunk = convolutional_trunk() if model == "cnn" else linear_trunk()
        names = tuple(f"task{number}" for number in range(tasks))
        architecture = HPS(make_backbone=lambda _: trunk, streams={STREAM: names})
        heads = {name: TwoLayers(trunk.channels[-1]) for name in names}
        rows = rows or (16 if model == "cnn" else 128)
        shape = (rows, 3, 64, 64) if model == "cnn" else (rows, 128)
        batches: list[Batch] = [
            {
                STREAM: StreamBatch(
                    torch.randn(shape), {name: torch.randn(rows) for name in names}, names
                )
            }
            for _ in range(MOST_BATCHES)
        ]
        network = MultiTaskModel(architecture, heads).train()
        return cls(network, {name: SquaredError(name=name) for name in names}, batches)

    def again(self) -> "Problem":
        """The same layers and batches in a network of its own, which a method may add to."""
        model = MultiTaskModel(self.model.architecture, self.model.head_of)  # type: ignore[arg-type]  # they serve as heads
        return replace(self, model=model)

    def infos(self) -> list[TaskInfo]:
        """What a weighting may know of the tasks."""
        return [TaskInfo(name, "gaussian", 1.0, 1000) for name in self.tasks]

    def row_bytes(self) -> int:
        """Size of the task gradients on the shared parameters."""
        sizes = [p.numel() * p.element_size() for p in self.model.shared_parameters()]
        return len(self.tasks) * sum(sizes)

    def features_and_losses(self) -> tuple[Tensor, list[Tensor]]:
        """A forward pass by hand on the first batch."""
        architecture = self.model.architecture
        assert isinstance(architecture, HPS)
        part = self.batches[0][STREAM]
        features = architecture.backbone(part.inputs)
        heads = self.model.head_of
        losses = [t.loss(heads[n](features), part.targets[n]) for n, t in self.tasks.items()]
        return features, losses


# -- methods ---------------------------------------------------------------------------------------


class InverseNorms(GramianWeighting):
    """Weights by the inverse norms: what is timed is the engine, not a solver."""

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        del losses
        weights = gramian.diagonal().clamp(min=1e-30).rsqrt()
        return weights / weights.sum()


def methods() -> list[str]:
    """Every method, by its file below ``configs/weighting``."""
    return sorted(path.stem for path in (config_folder() / "weighting").glob("*.yaml"))


def method(name: str, problem: Problem) -> Weighting:
    """A method with the settings of its file; its adapters become part of the problem's network."""
    settings: Any = OmegaConf.to_container(
        OmegaConf.load(config_folder() / "weighting" / f"{name}.yaml")
    )
    return build.weighting(Config(weighting=settings), problem.infos(), problem.model)


# -- steps -----------------------------------------------------------------------------------------


def bare_step(problem: Problem) -> Step:
    """An ordinary loop on the sum of the losses."""
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=LEARNING_RATE)

    def run(number: int) -> None:
        del number
        optimizer.zero_grad(set_to_none=True)
        _, losses = problem.features_and_losses()
        torch.stack(losses).sum().backward()
        optimizer.step()

    return run


class EngineStep:
    """The engine's step with a weighting, past its first epochs.

    Args:
        problem: what to step on.
        weighting: the method.
        at: ``gradients.at``.
        every: ``gradients.every``.
        way: rows as the engine chooses, in full (``plain``), or by parts (``segments``).
    """

    def __init__(
        self,
        problem: Problem,
        weighting: Weighting,
        *,
        at: str = "auto",
        every: int = 1,
        way: Way = "chosen",
    ) -> None:
        self.batches = problem.batches[: getattr(weighting, "batches", 1)]
        groups = parameter_groups(problem.model, weighting, LEARNING_RATE)
        self.step = TrainingStep(
            problem.model,
            problem.tasks,
            weighting,
            torch.optim.SGD(groups, lr=LEARNING_RATE),
            seed=0,
            place=resolve_place(weighting, at, every),
            every=every,
            memory=problem.row_bytes() / 10 if way == "segments" else GradientSettings.memory,
        )
        if way == "plain":
            assert isinstance(self.step.backward, FromGradients)
            shared = problem.model.shared_parameters()
            self.step.backward.rows = PlainRows(shared, len(problem.tasks))
        weighting.start_epoch([])
        self.step(self.batches, 0, 0)
        past = [torch.linspace(0.5, 1.5, len(problem.tasks), dtype=torch.float64)]
        for epoch in range(1, EPOCH + 1):
            weighting.start_epoch(past * epoch)

    @classmethod
    def of(cls, name: str, problem: Problem, *, at: str = "auto", every: int = 1) -> "EngineStep":
        """The step of a method that is named."""
        problem = problem.again()
        return cls(problem, method(name, problem), at=at, every=every)

    @property
    def swept(self) -> bool:
        """Whether the engine is free to take the cheapest exact way."""
        return isinstance(getattr(self.step.backward, "rows", None), SweptRows)

    @property
    def failures(self) -> int:
        """Steps so far without an answer from the solver."""
        return int(getattr(self.step.backward, "failures", 0))

    def __call__(self, number: int) -> None:
        self.step(self.batches, EPOCH, number)


def torchjd_aggregators() -> dict[str, Callable[[int], Any]]:
    """For methods that torchjd has as well, under our names, how to make its own for T tasks."""
    from torchjd import aggregation as jd

    return {
        "aligned_mtl": lambda _: jd.AlignedMTL(),
        "cagrad": lambda _: jd.CAGrad(c=0.4),
        "config": lambda _: jd.ConFIG(),
        "dualproj": lambda _: jd.DualProj(),
        "excess_mtl": lambda _: jd.ExcessMTL(),
        "fairgrad": lambda _: jd.FairGrad(alpha=2.0),
        "graddrop": lambda _: jd.GradDrop(),
        "gradvac": lambda _: jd.GradVac(beta=0.01),
        "imtl_g": lambda _: jd.IMTLG(),
        "mgda": lambda _: jd.MGDA(),
        "nash_mtl": lambda tasks: jd.NashMTL(n_tasks=tasks),
        "pcgrad": lambda _: jd.PCGrad(),
        "upgrad": lambda _: jd.UPGrad(),
    }


def torchjd_step(problem: Problem, name: str, chunk: int | None = None) -> Step:
    """The same method by torchjd, on the shared parameters.

    Args:
        problem: what to step on.
        name: the method, by our name.
        chunk: ``parallel_chunk_size``; None is its default, all tasks at once.

    Raises:
        ImportError: torchjd, or a solver that it wants, is not installed.
    """
    from torchjd.autojac import jac_to_grad, mtl_backward

    tasks = len(problem.tasks)
    aggregator = torchjd_aggregators()[name](tasks)
    aggregator(torch.randn(tasks, 2 * tasks))  # missing solvers show up here
    if hasattr(aggregator, "reset"):
        aggregator.reset()
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=LEARNING_RATE)
    shared = problem.model.shared_parameters()

    def run(number: int) -> None:
        del number
        optimizer.zero_grad(set_to_none=True)
        features, losses = problem.features_and_losses()
        mtl_backward(losses, features, parallel_chunk_size=chunk)
        jac_to_grad(shared, aggregator)
        optimizer.step()

    return run
