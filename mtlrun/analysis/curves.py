"""Curves of runs, from their CSV files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtlrun.analysis.runs import Run

Floats = NDArray[np.float64]
LossFigure = Literal["loss", "loss_ratio", "weight", "grad_norm"]
Names = tuple[str, ...]

MOST_POINTS = 400
"""As many points as a line in print can show."""

NAMES = ("split", "task", "metric", "task_a", "task_b", "source", "target")
"""The columns that hold names, also where these look like numbers."""

NUMBERS = ("epoch", "step", "loss", "loss_ratio", "weight", "grad_norm", "cosine", "value")
"""The columns whose empty cells mean that there is no number."""


@dataclass(frozen=True)
class Curve:
    """One figure over a run.

    Attributes:
        steps: [N], optimizer steps.
        values: [N]; NaN where the run wrote none.
    """

    steps: Floats
    values: Floats

    def finite(self) -> "Curve":
        """The points whose step and value are numbers."""
        there = np.isfinite(self.steps) & np.isfinite(self.values)
        return Curve(self.steps[there], self.values[there])


@dataclass(frozen=True)
class Band:
    """One figure over the seeds of a method, at the steps that all of them reached.

    Attributes:
        steps: [N], ascending; empty where the seeds have no steps in common.
        mean: [N], over the seeds.
        low: [N], the lowest of the seeds.
        high: [N], the highest.
        seeds: how many.
    """

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats
    seeds: int


def loss_curves(folder: Path, figure: LossFigure) -> dict[str, Curve]:
    """For each task a figure of ``losses.csv``; tasks without any number are left out."""
    table = _table(folder / "losses.csv")
    return {"-".join(key): curve for key, curve in _curves(table, ["task"], figure).items()}


def loss_curves_of(run: Run, figure: LossFigure) -> dict[str, Curve]:
    """The :func:`loss_curves` of a run; of a grouping for each task those of its network."""
    if run.sources == (run,):
        return loss_curves(run.folder, figure)
    read = {source: loss_curves(source.folder, figure) for source in run.sources}
    found = {task: read[run.source_of(task)].get(task) for task in run.metrics}
    return {task: curve for task, curve in found.items() if curve is not None}


def metric_curves_of(run: Run, split: str) -> dict[str, Curve]:
    """The :func:`metric_curves` of a run; of a grouping for each task those of its network."""
    if run.sources == (run,):
        return metric_curves(run.folder, split)
    read = {source: metric_curves(source.folder, split) for source in run.sources}
    return {
        key: curve
        for task in run.metrics
        for key, curve in read[run.source_of(task)].items()
        if key.startswith(f"{task}/")
    }


def pair_curves(folder: Path) -> Mapping[Names, Curve]:
    """For each pair of tasks the cosine between their gradients."""
    return _curves(_table(folder / "conflicts.csv"), ["task_a", "task_b"], "cosine")


def affinity_curves(folder: Path) -> Mapping[Names, Curve]:
    """For each source and target what a step for the source alone does for the target."""
    return _curves(_table(folder / "affinity.csv"), ["source", "target"], "value")


def metric_curves(folder: Path, split: str = "val") -> dict[str, Curve]:
    """For each task and metric, as ``task/metric``, its values on a split, one an epoch."""
    table = _table(folder / "metrics.csv")
    curves = _curves(table, ["split", "task", "metric"], "value")
    return {f"{task}/{name}": curve for (of, task, name), curve in curves.items() if of == split}


def smoothed(curve: Curve, window: float) -> Curve:
    """The mean over a window around each point, without the points that have no number.

    The window is narrower near the ends, so that it stays centred and the first and last values
    are as they were.

    Args:
        curve: with ascending steps.
        window: its whole width in steps; 0 changes nothing.
    """
    curve = curve.finite()
    steps, values = curve.steps, curve.values
    if window <= 0 or len(steps) < 3:
        return curve
    half = np.minimum(window / 2, np.minimum(steps - steps[0], steps[-1] - steps))
    first = np.searchsorted(steps, steps - half, side="left")
    last = np.searchsorted(steps, steps + half, side="right")
    # Sums of the windows one by one: differences of running sums would spread a diverged value.
    windows = np.stack([first, last], axis=1).ravel()
    sums = np.add.reduceat(np.append(values, 0.0), windows)[::2]
    return Curve(steps, sums / (last - first))


def over_seeds(curves: Sequence[Curve], most_points: int = MOST_POINTS) -> Band:
    """Mean, lowest and highest of the seeds' curves, between their points by straight lines.

    Steps that only some of the seeds reached are left out: a mean over others would jump there.

    Args:
        curves: one a seed, with ascending steps; those without any number do not count.
        most_points: where the seeds have more steps than that, these are picked evenly.
    """
    known = [curve for curve in (curve.finite() for curve in curves) if len(curve.steps)]
    nothing = np.empty(0)
    if not known:
        return Band(nothing, nothing, nothing, nothing, 0)
    steps = np.unique(np.concatenate([curve.steps for curve in known]))
    start = max(curve.steps[0] for curve in known)
    end = min(curve.steps[-1] for curve in known)
    steps = steps[(steps >= start) & (steps <= end)]
    if len(steps) > most_points:
        steps = steps[np.linspace(0, len(steps) - 1, most_points).round().astype(int)]
    values = np.stack([np.interp(steps, curve.steps, curve.values) for curve in known])
    return Band(steps, values.mean(axis=0), values.min(axis=0), values.max(axis=0), len(known))


def _table(path: Path) -> pd.DataFrame:
    """A CSV file of a run; empty where it is missing or has no row."""
    try:
        # A task may be called "null" or "NA": only numbers can be missing.
        empty = {column: [""] for column in NUMBERS}
        names = dict.fromkeys(NAMES, str)
        return pd.read_csv(path, keep_default_na=False, na_values=empty, dtype=names)
    except (OSError, ValueError):  # ValueError: an empty file
        return pd.DataFrame()


def _curves(table: pd.DataFrame, names: Sequence[str], figure: str) -> dict[Names, Curve]:
    """By the values of the columns ``names``, those that have any number.

    A damaged table is one without the rows, or all of them, that cannot be understood.
    """
    if table.empty or not {*names, figure, "step"} <= set(table.columns):
        return {}
    found = {}
    for key, rows in table.groupby(list(names), sort=False):
        steps, values = _numbers(rows["step"]), _numbers(rows[figure])
        there = np.isfinite(steps)
        if np.isfinite(values[there]).any():
            parts = key if isinstance(key, tuple) else (key,)
            found[tuple(map(str, parts))] = Curve(steps[there], values[there])
    return found


def _numbers(cells: "pd.Series[float]") -> Floats:
    """NaN where a cell holds none."""
    return pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
