"""Finds every sampler through its YAML file, and shows it what an engine would."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from mtlrun.sampling.base import Sampler
from mtlrun.sampling.units import Unit
from mtlrun.types import Evaluation, MetricValue

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "sampler"
COMMON = {"of", "epoch", "batch_sizes"}
"""Settings that every YAML file has and no class takes."""
ROWS = (1000, 300, 50, 7)
NAMES = tuple(f"task{number}" for number in range(len(ROWS)))


def configured() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def units(rows: Sequence[int] = ROWS) -> tuple[Unit, ...]:
    """Single tasks of one stream."""
    return tuple(Unit(f"task{i}", "x", (f"task{i}",), count, 4) for i, count in enumerate(rows))


def read_config(name: str) -> tuple[type[Sampler], dict[str, Any]]:
    """The class that a YAML file names, and its own settings."""
    settings = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert isinstance(settings, dict)
    module, _, attribute = settings["_target_"].rpartition(".")
    own = {str(k): v for k, v in settings.items() if k not in COMMON and str(k)[0] != "_"}
    return getattr(importlib.import_module(module), attribute), own


def needed(name: str, drawn: Sequence[Unit]) -> dict[str, Any]:
    """Settings that a sampler cannot do without."""
    tasks = [task for unit in drawn for task in unit.tasks]
    return {
        "active": {"targets": {task: 0.5 + i / 10 for i, task in enumerate(tasks)}},
        "similarity": {"primary": tasks[0]},
        "task_subset": {"tasks_per_step": min(2, len(drawn))},
    }.get(name, {})


def build(
    name: str,
    drawn: Sequence[Unit] | None = None,
    *,
    epochs: int = 5,
    seed: int = 0,
    levels: Mapping[str, float] | None = None,
    **changes: object,
) -> Any:
    """The sampler ``name`` as its YAML file has it, with some settings changed."""
    drawn = units() if drawn is None else drawn
    cls, settings = read_config(name)
    facts = {"units": drawn, "epochs": epochs, "seed": seed, "levels": levels or {}}
    known = inspect.signature(cls).parameters
    taken = {key: fact for key, fact in facts.items() if key in known}
    return cls(**{**settings, **changes, **taken})


def usable(name: str, drawn: Sequence[Unit] | None = None, **changes: Any) -> Any:
    """:func:`build` with the settings that it cannot do without."""
    drawn = units() if drawn is None else drawn
    return build(name, drawn, **{**needed(name, drawn), **changes})


def evaluation(levels: Mapping[str, float], *, higher_is_better: bool = True) -> Evaluation:
    """An evaluation with these headline metrics."""
    metrics = {task: {"score": MetricValue(v, higher_is_better)} for task, v in levels.items()}
    return Evaluation(metrics, dict.fromkeys(metrics, "score"), {})


def teach(sampler: Sampler, rounds: int = 3, first: int = 0) -> None:
    """Evaluations and cosines of which it may make what it will."""
    tasks = [task for unit in sampler.units for task in unit.tasks]
    count = len(sampler.units)
    for number in range(first, first + rounds):
        if sampler.uses_evaluation:
            speeds = {t: 1 - 0.9 / (1 + number * (i + 1) / 20) for i, t in enumerate(tasks)}
            sampler.after_evaluation(evaluation(speeds))
        if sampler.compares != "nothing":
            draws = torch.Generator().manual_seed(number)
            sampler.refresh(2 * torch.rand(count, count, generator=draws).double() - 1)


def close(found: Tensor, expected: Sequence[float] | Tensor, tolerance: float = 1e-12) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def softmax(values: Sequence[float]) -> Tensor:
    return torch.softmax(torch.tensor(values, dtype=torch.float64), 0)
