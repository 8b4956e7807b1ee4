"""Impartial multi-task learning, both parts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlrun.weighting._absent import KeepsAbsent
from mtlrun.weighting._positive import RefusesNegative
from mtlrun.weighting.base import GramianWeighting, TaskInfo
from mtlrun.weighting.imtl_g import impartial_weights


class IMTL(KeepsAbsent, RefusesNegative, GramianWeighting):
    """IMTL (Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021).

    Joins the paper's two balances. Each task has a learned s_i, from 0, and the scaled loss

        e^(s_i) L_i - s_i                                                     (IMTL-L)

    of which e^(s_i) L_i - 1 is the gradient on s_i, so that every e^(s_i) L_i is drawn to 1. Heads
    train on these losses. The shared parameters get w_1 e^(s_1) g_1 + ... + w_T e^(s_T) g_T with
    the weights w of :class:`~mtlrun.weighting.imtl_g.IMTLG` (IMTL-G) on the gradients of the scaled
    losses. See there for its edge cases and for where gradients are taken. IMTL-G's weights do not
    apply to the heads or to s, which is why both balances fit together. The paper trains s like the
    network. It is never decayed.

    As in IMTL-L a loss of 0 or below gives its s no gradient, as it would grow without end, and
    negative mean losses are refused after the epoch. A task that is absent from a step keeps its s.

    Args:
        learning_rate: of s; None means the network's.
        tasks: the tasks of the run.

    Raises:
        SolverError: see :class:`~mtlrun.weighting.imtl_g.IMTLG`.
        UserError: a task's mean loss over an epoch is negative (when the next one starts).
    """

    heads = "weighted"
    claims = frozenset({"homogeneous"})

    def __init__(self, learning_rate: float | None = None, *, tasks: Sequence[TaskInfo]) -> None:
        super().__init__(tasks)
        self.learning_rate = learning_rate
        self.log_scale = nn.Parameter(torch.zeros(len(tasks), dtype=torch.float64))  # s, [T]

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`; fills the gradient of s."""
        scales = self.shown(self.log_scale).detach().exp()  # [T]
        gradient = torch.zeros_like(self.log_scale)
        self.put(gradient, torch.where(losses > 0, scales * losses - 1, 0.0))
        self.log_scale.grad = gradient
        self.head_weights = scales
        return impartial_weights(scales[:, None] * gramian * scales) * scales
