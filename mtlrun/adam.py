"""Adam for a method or a sampler that moves its own weights, outside the run's optimizer."""

from typing import Protocol

import torch
from torch import Tensor, nn

EPSILON = 1e-8


class KeepsTasks(Protocol):
    """Knows which tasks a step has, as a :class:`~mtlrun.weighting.base.Weighting` does."""

    def pick(self, state: Tensor) -> Tensor:
        """The entries of the step's tasks."""

    def put(self, state: Tensor, values: Tensor) -> None:
        """Write these entries."""


class Adam(nn.Module):
    """Adam (Kingma and Ba, ICLR 2015) for one tensor, its state in buffers for the checkpoint.

    For weights whose gradient is known only after the network's step, or whose learning rate must
    not follow the network's scheduler. Nothing is read back from the device.

    Args:
        like: a tensor of the shape and type that is moved.
        learning_rate: of the steps.
        weight_decay: added to the gradient times the tensor, as in ``torch.optim.Adam``.
        betas: of the moving averages.
    """

    first: Tensor
    second: Tensor
    count: Tensor

    def __init__(
        self,
        like: Tensor,
        learning_rate: float,
        *,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.betas = betas
        self.register_buffer("first", torch.zeros_like(like))
        self.register_buffer("second", torch.zeros_like(like))
        # float64: 1 - 0.999^count in float32 is off in the fifth digit
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def step(self, values: Tensor, gradient: Tensor) -> None:
        """Move ``values`` down ``gradient``, in place."""
        gradient = gradient.to(values) + self.weight_decay * values
        self.count += 1
        beta1, beta2 = self.betas
        self.first.lerp_(gradient, 1 - beta1)
        self.second.lerp_(gradient.square(), 1 - beta2)
        first = self.first / (1 - beta1**self.count)
        second = self.second / (1 - beta2**self.count)
        values -= self.learning_rate * first / (second.sqrt() + EPSILON)

    def move(self, weighting: KeepsTasks, values: Tensor, gradient: Tensor) -> None:
        """Move the entries of the step's tasks in ``values``; absent tasks keep theirs.

        Args:
            weighting: the method.
            values: one entry a task of the run.
            gradient: [T].
        """
        of_all = torch.zeros_like(values)
        weighting.put(of_all, gradient)
        moved = values.clone()
        self.step(moved, of_all)
        weighting.put(values, weighting.pick(moved))
