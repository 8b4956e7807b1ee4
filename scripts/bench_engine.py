"""How much the engine costs over hand-written PyTorch of the same meaning.

Ratios of medians, measured side by side in one process, on one and two threads:

    python scripts/bench_engine.py [--rounds 15] [--threads 1 2]

The NYUv2 cases read image folders below $MTLRUN_DATA (nyuv2_160x120), the MultiMNIST case mnist.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_measure import Stopwatch, over
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mtlrun import build
from mtlrun.cli import config_folder
from mtlrun.config import Config, register
from mtlrun.data.base import Dataset
from mtlrun.engine.compatibility import resolve_place
from mtlrun.engine.ledger import Ledger
from mtlrun.engine.loader import Placement, TrainLoader
from mtlrun.engine.step import TrainingStep
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.types import Batch, TaskInfo
from mtlrun.weighting.base import GramianWeighting, Weighting

Step = Callable[[int], object]
LOG_EVERY = 20


def configured(*overrides: str) -> Config:
    """A typed configuration from overrides, as the command composes it."""
    register()
    OmegaConf.register_new_resolver("run_folder", lambda: "", replace=True)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides=list(overrides)))
    assert isinstance(config, Config)
    return config


@dataclass
class Case:
    """A model and its batches, from which steps of both kinds are made."""

    overrides: tuple[str, ...]
    config: Config
    dataset: Dataset
    tasks: dict[str, Task]
    model: MultiTaskModel
    batches: list[list[Batch]]

    @classmethod
    def of(cls, *overrides: str, batches: int) -> "Case":
        config = configured(*overrides)
        dataset, tasks = build.dataset_and_tasks(config)
        model = build.model(config, dataset, tasks)
        loader = train_loader(config, dataset, tasks)
        held = [batch for batch, _ in zip(loader.epoch(0, 0), range(batches), strict=False)]
        return cls(overrides, config, dataset, tasks, model, held)

    def infos(self) -> list[TaskInfo]:
        """What a weighting may know of the tasks."""
        return build.task_infos(self.dataset, self.tasks)

    def engine_step(self, *overrides: str, weighting: Weighting | None = None) -> Step:
        """The engine's step, with what it notes for the files."""
        config = configured(*self.overrides, *overrides)
        model = deepcopy(self.model)
        if weighting is None:
            weighting = build.weighting(config, self.infos(), model)
        step = TrainingStep(
            model,
            self.tasks,
            weighting,
            build.optimizer(config, model, weighting),
            seed=0,
            place=resolve_place(weighting, config.gradients.at, config.gradients.every),
        )
        ledger = Ledger(tuple(self.tasks))
        model.train()

        def run(number: int) -> None:
            figures = step(self.batches[number % len(self.batches)], 0, number)
            ledger.add(number + 1, figures)
            if (number + 1) % LOG_EVERY == 0:
                ledger.rows(number + 1, 1)

        return run

    def by_hand(self) -> tuple[MultiTaskModel, list[nn.Parameter], torch.optim.Optimizer]:
        """A copy of the model, its trunk's parameters, and the same optimizer."""
        model = deepcopy(self.model).train()
        optimizer = build.optimizer(self.config, model, build.weighting(self.config, [], model))
        return model, list(model.architecture.parameters()), optimizer

    def plain_step(self) -> Step:
        """A hand-written step: predictions, sum of losses, backward, optimizer."""
        model, _, optimizer = self.by_hand()
        backbone, heads, tasks = model.architecture.backbone, model.head_of, self.tasks

        def run(number: int) -> None:
            (part,) = self.batches[number % len(self.batches)][0].values()
            features = backbone(part.inputs)
            losses = [t.loss(heads[n](features), part.targets[n]) for n, t in tasks.items()]
            optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            optimizer.step()
            if (number + 1) % LOG_EVERY == 0:
                torch.stack([loss.detach() for loss in losses]).tolist()

        return run

    def task_gradient_step(self) -> Step:
        """By hand: heads once, T trunk passes into a kept buffer, G, the mean of the rows."""
        model, trunk, optimizer = self.by_hand()
        backbone, heads, tasks = model.architecture.backbone, model.head_of, self.tasks
        sizes = [p.numel() for p in trunk]
        rows = torch.zeros(len(tasks), sum(sizes))
        cells = [[c.view_as(p) for c, p in zip(r.split(sizes), trunk, strict=True)] for r in rows]
        update = torch.zeros(sum(sizes))
        updates = [c.view_as(p) for c, p in zip(update.split(sizes), trunk, strict=True)]
        weights = torch.ones(len(tasks))

        def run(number: int) -> None:
            (part,) = self.batches[number % len(self.batches)][0].values()
            features = backbone(part.inputs)
            leaf = features.detach().requires_grad_()
            optimizer.zero_grad(set_to_none=True)
            losses = [t.loss(heads[n](leaf), part.targets[n]) for n, t in tasks.items()]
            deltas = []
            for name, loss in zip(tasks, losses, strict=True):
                own = list(heads[name].parameters())
                delta, *gradients = torch.autograd.grad(loss, [leaf, *own])
                for parameter, gradient in zip(own, gradients, strict=True):
                    parameter.grad = gradient
                deltas.append(delta)
            for row, delta in enumerate(deltas):
                last = row + 1 == len(deltas)
                gradients = torch.autograd.grad(features, trunk, delta, retain_graph=not last)
                torch._foreach_copy_(cells[row], list(gradients))
            inner = torch.zeros(len(tasks), len(tasks), dtype=torch.float64)
            for block in rows.split(65_536, dim=1):
                inner += (block @ block.T).double()
            update.copy_(weights @ rows)
            for parameter, gradient in zip(trunk, updates, strict=True):
                parameter.grad = gradient
            optimizer.step()

        return run


