"""What each architecture costs beside hard sharing and beside a network a task.

Step time, peak memory, parameters and operations on ResNet-18 with NYUv2's three tasks, where the
time of a step goes, and two goals: single_task by T separate runs, MMoE by as many backbones.
Times are ratios of medians, measured side by side in one process:

    python scripts/bench_architectures.py [--rounds 7] [--threads 1] [--only mtan ple] [--no-memory]

Frames of 60x80 are read from image folders below $MTLRUN_DATA (nyuv2_160x120).
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_engine import Case, configured, data_root
from bench_measure import Stopwatch, over
from bench_memory import ALLOCATOR, process_kib
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mtlrun import build
from mtlrun.cli import config_folder
from mtlrun.engine.step import TrainingStep
from mtlrun.models.architectures.hps import HPS
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.model import MultiTaskModel
from mtlrun.types import Batch, StreamBatch

Step = Callable[[int], object]
BASE = ("hps", "single_task")
SINGLE_TASK_GOAL, EXPERTS_GOAL = 1.02, 1.05


def overrides(*more: str) -> tuple[str, ...]:
    """The setting of all cases."""
    return (
        "dataset=nyuv2",
        f"dataset.root={data_root() / 'nyuv2_160x120'}",
        "dataset.size=[60,80]",
        "dataset.augment=false",
        "backbone=resnet18",
        "heads=conv",
        "batch_size=8",
        *more,
    )


@dataclass
class Contender:
    """A network and its training step."""

    case: Case
    model: MultiTaskModel
    step: TrainingStep

    @classmethod
    def of(cls, case: Case, model: MultiTaskModel) -> "Contender":
        """The engine's step of a network, with equal weights."""
        config = configured(*case.overrides)
        weighting = build.weighting(config, case.infos(), model)
        optimizer = build.optimizer(config, model, weighting)
        tasks = {name: case.tasks[name] for name in model.tasks}
        return cls(case, model.train(), TrainingStep(model, tasks, weighting, optimizer, seed=0))

    def batch(self, number: int) -> Batch:
        """A batch with the labels of the network's tasks alone."""
        (stream, part), *_ = self.case.batches[number % len(self.case.batches)][0].items()
        return {stream: StreamBatch(part.inputs, part.targets, self.model.tasks)}

    def __call__(self, number: int) -> None:
        """One whole step."""
        self.step([self.batch(number)], 0, number)

    def forward(self, number: int) -> None:
        """Its forward pass, with the losses and the auxiliary ones."""
        forward, batch = self.step.backward.forward, self.batch(number)
        features, _ = forward.training_pass(batch, range(len(self.model.tasks)))
        for index, name in enumerate(self.model.tasks):
            forward.loss(batch, index, features[name])

    def update(self, number: int) -> None:
        """The optimizer's part, on the gradients that are there."""
        del number
        self.step.optimizer.step()


class Copies(HPS):
    """As many backbones as there are experts, and the mean of their features."""

    def __init__(self, backbones: Sequence[Backbone], streams: Mapping[str, Sequence[str]]) -> None:
        super().__init__(make_backbone=lambda _: backbones[0], streams=streams)
        self.others = nn.ModuleList(backbones[1:])

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """The mean, for all tasks."""
        (stream,) = {self.stream_of[task] for task in tasks}
        found = [backbone(inputs[stream]) for backbone in (self.backbone, *self.others)]
        mean = torch.stack(found).mean(0)
        return dict.fromkeys(tasks, mean)

    def shared_parameters(self) -> list[nn.Parameter]:
        """All of them."""
        return list(self.parameters())


def names() -> list[str]:
    """Every architecture."""
    return sorted(path.stem for path in (config_folder() / "architecture").glob("*.yaml"))


def contender(case: Case, *more: str) -> Contender:
    """An architecture on the case's data, made by its configuration."""
    config = configured(*case.overrides, *more)
    return Contender.of(case, build.model(config, case.dataset, case.tasks))


def single(case: Case, task: str) -> Contender:
    """A run of one task alone."""
    config = configured(*case.overrides, f"tasks=[{task}]")
    dataset, tasks = build.dataset_and_tasks(config)
    return Contender.of(case, build.model(config, dataset, tasks))


