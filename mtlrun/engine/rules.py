"""What happens to the weights of any method: smoothing over steps, and the length of the step."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

Rescale = Literal["none", "sum", "norm"]

NEARLY_ZERO = 1e-12
"""A sum of weights this small beside its parts is left as it is."""

ROUNDING = 1e-6
"""A squared norm this small beside those of its parts is left as it is: Gramians of float32
gradients are exact to some 1e-7 of their diagonal, so that it may be nothing but rounding."""


class WeightRules:
    """Changes the weights that a method gives before they apply.

    Smoothing is that of CR-MOGM (Zhou et al., "On the Convergence of Stochastic Multi-Objective
    Gradient Manipulation and Beyond", NeurIPS 2022): weights become ``smoothing`` times those of
    the step before plus the rest times the new ones. It starts from the first weights rather than
    from equal ones, so that nothing is assumed about their sum.

    Rescaling makes steps of different methods comparable: ``"sum"`` brings the weights to the sum
    T, ``"norm"`` brings the shared gradient to the norm that equal weights would give it, where
    gradients are taken. Weights that sum to nearly 0, and weighted sums that nearly vanish (at
    Pareto stationary points), are left as they are.

    Args:
        tasks: number of tasks of the run.
        smoothing: 0 for none, below 1.
        rescale: see above.
    """

    def __init__(self, tasks: int, smoothing: float = 0.0, rescale: Rescale = "none") -> None:
        self.smoothing = smoothing
        self.rescale = rescale
        self.smoothed = torch.full((tasks,), torch.nan, dtype=torch.float64)

    @property
    def active(self) -> bool:
        """Whether weights change at all."""
        return self.smoothing > 0 or self.rescale != "none"

    def __call__(
        self, weights: Tensor, present: Sequence[int], gramian: Tensor | None = None
    ) -> Tensor:
        """The weights that apply.

        Args:
            weights: of this step's tasks, [T].
            present: their indices.
            gramian: inner products of their gradients, [T, T]; needed for ``"norm"``.
        """
        if self.smoothing > 0:
            weights = self._smooth(weights, present)
        return self.rescaled(weights, gramian)

    def rescaled(self, weights: Tensor, gramian: Tensor | None = None) -> Tensor:
        """The weights at the length asked for; see :meth:`__call__`."""
        if self.rescale == "sum":
            return weights * self._sum_factor(weights)
        if self.rescale == "norm":
            assert gramian is not None
            return weights * norm_factor(weights, gramian)
        return weights

    def _smooth(self, weights: Tensor, present: Sequence[int]) -> Tensor:
        self.smoothed = self.smoothed.to(weights.device)
        places = torch.tensor(present, device=weights.device)
        before = self.smoothed[places].to(weights)
        new = self.smoothing * before + (1 - self.smoothing) * weights
        new = torch.where(before.isnan(), weights, new)
        self.smoothed[places] = new.to(self.smoothed)
        return new

    @staticmethod
    def _sum_factor(weights: Tensor) -> Tensor:
        total = weights.sum()
        usable = total > NEARLY_ZERO * weights.abs().sum()
        return torch.where(usable, len(weights) / torch.where(usable, total, 1.0), 1.0)

    def state_dict(self) -> dict[str, Tensor]:
        """What has to be kept between steps."""
        return {"smoothed": self.smoothed.cpu().clone()} if self.smoothing > 0 else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The reverse of :meth:`state_dict`."""
        if "smoothed" in state:
            self.smoothed = state["smoothed"].clone()


def norm_factor(weights: Tensor, gramian: Tensor) -> Tensor:
    """What brings the weighted sum of the gradients to the norm of their plain sum.

    Args:
        weights: [T].
        gramian: inner products of the gradients, [T, T].
    """
    own = weights @ gramian @ weights
    parts = weights.square() @ gramian.diagonal()
    usable = own > ROUNDING * parts
    ratio = gramian.sum().clamp(min=0) / torch.where(usable, own, 1.0)
    return torch.where(usable, ratio.sqrt(), 1.0)
