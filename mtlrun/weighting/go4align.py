"""Group optimization for multi-task alignment."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlrun.settings import check_positive
from mtlrun.weighting._multiplicative import reweigh
from mtlrun.weighting.base import LossWeighting, TaskInfo

SMALLEST_LOSS = 1e-8
"""Least loss in an indicator, as a part of the largest in the step."""


class GO4Align(LossWeighting):
    """GO4Align (Shen, Wang, Xiao, Van Noord and Worring, NeurIPS 2024).

    Tasks that stand alike share one weight. In each step, with shares p that start equal,

        p_i <- p_i exp(-step_size L_i), scaled back to the sum 1
        indicator_i = p_i (L_1 + ... + L_T) / L_i

    and the indicators are parted into ``num_groups`` groups by k-means. The weight of a task is the
    mean of its group's indicators. Weights are not normalised. The rule is that of the official
    code (autumn9999/GO4Align); the paper's text could not be checked.

    On a GPU each step waits for its losses, as groups are found on the host.

    p remembers every loss: it falls exponentially in the sum of a task's losses, without bound.
    Over a long training the tasks with small losses take all of p, which 1 / L_i favours already,
    and losses of another scale want another ``step_size``.

    Where the code is silent: tasks that are absent from a step keep their share, and the others
    are scaled within the step; a loss below 1e-8 of the step's largest, in magnitude, counts as
    that in the indicator; with fewer tasks in a step than groups each task is a group.

    Published code departs: its k-means starts at random and may stop short; for numbers on a line
    the best groups are found exactly, and so they are here.

    Args:
        num_groups: number of groups. The official script's default is 1, where every weight is the
            mean of all indicators and nothing is balanced.
        step_size: of the shares; the official code uses 1e-4.
        tasks: the tasks of the run.
    """

    compares = "losses"
    linear = False
    log_shares: Tensor

    def __init__(
        self, num_groups: int = 2, step_size: float = 1e-4, *, tasks: Sequence[TaskInfo]
    ) -> None:
        super().__init__()
        if num_groups < 1:
            raise ValueError(f"num_groups={num_groups}: must be 1 or more")
        check_positive("step_size", step_size)
        self.num_groups = num_groups
        self.step_size = step_size
        # float64: steps of 1e-4 must not drown in a share's logarithm after long training
        self.register_buffer("log_shares", torch.zeros(len(tasks), dtype=torch.float64))

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        shown = torch.stack(losses)
        now = shown.detach().double()
        log_shares = reweigh(self.pick(self.log_shares), -self.step_size * now)
        self.put(self.log_shares, log_shares)
        indicators = torch.softmax(log_shares, dim=0) * _inverse_parts(now)
        weights = torch.from_numpy(group_means(indicators.cpu().numpy(), self.num_groups))
        return (weights.to(shown) * shown).sum()


def _inverse_parts(losses: Tensor) -> Tensor:
    """The sum of the losses over each of them, [T]; losses are made positive first."""
    largest = losses.abs().max()
    parts = (losses / torch.where(largest > 0, largest, 1.0)).clamp(min=SMALLEST_LOSS)
    return parts.sum() / parts


def group_means(values: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """Each value's group mean, for the groups of least squared distance to their means.

    Best groups of numbers are runs of the sorted numbers, so dynamic programming over where the
    runs start finds them: exact, and the same every time.

    Args:
        values: [T].
        groups: number of groups; never more than T are used.

    Returns:
        [T].
    """
    order = np.argsort(values, kind="stable")
    means, costs = _runs(values[order])
    count = len(values)
    best = costs[0]  # best[e]: least cost of the first e + 1 numbers in the groups so far
    starts = []
    for _ in range(1, min(groups, count)):
        options = np.full((count, count), np.inf)  # [start of the last run, end]
        options[1:] = best[:-1, None] + costs[1:]
        starts.append(options.argmin(axis=0))
        best = options.min(axis=0)
    result = np.empty(count)
    end = count - 1
    for chosen in reversed(starts):
        start = chosen[end]
        result[start : end + 1] = means[start, end]
        end = start - 1
    result[: end + 1] = means[0, end]
    back = np.empty(count)
    back[order] = result
    return back


def _runs(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and sum of squared distances to it of each run of numbers, [first, last].

    Runs grow by one number at a time (Welford), which loses no digits to cancellation. Costs are
    infinite where there is no run.
    """
    count = len(values)
    means, costs = np.zeros((count, count)), np.full((count, count), np.inf)
    mean, cost = values.copy(), np.zeros(count)
    for length in range(1, count + 1):
        first = np.arange(count - length + 1)
        last = first + length - 1
        distance = values[last] - mean[first]
        mean[first] += distance / length
        cost[first] += distance * (values[last] - mean[first])
        means[first, last], costs[first, last] = mean[first], cost[first]
    return means, costs
