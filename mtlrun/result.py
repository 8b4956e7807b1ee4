"""What a finished run leaves behind: figures, cost, versions."""

import math
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from mtlrun.config import Config
from mtlrun.engine.engine import Engine
from mtlrun.engine.evaluation import Figures, headline
from mtlrun.engine.ledger import Ledger, loss_ratio
from mtlrun.models.model import MultiTaskModel
from mtlrun.types import TaskInfo

Result = dict[str, Any]


@dataclass(frozen=True)
class Labels:
    """How a run is called.

    Attributes:
        choices: for each group the name of its choice.
        method: the weighting and the settings that differ from the dataset's recipe.
        changed: these settings, by dotted key.
    """

    choices: Mapping[str, str]
    method: str
    changed: Mapping[str, Any]


def summary(
    config: Config,
    labels: Labels,
    engine: Engine,
    infos: list[TaskInfo],
    test: Figures,
    threads: int,
    flops: float,
) -> Result:
    """What ``result.json`` holds.

    Args:
        config: the run's configuration.
        labels: how the run is called.
        engine: after the training.
        infos: of the tasks.
        test: the figures on the test split.
        threads: that the CPU computed on.
        flops: floating-point operations of a row's forward pass.
    """
    parts, ledger, selection = engine.parts, engine.ledger, engine.selection
    stopped = parts.stopping.stopped if parts.stopping else {}
    kept = parts.stopping.best_epochs() if parts.stopping else {}
    tasks: dict[str, Any] = {}
    for index, info in enumerate(infos):
        task = parts.tasks[info.name]
        best = selection.best.get(info.name, {})
        nothing = (float("nan"), 0)
        metrics = {
            name: {
                "higher_is_better": metric.higher_is_better,
                "optimum": metric.optimum,
                "test": test.get(info.name, {}).get(name),
                "final": engine.final.get(info.name, {}).get(name),
                "best": best.get(name, nothing)[0],
                "best_epoch": best.get(name, nothing)[1],
            }
            for name, metric in task.metrics.items()
        }
        final = _last_known(float(means[index]) for means in ledger.epoch_means)
        tasks[info.name] = {
            "likelihood": info.likelihood,
            "headline": headline(task),
            "train_rows": info.train_rows,
            "metrics": metrics,
            "loss": {
                "initial": ledger.initial[index],
                "final": final,
                "loss_ratio": loss_ratio(final, ledger.initial[index]),
                "loss_ratio_at_half": ledger.ratio_at_half(index),
            },
            "weight": ledger.latest_weights[index],
            "stopped_epoch": stopped.get(info.name),
            "best_epoch": kept.get(info.name, metrics[headline(task)]["best_epoch"]),
            "conflicts": _conflicts(ledger, index),
        }
    for watcher in parts.step.watchers:
        for name, found in watcher.found().items():
            tasks[name] |= found
    epochs = selection.epoch
    groups = selection.groups
    selected: Any = epochs[0]
    if len(groups) > 1:
        selected = {group[0]: epoch for group, epoch in zip(groups, epochs, strict=True)}
    names = ("dataset", "weighting", "architecture", "backbone", "sampler", "stopping")
    return {
        "format": 1,
        "mtlrun": _version("mtlrun"),
        "state": "finished",
        "study": config.study,
        **{name: labels.choices.get(name) for name in names},
        "seed": config.seed,
        "method": labels.method,
        "changed": dict(labels.changed),
        "select_on": config.select_on,
        "epochs": engine.epoch,
        "ended": engine.ended or "all epochs",
        "selected_epoch": selected,
        "tasks": tasks,
        "primary": list(parts.primary) if len(parts.primary) < len(tasks) else None,
        "steps": engine.steps,
        "drawn": dict(parts.loader.drawn),
        "skipped_steps": ledger.skipped,
        "solver_failures": parts.step.backward.failures,
        "seconds": engine.seconds,
        "examples_per_second": parts.loader.examples / engine.seconds,
        "peak_memory_mib": _peak_memory_mib(parts.placement.device),
        "parameters": _parameters(parts.model),
        "forward_flops": flops,
        "device": str(parts.placement.device),
        "threads": threads,
        "versions": {name: _version(name) for name in ("torch", "numpy", "hydra-core")},
        "python": sys.version.split()[0],
        "git_commit": _git_commit(),
    }


def _conflicts(ledger: Ledger, index: int) -> dict[str, float] | None:
    """The share of the steps in which a task was in conflict with each other one, by its name.

    None where the method took no gradients.
    """
    found = {}
    for pair, share in ledger.conflicts.shares().items():
        if index in pair:
            (other,) = set(pair) - {index}
            found[ledger.tasks[other]] = share
    return found or None


def _last_known(values: Iterable[float]) -> float:
    """The last of the epochs' mean losses in which the task was trained; NaN where none was."""
    known = [value for value in values if not math.isnan(value)]
    return known[-1] if known else math.nan


def _parameters(model: MultiTaskModel) -> dict[str, Any]:
    """How many numbers the network has, and whose; frozen ones count, too."""
    architecture = model.architecture
    tasks = {
        task: _count([*model.head_of[task].parameters(), *architecture.task_parameters(task)])
        for task in model.tasks
    }
    return {
        "shared": _count(architecture.shared_parameters()),
        "tasks": tasks,
        "trained": _count([p for p in model.parameters() if p.requires_grad]),
        "total": _count(list(model.parameters())),
    }


def _count(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes / 2**10 if sys.platform != "darwin" else kibibytes / 2**20


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the working directory, where it is a git checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
