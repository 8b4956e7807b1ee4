"""Multi-objective gradient correction."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.settings import check_not_negative, check_positive
from mtlrun.weighting._simplex import Shares, equal_shares, project_on_simplex
from mtlrun.weighting.base import GramianWeighting, TaskInfo


class MoCo(GramianWeighting):
    """MoCo (Fernando et al., "Mitigating Gradient Bias in Multi-objective Learning", ICLR 2023).

    MGDA for noisy gradients: these are averaged, and instead of being solved for anew in each step
    the weights take one step of projected gradient descent. In step k = 1, 2, ..., with P the
    projection on the simplex,

        y_i <- y_i + (beta / k^beta_decay) (g_i - y_i),  y = 0 at first
        lambda <- P(lambda - (gamma / k^gamma_decay) (Y Y' + rho I) lambda),  1 / T at first
        direction = sum_i lambda_i y_i

    Where tasks are absent from a step, see :class:`~mtlrun.weighting._simplex.Shares`: the others
    divide their part of lambda among them. Heads train on the plain losses.

    The step of lambda grows with the squared scale of the losses, so gamma has to suit it: a large
    one puts all weight on one task at a time.

    The paper's text could not be checked. The above is its first author's later code,
    heshandevaka/Trade-Off-MOL, and so are the defaults. Published code departs: the code of the
    ICLR tables, heshandevaka/MoCo, has twice the step of lambda (gamma 0.2 here for its 0.1), no
    rho, and offers the decay; LibMTL brings each gradient to the length of its loss and takes a
    softmax in place of the projection, which is not offered here.

    Args:
        beta: how far the average goes towards a new gradient, 0 < beta <= 1; 1 does not average.
        beta_decay: its decay over the steps, 0 or more.
        gamma: step size of lambda, 0 or more.
        gamma_decay: its decay over the steps, 0 or more.
        rho: pull of lambda towards equal weights, 0 or more.
        tasks: the tasks of the run.
    """

    tracks_rows = True
    shares: Tensor

    def __init__(
        self,
        beta: float = 0.1,
        beta_decay: float = 0.0,
        gamma: float = 0.1,
        gamma_decay: float = 0.0,
        rho: float = 0.1,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_positive("beta", beta)
        if beta > 1:
            raise ValueError(f"beta={beta}: must be 1 or less")
        check_not_negative(beta_decay=beta_decay, gamma=gamma, gamma_decay=gamma_decay, rho=rho)
        self.beta = beta
        self.beta_decay = beta_decay
        self.gamma = gamma
        self.gamma_decay = gamma_decay
        self.rho = rho
        self.register_buffer("shares", equal_shares(len(tasks)))  # lambda

    def tracking(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`GramianWeighting.tracking`."""
        rate = self.beta / (self.step.step + 1) ** self.beta_decay
        return torch.ones_like(losses), torch.full_like(losses, rate)

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`; moves lambda first."""
        shares = Shares(self, self.shares)
        gamma = self.gamma / (self.step.step + 1) ** self.gamma_decay
        ridge = self.rho * torch.eye(len(losses), dtype=torch.float64)
        gradient = (gramian + ridge) @ shares.values
        moved = torch.from_numpy(project_on_simplex((shares.values - gamma * gradient).numpy()))
        shares.move(moved)
        return moved
