"""Weights on the probability simplex that a method carries from step to step."""

import numpy as np
import torch
from torch import Tensor

from mtlrun.weighting.base import Weighting
from mtlrun.weighting.solvers import Array, SolverError


def project_on_simplex(values: Array) -> Array:
    """The nearest point with entries of 0 or more that sum to 1.

    That is max(values - c, 0) with the one c that makes the sum 1; sorted, the candidates for c are
    means of the largest entries (Held, Wolfe and Crowder, Mathematical Programming 1974).

    Args:
        values: [T], float64.

    Returns:
        [T], float64.

    Raises:
        SolverError: values that are not finite.
    """
    if not np.isfinite(values).all():
        raise SolverError("weights before their projection on the simplex are not finite")
    values = values - values.max()  # moves c alone, and keeps the sums below exact
    ordered = np.sort(values)[::-1]
    offsets = (ordered.cumsum() - 1) / np.arange(1, len(values) + 1)
    kept = np.count_nonzero(ordered > offsets)
    nearest: Array = np.maximum(values - offsets[kept - 1], 0.0)
    nearest /= nearest.sum()
    return nearest


class Shares:
    """The part of such weights that a step's tasks have, as weights of their own.

    Where tasks are absent from a step the others divide what they had among them, and absent tasks
    keep theirs. Tasks that have nothing start the step from equal weights.

    Args:
        weighting: the method.
        state: its buffer, [tasks of the run], sum 1.
    """

    def __init__(self, weighting: Weighting, state: Tensor) -> None:
        self.weighting = weighting
        self.state = state
        held = weighting.pick(state)
        self.total = held.sum()
        equal = torch.full_like(held, 1 / len(held))
        self.values = held / self.total if self.total > 0 else equal
        """Sum 1, [T]."""

    def move(self, values: Tensor) -> None:
        """Write the step's new weights, [T], sum 1, into the buffer."""
        self.weighting.put(self.state, values * self.total)


def equal_shares(tasks: int) -> Tensor:
    """What such weights start from, [T], float64."""
    return torch.full((tasks,), 1 / tasks, dtype=torch.float64)
