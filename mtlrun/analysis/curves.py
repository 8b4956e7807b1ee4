"""Curves of runs, from their CSV files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LossFigure = Literal["loss", "loss_ratio", "weight", "grad_norm"]


@dataclass(frozen=True)
class Curve:
    """One figure over a run.

    Attributes:
        steps: [N], optimizer steps.
        values: [N]; NaN where the run wrote none.
    """

    steps: Floats
    values: Floats


def loss_curves(folder: Path, figure: LossFigure) -> dict[str, Curve]:
    """For each task a figure of ``losses.csv``; tasks without any number are left out."""
    return _curves(_table(folder / "losses.csv"), ["task"], figure)


def cosine_curves(folder: Path) -> dict[str, Curve]:
    """For each pair of tasks, as ``a-b``, the cosine between their gradients."""
    return _curves(_table(folder / "conflicts.csv"), ["task_a", "task_b"], "cosine")


def metric_curves(folder: Path, split: str = "val") -> dict[str, Curve]:
    """For each task and metric, as ``task/metric``, its values on a split, one an epoch."""
    table = _table(folder / "metrics.csv")
    if not table.empty:
        table = table[table["split"] == split]
    curves = _curves(table, ["task", "metric"], "value")
    return {name.replace("-", "/", 1): curve for name, curve in curves.items()}


def _table(path: Path) -> pd.DataFrame:
    """A CSV file of a run; empty where it is missing or has no row."""
    try:
        return pd.read_csv(path)
    except (OSError, ValueError):  # ValueError: an empty file
        return pd.DataFrame()


def _curves(table: pd.DataFrame, names: Sequence[str], figure: str) -> dict[str, Curve]:
    if table.empty:
        return {}
    found = {}
    for key, rows in table.groupby(list(names), sort=False):
        values = rows[figure].to_numpy(dtype=np.float64)
        if np.isfinite(values).any():
            parts = key if isinstance(key, tuple) else (key,)
            steps = rows["step"].to_numpy(dtype=np.float64)
            found["-".join(map(str, parts))] = Curve(steps, values)
    return found
