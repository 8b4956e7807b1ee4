"""Parity of methods at the representation: GREAT, ConsMTL, RotoGrad."""

from typing import Any

import torch
from parity_kit import Row, close, first_step
from torch import Tensor, nn
from torch.nn import functional as F
from weighting_driver import CHANNELS, Drive, build, random_problem, task_infos

from mtlrun.types import StepInfo
from mtlrun.weighting.great import Great
from mtlrun.weighting.rotograd import RotoGrad


class AlignmentLayer(torch.autograd.Function):
    """The layer as the paper draws it: nothing forward, a product with its scales backward."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(scales)
        return features.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (scales,) = ctx.saved_tensors
        return gradient * scales, None


def great() -> None:
    """No code was published: a network with the layers in it, and reversal, on three heads."""
    weighting = build("great", 3, learning_rate=0.05, strength=0.7)
    assert isinstance(weighting, Great)
    drive = Drive(weighting, 3)
    for number in range(3):  # so that nothing is as it began
        drive.step(*random_problem(3, 16, number))
    draws = torch.Generator().manual_seed(7)
    trunk = torch.randn(5, CHANNELS, generator=draws, requires_grad=True)
    inputs = torch.randn(8, 5, generator=draws)
    heads = torch.randn(3, CHANNELS, generator=draws)
    scales = weighting.scales.detach().clone().requires_grad_()
    features = (inputs @ trunk).tanh()
    layers = [AlignmentLayer.apply(features, row.detach()) for row in scales]
    losses = [(z @ head).square().mean() for z, head in zip(layers, heads, strict=True)]
    (expected,) = torch.autograd.grad(sum(losses), trunk, retain_graph=True)

    plain = [
        torch.autograd.grad(loss, layer)[0] for loss, layer in zip(losses, layers, strict=True)
    ]
    scaled = torch.stack(plain) * scales[:, None]  # [T, N, C]
    seen = scaled / scaled.square().mean().sqrt()
    hidden = F.linear(seen, weighting.hidden_weight, weighting.hidden_bias).relu()
    logits = F.linear(hidden, weighting.output_weight, weighting.output_bias)
    loss = -logits.log_softmax(dim=-1)[torch.arange(3), :, torch.arange(3)].mean()
    own = [*weighting.parameters()]
    by_own = torch.autograd.grad(loss, [scales, *own[1:]])

    weighting.begin_step(StepInfo(0, 0, 3, (0, 1, 2)))
    weighting.representation = features.detach()
    direction = weighting.direction(torch.stack(plain).flatten(1), torch.stack(losses).detach())
    (got,) = torch.autograd.grad(features, trunk, direction.view_as(features))
    close(got, expected.double(), 1e-6)
    for parameter, gradient in zip(own, by_own, strict=True):
        factor = -0.7 if parameter is weighting.scales else 1.0
        assert parameter.grad is not None
        close(parameter.grad, factor * gradient.double(), 1e-6)
        assert parameter.grad.abs().max() > 1e-4


def cons_mtl() -> None:
    """The shared part's figures; the heads' part is in ``tests/engine/test_representation.py``."""
    first_step("cons_mtl", "fairgrad/fairgrad:alpha=2.0", tolerance=2e-6, multiply_by_tasks=True)


def rotograd() -> None:
    """The published algorithm's steps on two heads: directions, and its objective's gradient.

    It is the mean over rows of |R_i v - dL_i/dr_i|^2, v the mean of gradients that were brought to
    the length of their plain mean; so its gradient is 2 / N times that length times ours.
    """
    rows, channels = 6, 3
    draws = torch.Generator().manual_seed(11)
    weighting = RotoGrad(tasks=task_infos(2), channels=channels, burn_in=1, learning_rate=0.1)
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.2)
    first: list[Tensor] | None = None
    for step in range(4):
        features = torch.randn(rows, channels, generator=draws)
        heads = [nn.Linear(channels, 1, bias=False) for _ in range(2)]
        angles = weighting.angles.detach().clone().requires_grad_()
        rotations = weighting.rotations(angles)
        original, rotated = [], []
        for head, rotation in zip(heads, rotations.detach(), strict=True):
            with torch.no_grad():
                head.weight.copy_(torch.randn(1, channels, generator=draws))
            representation = features.clone().requires_grad_()
            turned = representation @ rotation.T
            loss = head(turned).square().mean()
            found = torch.autograd.grad(loss, [representation, turned])
            original.append(found[0])
            rotated.append(found[1])
        mean = sum(original) / 2
        length = mean.norm()
        mean = sum(g * length / g.norm() for g in original) / 2
        squares = [
            (mean @ rotation.T - gradient).square().sum(dim=1).mean()
            for rotation, gradient in zip(rotations, rotated, strict=True)
        ]
        (theirs,) = torch.autograd.grad(sum(squares), angles)

        norms = [g.norm() for g in original]
        if step in (0, 1):  # their counter meets the burn-in period before it counts the step
            first = norms
        assert first is not None
        ratios = [one / other for one, other in zip(norms, first, strict=True)]
        shares = [ratio / sum(ratios) for ratio in ratios]
        common = sum(share * norm for share, norm in zip(shares, norms, strict=True))
        expected = sum(g / norm * common for g, norm in zip(original, norms, strict=True))

        weighting.begin_step(StepInfo(0, 0, step, (0, 1)))
        weighting.representation = features
        with torch.no_grad():
            direction = weighting.direction(torch.stack(original).flatten(1), torch.ones(2))
        close(direction, expected.flatten().double(), 1e-5)
        assert weighting.angles.grad is not None
        close(2 / rows * length * weighting.angles.grad, theirs.double(), 1e-5)
        optimizer.step()
        weighting.after_step()


ROWS = [
    Row("great", "the paper's layers in a network; no code was published", great),
    Row("cons_mtl", "OptMN-Lab/fairgrad, vectors", cons_mtl),
    Row("rotograd", "the steps of adrianjav/rotograd by hand", rotograd),
]
