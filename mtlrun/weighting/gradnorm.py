"""GradNorm."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mtlrun.errors import UserError
from mtlrun.settings import check_choice, check_not_negative
from mtlrun.weighting.base import GramianWeighting, TaskInfo

SMALLEST_WEIGHT = 1e-3


class GradNorm(GramianWeighting):
    """Gradient normalisation (Chen, Badrinarayanan, Lee and Rabinovich, ICML 2018, algorithm 1).

    Learns the weights w of the sum of w_i L_i so that gradient norms on the last shared layer meet
    a target. With n_i = |dL_i / dW|, the loss ratio l_i = L_i(t) / L_i(0), the relative inverse
    training rate r_i = l_i / mean(l) and means over the tasks of the step,

        L_grad = sum_i | w_i n_i - mean(w n) r_i^alpha |                                  (eq. 2)

    where the target is a constant, so dL_grad / dw_i = n_i sign(w_i n_i - mean(w n) r_i^alpha) in
    closed form. The network moves with the weights as they were, then the weights with that
    gradient, by the run's optimizer, and are scaled back to the sum T. The paper uses Adam; under
    plain SGD the step of a weight grows with its gradient's norm and wants another learning rate.

    Where the paper is silent:

    * weights are kept at 0.001 or more before they are scaled back, so that none turns negative;
    * a task that is absent from a step keeps its weight, and the others keep the sum they had;
    * a task whose first loss is 0 has the loss ratio 1 until a positive loss comes, which is then
      its initial loss.

    Published code departs: there is no official one; LucasBoTang/GradNorm starts the weights' Adam
    anew in each step, lucidrains/gradnorm-pytorch inverts r_i and averages over tasks in L_grad.

    Args:
        alpha: strength of the pull towards equal training rates. The paper uses 1.5 on NYUv2 and
            0.12 on its toy; 0 asks for equal gradient norms.
        initial_loss: L_i(0) is the task's ``"first"`` loss in training, or its loss by ``"theory"``
            in an untrained network, log C for a cross-entropy over C classes (the paper's footnote
            2, for an unstable start).
        learning_rate: of the weights; the paper uses 0.025 (section 5.1). None means the network's.
        tasks: the tasks of the run.

    Raises:
        UserError: ``initial_loss="theory"`` with a task whose loss has no such value.
    """

    heads = "weighted"
    place = "last_layer"
    claims = frozenset({"homogeneous"})
    initial_losses: Tensor

    def __init__(
        self,
        alpha: float = 1.5,
        initial_loss: Literal["first", "theory"] = "first",
        learning_rate: float | None = 0.025,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_choice("initial_loss", initial_loss, ("first", "theory"))
        check_not_negative(alpha=alpha)
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.task_weights = nn.Parameter(torch.ones(len(tasks), dtype=torch.float64))
        initial_losses = torch.full((len(tasks),), torch.nan, dtype=torch.float64)
        if initial_loss == "theory":
            initial_losses = _theoretical_losses(tasks)
        self.register_buffer("initial_losses", initial_losses)  # NaN: not seen yet
        self._before_step: Tensor | None = None

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`; fills the gradient of the task weights."""
        weights = self.pick(self.task_weights.detach()).clone()
        norms = gramian.diagonal().clamp(min=0).sqrt()  # [T]
        target = (weights * norms).mean() * self._training_rates(losses) ** self.alpha
        gradient = torch.zeros_like(self.task_weights)
        self.put(gradient, norms * torch.sign(weights * norms - target))
        self.task_weights.grad = gradient
        self._before_step = self.task_weights.detach().clone()
        return weights

    def after_step(self) -> None:
        """Scale the weights back, see the class."""
        if self._before_step is None:
            return
        kept = self._before_step
        moved = self.pick(self.task_weights.detach()).clamp(min=SMALLEST_WEIGHT)
        self.put(kept, moved * (self.pick(kept).sum() / moved.sum()))
        with torch.no_grad():
            self.task_weights.copy_(kept)
        self._before_step = None

    def _training_rates(self, losses: Tensor) -> Tensor:
        """Relative inverse training rates r, [T]; notes the initial losses of new tasks."""
        initial = self.pick(self.initial_losses)
        initial = torch.where(initial.isnan() & (losses > 0), losses, initial)
        self.put(self.initial_losses, initial)
        ratios = torch.where(initial.isnan(), torch.ones_like(losses), losses / initial).clamp(
            min=0
        )
        mean = ratios.mean()
        return ratios / mean if mean > 0 else torch.ones_like(ratios)


def _theoretical_losses(tasks: Sequence[TaskInfo]) -> Tensor:
    unknown = [task.name for task in tasks if task.initial_loss is None]
    if unknown:
        raise UserError(
            "weighting.initial_loss=theory needs the loss of an untrained network, which is not "
            f"known for the losses of {', '.join(unknown)}. Use weighting.initial_loss=first."
        )
    return torch.tensor([task.initial_loss for task in tasks], dtype=torch.float64)
