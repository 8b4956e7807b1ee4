"""How fast batches come, and how much of a training step waits for them.

Rows a second of the loader against a plain ``DataLoader`` over the same rows, with a
``__getitem__`` a row, its transforms row by row and the default collate; side by side:

    python scripts/bench_data.py [--rounds 9] [--threads 1] [--only digits multimnist ...]

Reads below $MTLRUN_DATA: mnist, nyuv2_160x120, fdu_mtl, census_income. Datasets that are prepared
or tokenised once are so before anything is timed. The last column is the time to get a batch over
the time of a whole training step with the recipe's network (NYUv2: ResNet-18 at output stride 8).
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from bench_engine import configured, train_loader
from bench_measure import Stopwatch, over
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mtlrun import build
from mtlrun.config import Config
from mtlrun.data.base import Dataset
from mtlrun.engine.loader import TrainLoader
from mtlrun.engine.step import TrainingStep
from mtlrun.randomness import generator
from mtlrun.tasks.base import Task
from mtlrun.types import Batch

CASES = {
    "digits": ("dataset=digits",),
    "multimnist": ("dataset=multimnist",),
    "nyuv2": (
        "dataset=nyuv2",
        "dataset.size=[120,160]",
        "backbone=resnet18",
        "backbone.output_stride=8",
        "heads=conv",
    ),
    "fdu_mtl": ("dataset=fdu_mtl", "sampler=joint"),
    "census_income": ("dataset=census_income",),
}
FOLDERS = {"nyuv2": "nyuv2_160x120"}

Sample = tuple[Tensor, dict[str, Tensor]]


class PerSample(TorchDataset[Sample]):
    """Rows of a stream one by one, transformed one by one; ragged ones padded to the longest."""

    def __init__(self, dataset: Dataset, stream: str) -> None:
        self.dataset = dataset
        self.stream = stream
        self.source = dataset.splits["train"][stream]
        lengths = self.source.lengths
        self.longest = None if lengths is None else int(lengths.max())

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        inputs, targets = self.source.rows(torch.tensor([index]))
        draws = generator(0, "augment", index)
        inputs, targets = self.dataset.transform(self.stream, inputs, targets, draws)
        if self.longest is not None:
            inputs = F.pad(inputs, (0, self.longest - inputs.shape[1]))
        return inputs[0], {name: target[0] for name, target in targets.items()}


def endless(loader: TrainLoader) -> Iterator[list[Batch]]:
    """Steps of epoch after epoch."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch, 0)
        epoch += 1


def plain(dataset: Dataset, batch_size: int) -> Iterator[list[Sample]]:
    """A batch of each stream, again and again."""
    loaders = [
        DataLoader(PerSample(dataset, stream), batch_size, shuffle=True, drop_last=True)
        for stream in dataset.streams
    ]
    streams = [iter(loader) for loader in loaders]
    while True:
        found = []
        for number, loader in enumerate(loaders):
            sample = next(streams[number], None)
            if sample is None:
                streams[number] = iter(loader)
                sample = next(streams[number])
            found.append(sample)
        yield found


def waiting(
    config: Config, dataset: Dataset, tasks: dict[str, Task], loader: TrainLoader, seconds: float
) -> list[float]:
    """The time to get a batch over that of a whole step, step by step."""
    model = build.model(config, dataset, tasks)
    weighting = build.weighting(config, build.task_infos(dataset, tasks), model)
    step = TrainingStep(model, tasks, weighting, build.optimizer(config, model, weighting), seed=0)
    model.train()
    shares: list[float] = []
    ends = time.perf_counter() + seconds
    for number, (began, batches) in enumerate(timed(endless(loader))):
        got = time.perf_counter()
        step(batches, 0, number)
        done = time.perf_counter()
        if number:  # the first step allocates
            shares.append((got - began) / (done - began))
        if done > ends and len(shares) > 4:
            return shares
    raise AssertionError("the loader is endless")


def timed(steps: Iterator[list[Batch]]) -> Iterator[tuple[float, list[Batch]]]:
    """Each step's batches, and when they were asked for."""
    while True:
        began = time.perf_counter()
        yield began, next(steps)


def measure(name: str, stopwatch: Stopwatch) -> tuple[str, ...]:
    """One line of the table."""
    config = configured(*CASES[name])
    if name in FOLDERS:
        root = Path(os.environ.get("MTLRUN_DATA", "data")) / FOLDERS[name]
        config.dataset["root"] = str(root)
    dataset, tasks = build.dataset_and_tasks(config)
    loader = train_loader(config, dataset, tasks)
    ours, theirs = endless(loader), plain(dataset, config.batch_size)
    found = stopwatch.seconds(
        {"mtlrun": lambda _: next(ours), "DataLoader": lambda _: next(theirs)}
    )
    rows = sum(queue.size for queue in loader.queues.values())
    factor = statistics.median(over(found["DataLoader"], found["mtlrun"]))
    shares = waiting(config, dataset, tasks, train_loader(config, dataset, tasks), 5.0)
    return (
        name,
        str(rows),
        f"{rows / statistics.median(found['mtlrun']):,.0f}",
        f"{rows / statistics.median(found['DataLoader']):,.0f}",
        f"{factor:.1f}",
        f"{statistics.median(shares):.2%}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    settings = parser.parse_args(arguments)
    torch.set_num_threads(settings.threads)
    table = Table(title="rows a second, in batches of the recipe's size")
    for column in ("dataset", "rows a step", "mtlrun", "DataLoader", "factor", "step waits"):
        table.add_column(column, justify="right" if column != "dataset" else "left")
    for name in settings.only:
        table.add_row(*measure(name, Stopwatch("wall", settings.rounds, 0.3)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
