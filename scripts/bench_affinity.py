"""What measuring inter-task affinity costs: training with it over training without.

Ratios of the time of an epoch in which every tenth step is measured to that of an epoch without,
with its evaluation, side by side in one process; medians over interleaved rounds:

    python scripts/bench_affinity.py [--rounds 9] [--threads 1] [--kinds tag cosine] [--only MLP]

Frames and rows are drawn; the reviews are FDU-MTL's, read from $MTLRUN_DATA/fdu_mtl.
"""

import argparse
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from bench_engine import LOG_EVERY, Case, configured, data_root, train_loader
from bench_measure import Row, Section, Stopwatch, over, show

from mtlrun import build
from mtlrun.data.base import Dataset, TensorSource
from mtlrun.engine.affinity import Affinity, Kind
from mtlrun.engine.compatibility import resolve_place
from mtlrun.engine.evaluation import evaluate
from mtlrun.engine.ledger import Ledger
from mtlrun.engine.loader import EvaluationLoader
from mtlrun.engine.step import TrainingStep

EVERY = 10
GOALS = {3: 1.25, 16: 1.5}
TASKS = "mtlrun.tasks"


def tenth(source: TensorSource) -> TensorSource:
    """As many rows as are held out for validation."""
    return source.subset(torch.arange(len(source) // 9))


class Frames(Dataset):
    """Noise in the shapes of NYUv2: images, classes, depths and normals of each pixel."""

    def __init__(self, height: int = 60, width: int = 80, rows: int = 80) -> None:
        draws = torch.Generator().manual_seed(0)
        size = (height, width)
        targets = {
            "segmentation": torch.randint(13, (rows, *size), generator=draws),
            "depth": torch.rand(rows, 1, *size, generator=draws) + 1,
            "normals": torch.nn.functional.normalize(torch.randn(rows, 3, *size, generator=draws)),
        }
        source = TensorSource(torch.rand(rows, 3, *size, generator=draws), targets)
        self.splits = {"train": {"frames": source}, "val": {"frames": tenth(source)}}
        self.streams = {"frames": tuple(targets)}
        self.input_shape = {"frames": (3, *size)}
        self.facts = {"segmentation": {"classes": 13}, "depth": {}, "normals": {}}


class Numbers(Dataset):
    """16 classifications of the same noise: as a vector, or as an image."""

    def __init__(self, shape: Sequence[int] = (128,), rows: int = 2560) -> None:
        draws = torch.Generator().manual_seed(0)
        names = [f"task{number}" for number in range(16)]
        targets = {name: torch.randint(4, (rows,), generator=draws) for name in names}
        source = TensorSource(torch.randn(rows, *shape, generator=draws), targets)
        self.splits = {"train": {"rows": source}, "val": {"rows": tenth(source)}}
        self.streams = {"rows": tuple(names)}
        self.input_shape = {"rows": tuple(shape)}
        self.facts = {name: {"classes": 4} for name in names}


def drawn(kind: type[Dataset], tasks: dict[str, str], *overrides: str, **settings: Any) -> Case:
    """A case on drawn data."""
    config = configured(*overrides)
    kinds = {name: {"_target_": f"{TASKS}.{target}"} for name, target in tasks.items()}
    config.dataset = {"_target_": f"{__name__}.{kind.__name__}", "tasks": kinds, **settings}
    dataset, built = build.dataset_and_tasks(config)
    model = build.model(config, dataset, built)
    return Case(overrides, config, dataset, built, model, [])


def frames() -> Case:
    """Three dense tasks."""
    tasks = {
        "segmentation": "segmentation.Segmentation",
        "depth": "depth.Depth",
        "normals": "normals.SurfaceNormals",
    }
    return drawn(Frames, tasks, "backbone=resnet18", "heads=conv", "batch_size=8")


def numbers(*overrides: str, **settings: Any) -> Case:
    """Sixteen tasks of one stream."""
    tasks = {f"task{number}": "classification.Classification" for number in range(16)}
    return drawn(Numbers, tasks, "batch_size=128", *overrides, **settings)


def reviews(*overrides: str) -> Case:
    """Sixteen streams of a task each."""
    root = f"dataset.root={data_root() / 'fdu_mtl'}"
    return Case.of("dataset=fdu_mtl", root, *overrides, batches=0)


CASES: dict[str, tuple[int, Callable[[], Case]]] = {
    "ResNet-18, NYUv2-like 60x80": (3, frames),
    "MLP 128-512-512, one stream": (
        16,
        lambda: numbers("backbone=mlp", "backbone.hidden=[512,512]"),
    ),
    "MLP 128-128-128, one stream": (16, lambda: numbers("backbone=mlp")),
    "CNN 3x16x16, one stream": (16, lambda: numbers("backbone=cnn", shape=[3, 16, 16])),
    "n-grams, FDU-MTL, 16 streams": (16, reviews),
}


def epochs_of(case: Case, weighting: str, kind: Kind | None) -> Callable[[int], None]:
    """Epochs of the engine: its batches, steps, what is noted for the files, and evaluation."""
    config = configured(*case.overrides, f"weighting={weighting}")
    model = deepcopy(case.model).train()
    method = build.weighting(config, case.infos(), model)
    optimizer = build.optimizer(config, model, method)
    place = resolve_place(method, config.gradients.at, config.gradients.every)
    step = TrainingStep(model, case.tasks, method, optimizer, seed=0, place=place)
    watcher = Affinity(kind, EVERY, step.backward) if kind else None
    if watcher:
        step.watchers.append(watcher)
    ledger = Ledger(tuple(case.tasks))
    loader = train_loader(case.config, case.dataset, case.tasks)
    validation = EvaluationLoader(
        case.dataset,
        "val",
        case.tasks,
        batch_size=2 * config.batch_size,
        placement=loader.placement,
    )

    def run(epoch: int) -> None:
        first = epoch * loader.steps_per_epoch
        for number, batches in enumerate(loader.epoch(epoch, 0), first):
            ledger.add(number + 1, step(batches, epoch, number))
            if (number + 1) % LOG_EVERY == 0:
                ledger.rows(number + 1, 1)
        if watcher:
            watcher.read_back()
        evaluate(step.backward.forward, validation)

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=["tag", "cosine"])
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(settings.threads)
    watch = Stopwatch("cpu" if settings.threads == 1 else "wall", settings.rounds, turn=0.5)
    section = Section(
        "affinity", f"epochs with a measurement every {EVERY} steps over epochs without"
    )
    for name, (tasks, make) in CASES.items():
        if settings.only not in name:
            continue
        case = make()
        for weighting in ("equal", "mgda"):
            contenders = {kind: epochs_of(case, weighting, kind) for kind in settings.kinds}
            found = watch.seconds({"none": epochs_of(case, weighting, None), **contenders})
            for kind in settings.kinds:
                goal = GOALS[tasks] if kind == "tag" else None
                values = over(found[kind], found["none"])
                section.add(Row(name, tasks, f"{weighting}, {kind}", values, goal))
    show(section)


if __name__ == "__main__":
    main()