class Ones(GramianWeighting):
    """Takes G and answers ones: what is left is the engine's own cost."""

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        del gramian
        return torch.ones_like(losses)


def train_loader(config: Config, dataset: Dataset, tasks: Mapping[str, Task]) -> TrainLoader:
    """The engine's loader for a configuration."""
    return TrainLoader(
        dataset,
        tasks,
        build.sampler(config, dataset, build.task_infos(dataset, tasks)),
        accumulate=1,
        seed=0,
        placement=Placement(torch.device("cpu")),
    )


def ratios(first: Step, second: Step, rounds: int, steps: int) -> list[float]:
    """Time of ``first`` by that of ``second``, in turn, a ratio a round; the order alternates."""
    times = Stopwatch("wall", rounds).seconds({"first": first, "second": second}, steps)
    return over(times["first"], times["second"])


class PerSample(TorchDataset[tuple[Tensor, Tensor, Tensor]]):
    """Rows one by one, as most training scripts read them."""

    def __init__(self, dataset: Dataset) -> None:
        (self.stream,) = dataset.streams
        self.source = dataset.splits["train"][self.stream]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image = (self.source.inputs[index].float() / 255 - 0.1307) / 0.3081
        return image, self.source.targets["left"][index], self.source.targets["right"][index]


def epochs(rounds: int) -> list[float]:
    """An epoch of MultiMNIST by the usual DataLoader loop, by the engine's time for the same."""
    config = configured("dataset=multimnist", f"dataset.root={data_root() / 'mnist'}")
    dataset, tasks = build.dataset_and_tasks(config)
    case = Case(
        ("dataset=multimnist", f"dataset.root={data_root() / 'mnist'}"),
        config,
        dataset,
        tasks,
        build.model(config, dataset, tasks),
        [],
    )
    loader = train_loader(config, dataset, tasks)
    usual = DataLoader(PerSample(dataset), config.batch_size, shuffle=True, drop_last=True)
    (stream,) = dataset.streams
    found = []
    for _ in range(rounds):
        model, _, optimizer = case.by_hand()
        began = time.perf_counter()
        for image, left, right in usual:
            predictions = model({stream: image}, model.tasks)
            loss = tasks["left"].loss(predictions["left"], left)
            loss = loss + tasks["right"].loss(predictions["right"], right)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        by_hand = time.perf_counter() - began
        step = case.engine_step()
        began = time.perf_counter()
        for number, batch in enumerate(loader.epoch(0, 0)):
            case.batches = [batch]
            step(number)
        found.append(by_hand / (time.perf_counter() - began))
    return found


def data_root() -> Path:
    """Where the real data is."""
    return Path(os.environ.get("MTLRUN_DATA", "data"))


def measure(threads: int, rounds: int) -> list[tuple[str, list[float]]]:
    """All cases on so many threads."""
    torch.set_num_threads(threads)
    digits = Case.of("dataset=digits", batches=16)
    frames = Case.of(
        "dataset=nyuv2",
        f"dataset.root={data_root() / 'nyuv2_160x120'}",
        "dataset.size=[120,160]",
        "backbone=resnet18",
        "heads=conv",
        "batch_size=8",
        batches=4,
    )
    rows: list[tuple[str, list[float]]] = []
    for name, case, steps, count in (
        ("MLP on digits", digits, 100, rounds),
        ("ResNet-18 on NYUv2 120x160", frames, 2, max(5, rounds // 2)),
    ):
        plain, equal = case.plain_step(), case.engine_step("weighting=equal")
        rows.append((f"{name}: equal / by hand", ratios(equal, plain, count, steps)))
        engine = case.engine_step(weighting=Ones())
        by_hand = case.task_gradient_step()
        rows.append(
            (f"{name}: task gradients, T=3 / by hand", ratios(engine, by_hand, count, steps))
        )
        rows.append((f"{name}: task gradients, T=3 / equal", ratios(engine, equal, count, steps)))
        for method in ("static", "dwa", "uncertainty"):
            other = case.engine_step(f"weighting={method}")
            rows.append((f"{name}: {method} / equal", ratios(other, equal, count, steps)))
    rows.append(("MultiMNIST epoch: DataLoader by hand / mtlrun", epochs(3)))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    settings = parser.parse_args(arguments)
    table = Table("case", title="engine against hand-written loops: ratios")
    for threads in settings.threads:
        table.add_column(f"{threads} thread(s): median [quartiles]", justify="right")
    columns = [measure(threads, settings.rounds) for threads in settings.threads]
    for cells in zip(*columns, strict=True):
        shown = []
        for _, found in cells:
            low, high = np.quantile(found, [0.25, 0.75])
            shown.append(f"{statistics.median(found):.3f} [{low:.3f}, {high:.3f}]")
        table.add_row(cells[0][0], *shown)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
