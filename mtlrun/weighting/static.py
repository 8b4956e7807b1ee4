"""Weights that the user fixes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.errors import UserError
from mtlrun.settings import check_whole, per_task
from mtlrun.weighting.base import LossWeighting, TaskInfo


def simplex_points(tasks: int, points: int) -> Tensor:
    """Sets of weights that lie evenly on the simplex, for sweeps of scalarizations.

    Two tasks: the shares 1/(N+1) ... N/(N+1) of the first one. More: equal weights first, then the
    gaps between the sorted coordinates of a Kronecker sequence (steps of powers of the root of
    x^T = x + 1, a generalised golden ratio), which spread evenly over the simplex.

    Args:
        tasks: their number T.
        points: how many sets N.

    Returns:
        [N, T], float32, rows above 0 that sum to T, as equal weights do.
    """
    if tasks == 2:
        first = torch.arange(1, points + 1, dtype=torch.float64) / (points + 1)
        return (2 * torch.stack([first, 1 - first], dim=1)).float()
    root = 2.0
    for _ in range(64):  # a contraction
        root = (1 + root) ** (1 / tasks)
    steps = root ** -torch.arange(1, tasks, dtype=torch.float64)
    places = torch.arange(points, dtype=torch.float64)[:, None] * steps
    cuts = ((0.5 + places) % 1).sort(dim=1).values
    ends = torch.zeros(points, 1, dtype=torch.float64)
    weights = torch.diff(torch.cat([ends, cuts, ends + 1], dim=1), dim=1) * tasks
    weights[0] = 1
    return weights.float()


class Static(LossWeighting):
    """A fixed weight for each task: the sum of w_i L_i.

    Weights are taken as given and not normalised. A well-searched set of them is a strong baseline
    (Xin et al. and Kurin et al., both NeurIPS 2022).

    Args:
        weights: for each task its weight, 0 or more; a task that is left out gets 1. None: all 1,
            or those of ``point``.
        point: which of ``points`` sets of weights, from 0: see :func:`simplex_points`.
        points: how many sets of weights a sweep tries.
        tasks: the tasks of the run.

    Raises:
        UserError: a name that is no task of the run, a weight that is negative or not finite, no
            weight above 0, or weights both named and by number.
        ValueError: no such point.
    """

    claims = frozenset({"homogeneous"})
    task_weights: Tensor

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        point: int | None = None,
        points: int = 9,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        task_weights = per_task("weighting.weights", weights or {}, tasks, default=1.0)
        if point is not None:
            if weights:
                raise UserError(
                    "weighting.weights and weighting.point both say what the weights are. Leave "
                    "one of them out."
                )
            check_whole("points", points, 1)
            if not 0 <= point < points:
                raise ValueError(f"point={point}: use a number from 0 to {points - 1}, or points")
            task_weights = simplex_points(len(tasks), points)[point]
        if not (task_weights > 0).any():
            raise UserError(
                "weighting.weights gives every task the weight 0, so nothing would be trained. "
                "Give at least one task a weight above 0."
            )
        # a setting, not state: a checkpoint must not bring back other weights than those asked for
        self.register_buffer("task_weights", task_weights, persistent=False)

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        return (self.pick(self.task_weights) * torch.stack(losses)).sum()