def copies(case: Case, count: int) -> Contender:
    """So many backbones, without gates."""
    base = build.model(configured(*case.overrides), case.dataset, case.tasks)
    backbones = [deepcopy(base.architecture.backbone) for _ in range(count)]
    assert all(isinstance(backbone, Backbone) for backbone in backbones)
    architecture = Copies(backbones, case.dataset.streams)  # type: ignore[arg-type]  # checked
    return Contender.of(case, MultiTaskModel(architecture, base.head_of))  # type: ignore[arg-type]


def shown(ratios: Sequence[float]) -> str:
    """Median and quartiles."""
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{statistics.median(ratios):.3f} [{low:.2f}, {high:.2f}]"


def seconds_of(part: Step, rounds: int) -> float:
    """The median of a part of a step."""
    part(0)
    found = []
    for number in range(rounds):
        began = time.perf_counter()
        part(number)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def row_of(case: Case, name: str, watch: Stopwatch, base: Mapping[str, Contender]) -> list[str]:
    """An architecture's cells, but for its memory."""
    own = base.get(name) or contender(case, f"architecture={name}")
    times = watch.seconds({**base, name: own}, steps=1)
    whole = statistics.median(times[name])
    forward = seconds_of(own.forward, watch.rounds) / whole
    update = seconds_of(own.update, watch.rounds) / whole
    hps = base["hps"].model
    parameters = count(own.model) / count(hps)
    flops = operations(own) / operations(base["hps"])
    return [
        name,
        shown(over(times[name], times["hps"])),
        shown(over(times[name], times["single_task"])),
        f"{parameters:.2f}",
        f"{flops:.2f}",
        f"{forward:.0%} / {max(0.0, 1 - forward - update):.0%} / {update:.0%}",
    ]


def count(model: MultiTaskModel) -> int:
    """Parameters of the whole network."""
    return sum(parameter.numel() for parameter in model.parameters())


def operations(one: Contender) -> float:
    """Of a forward pass, by torch's counter."""
    inputs = {stream: part.inputs for stream, part in one.batch(0).items()}
    return build.counted_flops(one.model, inputs)


def peak_mib(name: str) -> float:
    """Peak of the first three steps over the resting model, in this process."""
    case = Case.of(*overrides(), batches=3)
    contender(case, f"architecture={name}")(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    own = contender(case, f"architecture={name}")
    resting = process_kib("VmRSS")
    for number in range(3):
        own(number)
    return (process_kib("VmHWM") - resting) / 1024


def measured_mib(name: str) -> float:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name]
    environment = {**os.environ, **ALLOCATOR}
    found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(found.stdout)


def goals(case: Case, watch: Stopwatch) -> Table:
    """The two goals."""
    apart = [single(case, task) for task in case.tasks]

    def separate(number: int) -> None:
        for run in apart:
            run(number)

    table = Table(title="goals: ratios of step times")
    for column in ("", "ratio [quartiles]", "goal"):
        table.add_column(column)
    apiece = contender(case, "architecture=single_task")
    mixture = contender(case, "architecture=mmoe")
    experts = int(configured(*case.overrides, "architecture=mmoe").architecture["experts"])
    for label, one, other, goal in (
        (
            "single_task / T separate runs",
            apiece,
            separate,
            SINGLE_TASK_GOAL,
        ),
        (f"mmoe / {experts} backbones", mixture, copies(case, experts), EXPERTS_GOAL),
    ):
        times = watch.seconds({"one": one, "other": other}, steps=1)
        table.add_row(label, shown(over(times["one"], times["other"])), str(goal))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    settings = parser.parse_args(arguments)
    torch.set_num_threads(settings.threads)
    if settings.memory_of:
        print(peak_mib(settings.memory_of))
        return
    case = Case.of(*overrides(), batches=3)
    watch = Stopwatch("wall", settings.rounds)
    base = {name: contender(case, f"architecture={name}") for name in BASE}
    chosen = settings.only or names()
    memory = {} if settings.no_memory else {n: measured_mib(n) for n in {*chosen, "hps"}}
    table = Table(title="architectures on ResNet-18, NYUv2 at 60x80, T = 3: ratios")
    for column in ("", "time / hps", "time / single_task", "parameters / hps", "FLOPs / hps"):
        table.add_column(column)
    table.add_column("forward / backward / update")
    table.add_column("peak memory / hps")
    for name in chosen:
        cells = row_of(case, name, watch, base)
        peak = f"{memory[name] / memory['hps']:.2f}" if memory else ""
        table.add_row(*cells, peak)
        print(*cells, peak, file=sys.stderr, flush=True)
    Console(width=140).print(table)
    Console(width=140).print(goals(case, watch))


if __name__ == "__main__":
    main()
