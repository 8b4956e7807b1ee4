"""Consistent multi-task learning."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.settings import check_not_negative, per_task
from mtlrun.weighting.base import TaskInfo
from mtlrun.weighting.fairgrad import FairGrad


class ConsMTL(FairGrad):
    """ConsMTL (Qin, Wang and Yan, "Towards Consistent Multi-Task Learning: Unlocking the Potential
    of Task-Specific Parameters", CVPR 2025).

    Shared parameters follow FairGrad: G x = x^(-1 / alpha), d = x_1 g_1 + ... + x_T g_T. The heads
    are trained to make the task gradients agree: with z the features that all tasks read and
    delta_i = dL_i / dz, the parameters phi_i of head i take the gradient

        dL_i / dphi_i + c_i d/dphi_i ( -strength <delta_i, sum_j x_j delta_j> )

    where the sum is held constant and c_i <= 1 shortens the second term to ``clip`` times the
    length of the first. delta_i is differentiated again, through the head alone.

    This follows the authors' code (jianke0604/MTLlib); the paper itself could not be read. Where
    the code departs: it multiplies d by T (``multiply_by_tasks``) and clips the gradient of the
    shared parameters to length 1; on Cityscapes its clip is 0.05 for segmentation and 0 for depth.
    In its networks of attention modules z is a tensor for each task; here it has to be one tensor.

    Args:
        strength: the code's lambda, 0 or more: 1 on NYUv2, 50 on Cityscapes and CelebA, 1e-3 on
            QM9. It depends on the scale of the losses.
        clip: longest alignment term relative to the loss's gradient on the head, 0 or more: one
            number for all tasks, or for some tasks theirs, and 0 for the rest.
        alpha: of FairGrad, greater than 0; the code has 2.
        multiply_by_tasks: whether d is multiplied by T, the tasks of the step.
        tasks: the tasks of the run.

    Raises:
        UserError: a clip below 0, or for a name that is no task of the run.
    """

    aligns_heads = True
    clip: Tensor

    def __init__(
        self,
        strength: float = 1.0,
        clip: float | Mapping[str, float] = 0.1,
        alpha: float = 2.0,
        multiply_by_tasks: bool = False,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__(alpha, multiply_by_tasks)
        check_not_negative(strength=strength)
        self.strength = strength
        if not isinstance(clip, Mapping):
            clip = {task.name: clip for task in tasks}
        limits = per_task("weighting.clip", clip, tasks, default=0.0)
        self.register_buffer("clip", limits, persistent=False)

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`GramianWeighting.weights`; says how the heads are aligned."""
        self.alignment = None  # where the solver fails
        weights = super().weights(gramian, losses)
        shares = weights / len(weights) if self.multiply_by_tasks else weights
        self.alignment = self.strength * shares
        self.alignment_limits = self.pick(self.clip).to(torch.float64)
        return weights
