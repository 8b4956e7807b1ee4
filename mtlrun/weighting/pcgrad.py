"""Projecting conflicting gradients."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlrun.settings import REDUCTIONS, check_choice
from mtlrun.weighting.base import GramianWeighting


class PCGrad(GramianWeighting):
    """PCGrad (Yu et al., NeurIPS 2020, algorithm 1).

    Each task's gradient g meets the gradients g_j of the other tasks, as they were before any
    projection, in a random order, and loses its component along each that it conflicts with:
    g <- g - (g . g_j / |g_j|^2) g_j where g . g_j < 0. The direction is the sum of the results.
    They are combinations of the task gradients, so the Gramian is enough. Heads train on the plain
    losses.

    Published code departs: the official code discards its shuffle, so that its order is fixed;
    WeiChengTseng/Pytorch-PCGrad always averages; Nash-MTL lets a gradient meet itself too and
    carries one task's order over to the next. For two tasks all agree up to the sum or mean.

    Args:
        reduction: ``"sum"`` (the paper) or ``"mean"`` over the tasks of the step.
    """

    claims = frozenset({"homogeneous"})

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.reduction = reduction

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        tasks = len(losses)
        draws = torch.rand(tasks, tasks, generator=self.generator("pcgrad"))
        projected = project(gramian.numpy(), draws.argsort(dim=1).numpy())
        weights = torch.from_numpy(projected.sum(axis=0))
        return weights if self.reduction == "sum" else weights / tasks


def project(gramian: NDArray[np.float64], orders: NDArray[np.int64]) -> NDArray[np.float64]:
    """The projected gradients as combinations of the task gradients, all tasks side by side.

    Args:
        gramian: [T, T].
        orders: [T, T] or [T, T - 1]; row i is the order in which gradient i meets the others. Its
            own index may stand among them and is skipped.

    Returns:
        [T, T]; row i holds the coefficients of projected gradient i.
    """
    own = np.arange(len(gramian))
    coefficients = np.eye(len(gramian))
    products = gramian.copy()  # of each projected gradient with each task gradient
    squares = np.where(gramian.diagonal() > 0, gramian.diagonal(), 1.0)  # a zero meets no conflict
    for met in orders.T:
        overlap = products[own, met]
        removed = np.where((met != own) & (overlap < 0), overlap / squares[met], 0.0)
        coefficients[own, met] -= removed
        products -= removed[:, None] * gramian[met]
    return coefficients
