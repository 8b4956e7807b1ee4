"""Multi-task learning as a bargaining game."""

from torch import Tensor

from mtlrun.weighting._fairness import fair_weights
from mtlrun.weighting.base import GramianWeighting


class NashMTL(GramianWeighting):
    """Nash-MTL (Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022,
    algorithm 1).

    The Nash bargaining solution for the step: of all directions of bounded length the one with the
    largest sum of log(g_i . d). It is d = x_1 g_1 + ... + x_T g_T where

        G x = 1 / x   for each task,   x > 0,

    so that |d|^2 = x' G x = T always, and multiplying a loss by a number changes nothing. For two
    tasks x_1 = (g_11 + g_12 sqrt(g_11 / g_22))^(-1/2) and x_2 = x_1 sqrt(g_11 / g_22). As in the
    official code x weighs the losses of heads, too.

    At a Pareto stationary point there is no such x; it would grow without bound. Adding 1e-8 to the
    diagonal of the Gramian of unit gradients gives one: then d is nearly 0, and a weight may reach
    some 10,000 times 1 / |g_i| (which heads feel). A gradient of 0 has no say, and its task has the
    mean weight of the others.

    The paper also reuses weights for several steps, which is ``gradients.every`` here, and its code
    clips the gradient of the shared parameters to length 1; ``engine.clip_norm`` clips that of the
    whole network.

    Published code departs: it runs up to 20 convex programs, each from the last answer, and stays
    with its last answer, silently, where the solver fails or is not installed; here Newton's method
    gives the answer to 1e-7.
    """

    heads = "weighted"
    claims = frozenset({"non_conflicting", "invariant", "impartial"})

    def __init__(self) -> None:
        super().__init__()

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`."""
        del losses
        return fair_weights(gramian)
