"""Multi-objective meta learning of loss weights."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mtlrun.adam import Adam
from mtlrun.settings import check_choice, check_positive
from mtlrun.weighting.base import GramianWeighting, TaskInfo
from mtlrun.weighting.solvers import min_norm_point

Normalisation = Literal["l2", "none"]
NORMALISATIONS: tuple[Normalisation, ...] = ("l2", "none")

SMALLEST_RATIO = 1e-12
"""A hypergradient this much shorter than the products that it is made of is rounding error."""


class MOML(GramianWeighting):
    """MOML (Ye et al., "Multi-Objective Meta Learning", NeurIPS 2021, and AIJ 2024).

    Loss weights w = softmax(a), 1 / T at first, are moved so that the step which they cause lowers
    every task's loss on another batch. With g_i the gradients of the losses L_i, g'_j those of the
    losses L'_j of the second batch after a plain step theta - rate (w_1 g_1 + ... + w_T g_T),

        h_j = dL'_j / da = -rate (diag(w) - w w') (g_1 . g'_j, ..., g_T . g'_j)

    (heads take part in the step and in the products). MGDA combines these T hypergradients, their
    shortest convex combination is the gradient of a, and Adam moves a down. The network then
    minimises the sum of w_i L_i on the first batch, with the new w; heads too.

    Hypergradients of length 1 are combined (``normalisation="l2"``), so ``rate``, which is the
    network's learning rate, has no effect. With ``"none"`` they are combined as they are; then the
    1e-8 in Adam matters where losses are small.

    Where tasks are absent from a step, w is the softmax over the others, and a keeps its entries
    for absent tasks. The authors' own code takes L' from the validation split. Here, as in LibMTL,
    both batches are training batches.

    The paper's text could not be checked. The above is LibMTL's code, by the paper's second author.
    Published code departs: in all of it the network's step has a third batch; in
    Baijiong-Lin/MOML (the NeurIPS tables) the convex weights are those for hypergradients of
    length 1, and combine them as they are.

    Args:
        learning_rate: of a. The authors' code has 0.001, and 0.0001 on NYUv2.
        normalisation: of the hypergradients, ``"l2"`` or ``"none"``.
        tasks: the tasks of the run.
    """

    heads = "weighted"
    batches = 2
    lookahead = True
    claims = frozenset({"homogeneous"})
    logits: Tensor

    def __init__(
        self,
        learning_rate: float = 0.001,
        normalisation: Normalisation = "l2",
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_positive("learning_rate", learning_rate)
        check_choice("normalisation", normalisation, NORMALISATIONS)
        self.normalisation = normalisation
        self.register_buffer("logits", torch.zeros(len(tasks), dtype=torch.float64))  # a
        self.adam = Adam(self.logits, learning_rate)

    def lookahead_weights(self) -> Tensor:
        """See :meth:`GramianWeighting.lookahead_weights`."""
        return self.pick(self.logits).softmax(dim=0)

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`; moves a first."""
        tasks = len(losses) // self.batches
        hypergradients = self._hypergradients(gramian[:tasks, tasks:])
        shares = min_norm_point(hypergradients @ hypergradients.T)
        self.adam.move(self, self.logits, shares @ hypergradients)
        return self.lookahead_weights()

    def _hypergradients(self, products: Tensor) -> Tensor:
        """The hypergradients h_j of this step's tasks, one a row, [T, T].

        Args:
            products: of the first batch's gradients (rows) with the second's (columns).
        """
        weights = self.lookahead_weights()
        along = products.T @ weights  # w . products, for each j
        rows = -weights * (products.T - along[:, None])
        if self.normalisation == "none":
            return self.step.learning_rate * rows
        lengths = rows.norm(dim=1, keepdim=True)
        real = lengths > SMALLEST_RATIO * products.abs().amax(dim=0)[:, None]
        return torch.where(real, rows / lengths, 0.0)
