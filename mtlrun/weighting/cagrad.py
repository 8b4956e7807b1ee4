"""Conflict-averse gradient descent."""

from typing import Literal

from torch import Tensor

from mtlrun.settings import REDUCTIONS, check_choice, check_not_negative
from mtlrun.weighting._worst_task import worst_task_weights
from mtlrun.weighting.base import GramianWeighting

Rescale = Literal["none", "1+c^2", "1+c"]
RESCALES: tuple[Rescale, ...] = ("none", "1+c^2", "1+c")


class CAGrad(GramianWeighting):
    """CAGrad (Liu, Liu, Jin, Stone and Liu, NeurIPS 2021, algorithm 1).

    The direction with the best worst task within a ball around the mean gradient g_0:

        max_d min_i g_i . d   subject to   |d - g_0| <= c |g_0|.

    By duality d = g_0 + c |g_0| g_w / |g_w|, where g_w is the convex combination of the gradients
    of least g_w . g_0 + c |g_0| |g_w|. With c = 0 it is the mean gradient; for c < 1 it converges
    to a minimum of the mean loss; as c grows its orientation becomes that of MGDA. Heads train on
    the plain losses.

    At a Pareto stationary point g_w may be 0, and d is not unique; then it is the one nearest to
    g_0.

    Published code departs: it divides d by 1 + c^2 (``rescale="1+c^2"``) and multiplies it by T "to
    match the sum loss" (``reduction="sum"``); it solves by SciPy's SLSQP without a derivative,
    which can be off by some 0.1 to 1 %, and adds 1e-8 inside its square roots. Its two-task toy
    divides by 1 + c.

    Args:
        c: radius of the ball over |g_0|, 0 or more. The paper has 0 <= c < 1; Nash-MTL's tables
            use 0.4.
        rescale: what d is divided by: ``"none"``, 1 (the paper's algorithm), ``"1+c^2"`` or
            ``"1+c"``.
        reduction: ``"mean"``, as above (the paper), or ``"sum"``, T times that.
    """

    claims = frozenset({"homogeneous"})

    def __init__(
        self,
        c: float = 0.4,
        rescale: Rescale = "none",
        reduction: Literal["sum", "mean"] = "mean",
    ) -> None:
        super().__init__()
        check_not_negative(c=c)
        check_choice("rescale", rescale, RESCALES)
        check_choice("reduction", reduction, REDUCTIONS)
        self.c = c
        self.divisor = {"none": 1.0, "1+c^2": 1 + c**2, "1+c": 1 + c}[rescale]
        self.reduction = reduction

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        weights = worst_task_weights(gramian, self.c) / self.divisor
        return weights if self.reduction == "mean" else weights * len(losses)
