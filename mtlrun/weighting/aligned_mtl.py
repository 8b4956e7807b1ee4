"""Independent component alignment."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mtlrun.errors import UserError
from mtlrun.settings import check_choice, per_task
from mtlrun.weighting.base import GramianWeighting, TaskInfo

Scale = Literal["min", "median", "rmse"]
SCALES: tuple[Scale, ...] = ("min", "median", "rmse")


class AlignedMTL(GramianWeighting):
    """Aligned-MTL (Senushkin, Patakin, Kuznetsov and Konushin, CVPR 2023, algorithm 1).

    Replaces the gradients by the closest ones that are orthogonal and of equal length, so that
    none dominates and none conflicts with another, and adds these up with preferences p that the
    user fixes. With the eigenvalues l_k > 0 and eigenvectors v_k of the Gramian,

        w = s sum_k v_k (v_k . p) / sqrt(l_k)

    where the scale s is by default the smallest sqrt(l_k), the largest for which the alignment
    leaves no component longer than it was. Heads train on the plain losses.
    ``gradients.at=representation`` is the paper's upper bound, Aligned-MTL-UB.

    With ``scale=min`` one small eigenvalue makes d short: a task of a much smaller gradient, or
    gradients that are nearly dependent, slow all tasks down. Eigenvalues of up to
    T tolerance max(l) count as 0, and so do a gradient of 0 or the difference of parallel ones.

    Args:
        scale: s: ``"min"``, the smallest sqrt(l_k) (the paper); ``"median"``, their median (the
            lower one of an even number) or ``"rmse"``, the root of the mean l_k, as the official
            code offers.
        preferences: for each task its p, 0 or more; a task that is left out gets 1. None: all 1.
        tolerance: see above; that of the official code is the precision of float32, 1.2e-7.
        tasks: the tasks of the run.

    Raises:
        UserError: a name that is no task of the run, a preference that is negative or not finite,
            or no preference above 0.
    """

    claims = frozenset({"homogeneous"})
    preferences: Tensor

    def __init__(
        self,
        scale: Scale = "min",
        preferences: Mapping[str, float] | None = None,
        tolerance: float = 1.2e-7,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_choice("scale", scale, SCALES)
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance={tolerance}: must be 0 or more and below 1")
        values = per_task("weighting.preferences", preferences or {}, tasks, default=1.0).double()
        if not (values > 0).any():
            raise UserError(
                "weighting.preferences gives every task the preference 0, so nothing would be "
                "trained. Give at least one task a preference above 0."
            )
        self.scale = scale
        self.tolerance = tolerance
        self.register_buffer("preferences", values, persistent=False)  # a setting, not state

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        del losses
        preferences = self.pick(self.preferences)
        values, vectors = torch.linalg.eigh(gramian)  # in rising order
        kept = values > values[-1] * len(values) * self.tolerance
        if not (kept & (values > 0)).any():
            return preferences.clone()
        values, vectors = values[kept], vectors[:, kept]
        square = {"min": values.min, "median": values.median, "rmse": values.mean}[self.scale]()
        weights: Tensor = vectors @ ((square / values).sqrt() * (preferences @ vectors))
        return weights
