"""Gradient vaccine."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlrun.settings import check_choice
from mtlrun.weighting._cosines import RELATIVE_PRECISION
from mtlrun.weighting.base import GramianWeighting, TaskInfo

Array = NDArray[np.float64]
Granularity = Literal["whole", "layer"]
GRANULARITIES: tuple[Granularity, ...] = ("whole", "layer")

LARGEST_TARGET = 1 - 1e-8


class GradVac(GramianWeighting):
    """Gradient vaccine (Wang, Tsvetkov, Firat and Cao, ICLR 2021).

    Like PCGrad, each task's gradient g meets the gradients g_j of the other tasks, as they were, in
    a random order. Where its cosine c with g_j is below the pair's target t, it is turned until the
    cosine is t:

        g <- g + |g| (t sqrt(1 - c^2) - c sqrt(1 - t^2)) / (|g_j| sqrt(1 - t^2)) g_j

    and then, whether it was turned or not, t <- (1 - beta) t + beta c. Targets start from 0, so the
    first step is PCGrad's. The direction is the sum of the results. Heads train on the plain
    losses.

    A pair of which one gradient is 0, or was cancelled by the gradients met before, has no cosine:
    it is passed over and keeps its target. A target near 1 would ask for any amount of g_j: at most
    1 - 1e-8 is aimed at.

    The paper's text could not be checked; the rule is that of LibMTL's code, and the paper's beta
    as others report it. Published code departs: there is no official one; LibMTL's has beta 0.5,
    and SamsungLabs/MTL's too, where only the targets of pairs that were turned move.

    Args:
        beta: rate of the moving average, above 0 and up to 1; the paper uses 0.01.
        granularity: what a gradient is: ``"whole"``, that of all shared parameters, or ``"layer"``,
            that of one layer, each turned by itself with its own targets.
        tasks: the tasks of the run.
        layers: number of layers with shared parameters.
    """

    claims = frozenset({"homogeneous"})
    targets: Tensor

    def __init__(
        self,
        beta: float = 0.01,
        granularity: Granularity = "whole",
        *,
        tasks: Sequence[TaskInfo],
        layers: int,
    ) -> None:
        super().__init__()
        if not 0 < beta <= 1:
            raise ValueError(f"beta={beta}: must be above 0 and at most 1")
        check_choice("granularity", granularity, GRANULARITIES)
        self.beta = beta
        self.per_layer = granularity == "layer"
        parts = layers if self.per_layer else 1
        targets = torch.zeros(parts, len(tasks), len(tasks), dtype=torch.float64)
        self.register_buffer("targets", targets)  # [L, T, T], those of the gradients of the rows

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        del losses
        stacked = gramian if self.per_layer else gramian[None]  # [L, T, T]
        draws = torch.rand(stacked.shape, generator=self.generator("gradvac"))
        present = torch.tensor(self.step.present)
        targets = self.targets[:, present[:, None], present]
        coefficients, cosines, _ = vaccinate(
            stacked.numpy(), targets.numpy(), draws.argsort(dim=-1).numpy()
        )
        met = torch.from_numpy(cosines)
        moved = torch.where(met.isnan(), targets, (1 - self.beta) * targets + self.beta * met)
        self.targets[:, present[:, None], present] = moved
        weights = torch.from_numpy(coefficients.sum(axis=1))
        return weights if self.per_layer else weights[0]


def vaccinate(
    gramian: Array, targets: Array, orders: NDArray[np.int64]
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """The turned gradients as combinations of the task gradients, all tasks and layers at once.

    Args:
        gramian: [L, T, T].
        targets: [L, T, T], of the pairs (turned gradient, gradient that it meets).
        orders: [L, T, T]; row i is the order in which gradient i meets the others. Its own index
            stands among them and is skipped.

    Returns:
        coefficients, [L, T, T], those of turned gradient i in row i; the cosines at which pairs
        met, [L, T, T], NaN where there was none; and which pairs were turned, [L, T, T].
    """
    layers, tasks, _ = gramian.shape
    layer, own = np.arange(layers)[:, None], np.arange(tasks)[None]
    norms = np.sqrt(np.maximum(np.diagonal(gramian, axis1=1, axis2=2), 0.0))  # [L, T]
    coefficients = np.broadcast_to(np.eye(tasks), gramian.shape).copy()
    products = gramian.copy()  # of each turned gradient with each task gradient
    cosines = np.full_like(gramian, np.nan)
    turned = np.zeros(gramian.shape, dtype=bool)
    for met in np.moveaxis(orders, 2, 0):  # [L, T]
        squares = (coefficients * products).sum(axis=2)
        longest = (np.abs(coefficients) * norms[:, None]).sum(axis=2)
        possible = (
            (met != own) & (squares > RELATIVE_PRECISION * longest**2) & (norms[layer, met] > 0)
        )
        norm = np.sqrt(np.where(possible, squares, 1.0))
        other = np.where(possible, norms[layer, met], 1.0)
        cosine = np.clip(products[layer, own, met] / norm / other, -1.0, 1.0)
        target = np.minimum(targets[layer, own, met], LARGEST_TARGET)
        turns = possible & (cosine < target)
        tangent = target / np.sqrt(1 - target**2)
        added = norm / other * (tangent * np.sqrt(1 - cosine**2) - cosine)
        added = np.where(turns, added, 0.0)
        coefficients[layer, own, met] += added
        products += added[:, :, None] * gramian[layer, met]
        cosines[layer, own, met] = np.where(possible, cosine, np.nan)
        turned[layer, own, met] = turns
    return coefficients, cosines, turned
