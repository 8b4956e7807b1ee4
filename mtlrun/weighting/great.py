"""Gradient adversarial training."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.settings import check_positive, check_whole
from mtlrun.weighting._absent import KeepsAbsent
from mtlrun.weighting._channels import as_representation, by_channel, shares_of_positions
from mtlrun.weighting.base import JacobianWeighting, TaskInfo

SMALLEST_SCALE = 1e-3


class Great(KeepsAbsent, JacobianWeighting):
    """GREAT (Sinha, Chen, Badrinarayanan and Rabinovich, "Gradient Adversarial Training of Neural
    Networks", arXiv 1806.08028, 2018), in its form for multi-task learning.

    Between the shared representation z and each task's head is a gradient alignment layer: the
    identity in the forward pass, and an element-wise product with the trained scales s_i in the
    backward pass. An auxiliary network tells from which task a gradient tensor comes; it learns by
    cross-entropy, and the scales by the reversed gradient of the same loss, so that the tasks'
    gradients become statistically indistinguishable:

        direction at z   sum_i s_i * dL_i/dz
        auxiliary net    down   CE = -mean_{i,n} log p(i | s_i * dL_i/dz_n)
        scales           up     strength * CE

    There is no public code, and the paper's text could not be read beyond its abstract; the roles
    of the layers, their reversed gradient and their absence in the forward pass are confirmed by
    the claims of the patent on the method (US 12,020,167). What is chosen here, since the paper's
    choice could not be checked:

    * scales begin at 1, one for each task and channel, the same at all positions of a map or a
      sequence.
      They stay at 0.001 or more: a layer that turns a gradient around would raise its task's loss;
    * the auxiliary network sees each row's gradient, divided by the root mean square of all scaled
      gradients of the step. So it sees how tasks differ in length, nothing depends on the scale of
      the losses, and nothing is gained by making all scales small;
    * it has one hidden layer of rectified linear units, on maps and sequences applied at each
      position and averaged over them (padding left out), and starts with zero output weights;
    * a task that is absent from a step is no class in it and keeps its scales.

    ``auxiliary_accuracy`` is that of the last step. It should come near 1 / T.

    Args:
        hidden: units of the auxiliary network's hidden layer, 1 or more.
        strength: factor of the reversed gradient, greater than 0.
        learning_rate: of the scales and the auxiliary network. None means the network's.
        tasks: the tasks of the run.
        channels: of the representation.
    """

    place = "representation"
    sees_representation = True
    claims = frozenset({"homogeneous"})
    drawn: Tensor
    auxiliary_accuracy: Tensor

    def __init__(
        self,
        hidden: int = 64,
        strength: float = 1.0,
        learning_rate: float | None = None,
        *,
        tasks: Sequence[TaskInfo],
        channels: int,
    ) -> None:
        super().__init__()
        check_whole("hidden", hidden, 1)
        check_positive("strength", strength)
        self.strength = strength
        self.learning_rate = learning_rate
        self.scales = nn.Parameter(torch.ones(len(tasks), channels))
        self.hidden_weight = nn.Parameter(torch.zeros(hidden, channels))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.output_weight = nn.Parameter(torch.zeros(len(tasks), hidden))
        self.output_bias = nn.Parameter(torch.zeros(len(tasks)))
        self.register_buffer("drawn", torch.tensor(False))
        self.register_buffer("auxiliary_accuracy", torch.tensor(torch.nan))
        self._ready = False  # the buffer is on the device, and reading it would wait for that

    def remark(self) -> str:
        """How well the auxiliary network tells whose a gradient is."""
        return f"GREAT's auxiliary accuracy {float(self.auxiliary_accuracy):.3f} in the last step"

    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`JacobianWeighting.direction`; fills the gradients of its own parameters."""
        del losses
        assert self.representation is not None
        gradients = by_channel(jacobian, self.representation)
        shares = shares_of_positions(self.representation).to(gradients)
        if not self._ready:
            self._draw_hidden_weight()
        with torch.enable_grad():
            scaled = gradients * self.shown(self.scales)[:, None, :, None]
            self._train(scaled, shares)
        return as_representation(scaled.detach().sum(dim=0), self.representation)

    def _draw_hidden_weight(self) -> None:
        if not self.drawn:
            deviation = math.sqrt(2 / self.hidden_weight.shape[1])
            draws = torch.randn(self.hidden_weight.shape, generator=self.generator("great"))
            self.hidden_weight.copy_(draws * deviation)
            self.drawn.fill_(True)
        self._ready = True

    def _train(self, scaled: Tensor, shares: Tensor) -> None:
        """Gradients of the auxiliary loss, reversed for the scales.

        Args:
            scaled: [T, N, C, positions].
            shares: of each position in its row's mean, [N, positions].
        """
        logits = self._logits(_normalised(scaled, shares), shares)  # [T, N, T]
        origin = torch.arange(len(scaled), device=scaled.device)[:, None].expand(logits.shape[:2])
        loss = F.cross_entropy(logits.flatten(0, 1), origin.flatten())
        own = list(self.parameters())
        for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
            parameter.grad = -self.strength * gradient if parameter is self.scales else gradient
        self.auxiliary_accuracy.copy_((logits.argmax(dim=-1) == origin).float().mean())

    def _logits(self, gradients: Tensor, shares: Tensor) -> Tensor:
        """For each row of each task's gradient a number for each task, [T, N, T]."""
        hidden = torch.einsum("hc,tncp->tnph", self.hidden_weight, gradients) + self.hidden_bias
        pooled = torch.einsum("tnph,np->tnh", hidden.relu(), shares)
        logits: Tensor = pooled @ self.pick(self.output_weight).T + self.pick(self.output_bias)
        return logits

    def after_step(self) -> None:
        """Keep the scales positive, and those of absent tasks as they were."""
        super().after_step()
        with torch.no_grad():
            self.scales.clamp_(min=SMALLEST_SCALE)


def _normalised(scaled: Tensor, shares: Tensor) -> Tensor:
    """The tensor over its root mean square; zeros as they are. See :meth:`Great._train`."""
    largest = scaled.detach().abs().amax()
    unit = scaled / torch.where(largest > 0, largest, 1.0)
    mean_square = (unit.square().mean(dim=(0, 2)) * shares).sum() / len(shares)
    return unit * torch.where(mean_square > 0, mean_square, 1.0).rsqrt()
