"""Adam for a method that moves its own weights, outside the run's optimizer."""

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class Adam(nn.Module):
    """Adam (Kingma and Ba, ICLR 2015) for one tensor, its state in buffers for the checkpoint.

    For weights whose gradient is known only after the network's step, or whose learning rate must
    not follow the network's scheduler.

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
        self.register_buffer("count", torch.zeros((), dtype=torch.float32))

    @torch.no_grad()
    def step(self, values: Tensor, gradient: Tensor) -> None:
        """Move ``values`` down ``gradient``, in place."""
        adam(
            [values],
            [gradient.to(values)],
            [self.first],
            [self.second],
            [],
            [self.count],
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )
