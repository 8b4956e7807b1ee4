"""Parity of methods that follow how losses move: FAMO, STCH, IGB, GO4Align, LDC-MTL and others."""

import math
from collections.abc import Callable, Sequence

import torch
from parity_kit import Row, close
from torch import Tensor
from weighting_driver import Drive, build
from weighting_toys import toy2d_reference, walk_toy2d

from mtlrun.weighting.auto_lambda import AutoLambda
from mtlrun.weighting.base import LossWeighting, StepInfo
from mtlrun.weighting.famo import FAMO

LOWER_BOUNDS = {"task0": -2.1, "task1": -21.0}
"""Of the toy's losses, as FAMO's own script has them."""


def loss_weights(weighting: LossWeighting, losses: list[float], epoch: int = 0) -> Tensor:
    """The weights that apply to these losses in a step of this epoch, [T]."""
    weighting.step = StepInfo(0, epoch, 0, tuple(range(len(losses))))
    leaves = [torch.tensor(loss, requires_grad=True) for loss in losses]
    weighting.objective(leaves).backward()
    return torch.stack([leaf.grad for leaf in leaves if leaf.grad is not None])


def famo() -> None:
    """FAMO's 2-D toy, two walks of the six. The others are in ``test_famo``."""
    walk_famo([("famo", 0.0, (-8.5, 7.5)), ("famo gamma 0.01", 0.01, (0.0, 0.0))], 1e-3)


def walk_famo(walks: Sequence[tuple[str, float, tuple[float, float]]], tolerance: float) -> None:
    """Walk FAMO's 2-D toy side by side, from starts and with gammas of the reference.

    The next iteration's losses move the logits there, and nothing is clipped.

    Args:
        walks: of each the reference's name, gamma and the start.
        tolerance: of the positions up to step 2000.
    """
    starts = [start for _, _, start in walks]
    found = walk_toy2d(starts, [_famo_on_the_toy(gamma) for _, gamma, _ in walks], 2000)
    for number, (name, _, start) in enumerate(walks):
        for step, position in toy2d_reference(name)[start].items():
            close(found[step][number], position, tolerance)


def _famo_on_the_toy(gamma: float) -> Callable[[Tensor, Tensor], Tensor]:
    weighting = build("famo", 2, gamma=gamma, min_losses=LOWER_BOUNDS)
    assert isinstance(weighting, FAMO)
    weighting.step = StepInfo(0, 0, 0, (0, 1))
    seen: list[Tensor] = []

    def direction(jacobian: Tensor, losses: Tensor) -> Tensor:
        if seen:
            weighting.reevaluated(losses)
        seen.append(losses)
        leaves = [loss.requires_grad_() for loss in losses.clone().unbind()]
        weights = torch.stack(torch.autograd.grad(weighting.objective(leaves), leaves))
        return weights @ jacobian

    return direction


def stch() -> None:
    """Losses (2, 1) with nadirs (1, 2): ratios r = (2, 1/2), weights 2 r^(1/mu) / sum / L.

    For mu = 1 that is 2 (0.8, 0.2) / (2, 1), for mu = 1/2 2 (16, 1) / 17 / (2, 1).
    """
    history = [torch.tensor(means).double() for means in ([9.0, 9.0], [1.0, 2.0], [5.0, 5.0])]
    for mu, expected in ((1.0, (0.8, 0.4)), (0.5, (16 / 17, 2 / 17))):
        weighting = build("stch", 2, mu=mu, warmup_epochs=1)
        assert isinstance(weighting, LossWeighting)
        for epoch in range(4):
            weighting.start_epoch(history[:epoch])
            by_hand = (0.5, 1.0) if epoch < 2 else expected  # of the sum of log losses: 1 / L
            close(loss_weights(weighting, [2.0, 1.0], epoch), by_hand, 1e-6)


def igb() -> None:
    """Losses (2, 1) with base losses (1, 2): weights 2 softmax(2, 1/2) / L."""
    history = [torch.tensor(means).double() for means in ([9.0, 9.0], [1.0, 2.0], [5.0, 5.0])]
    weighting = build("igb", 2)
    assert isinstance(weighting, LossWeighting)
    for epoch in range(4):
        weighting.start_epoch(history[:epoch])
        by_hand = (0.5, 1.0) if epoch < 2 else (0.81757448, 0.36485104)
        close(loss_weights(weighting, [2.0, 1.0], epoch), by_hand, 1e-6)


def go4align() -> None:
    """Losses (1, 2, 4), twice: indicators are p 7 / L with p = exp(-0.1 n L) over its sum.

    The first stands alone, (2.65, 1.20, 0.49), and the others share their mean.
    """
    weighting = build("go4align", 3, step_size=0.1)
    assert isinstance(weighting, LossWeighting)
    for steps in (1, 2):
        shares = [math.exp(-0.1 * steps * loss) for loss in (1, 2, 4)]
        first, second, third = (
            7 * share / sum(shares) / loss for share, loss in zip(shares, (1, 2, 4), strict=True)
        )
        mean = (second + third) / 2
        close(loss_weights(weighting, [1.0, 2.0, 4.0]), (first, mean, mean), 1e-6)


def ldc_mtl() -> None:
    """The rules for CelebA (sigmoids of 1, 0.73105858) and NYUv2 (first losses 4, 2, 1) by hand."""
    celeba = build("ldc_mtl", 3, penalty=0.01, router="sigmoid")
    assert isinstance(celeba, LossWeighting)
    sigmoid, slope = 0.73105858, 0.19661193
    signs = torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64)  # of 1 < 3 and 3 > 2
    close(loss_weights(celeba, [1.0, 3.0, 2.0]), 1 / 3 + 0.01 * sigmoid * signs, 1e-6)
    losses = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    assert isinstance(celeba.logits, Tensor)
    assert celeba.logits.grad is not None
    close(celeba.logits.grad, slope * losses * (1 / (3 * sigmoid) + 0.01 * signs), 1e-6)

    nyuv2 = build("ldc_mtl", 3, normalisation="initial_ratio")
    assert isinstance(nyuv2, LossWeighting)
    close(loss_weights(nyuv2, [4.0, 2.0, 1.0]), (1 / 12, 1 / 6, 1 / 3), 1e-6)  # all alike: no signs
    by_hand = (1.05 / 12, 0.9 / 6, 1.05 / 3)  # normalised (1, 1/2, 1): signs 1, -2, 1
    close(loss_weights(nyuv2, [4.0, 1.0, 1.0]), by_hand, 1e-6)


def excess_mtl() -> None:
    """Two steps of two gradients by hand; with 1e-7 added to S the code gives the same 6 digits.

    Excess risks are (3, 3), then (1 / sqrt 2, 16 / 4).
    """
    first = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    losses = torch.ones(2, dtype=torch.float64)
    code = Drive(build("excess_mtl", 2, warmup_epochs=0, reduction="sum"), 2)
    close(code.step(first, losses), first.sum(dim=0), 1e-6)
    ratio = math.exp(math.sqrt(0.5) / 3 - 4 / 3)  # of the first weight to the second
    weights = torch.tensor([ratio, 1.0], dtype=torch.float64) * 2 / (1 + ratio)
    close(code.step(second, losses), weights @ second, 1e-6)

    paper = Drive(build("excess_mtl", 2, warmup_epochs=1), 2)
    for jacobian in (first, second):
        close(paper.step(jacobian, losses), jacobian.mean(dim=0), 1e-6)
    # S is now ((2, 4), (9, 16)), baselines are means of (3, 1 / sqrt 2) and of (3, 4)
    risks = (1 / math.sqrt(3), 16 / math.sqrt(32))
    baselines = ((3 + math.sqrt(0.5)) / 2, 3.5)
    ratio = math.exp(risks[0] / baselines[0] - risks[1] / baselines[1])
    weights = torch.tensor([ratio, 1.0], dtype=torch.float64) / (1 + ratio)
    close(paper.step(second, losses, epoch=1), weights @ second, 1e-6)


def auto_lambda() -> None:
    """The hypergradient against the code's finite difference, its virtual step without momentum.

    Losses log(1 + a_i . theta + |theta - c_i|^2) differ between the two batches.
    """
    draws = torch.Generator().manual_seed(4)
    centres = torch.randn(2, 3, 5, generator=draws, dtype=torch.float64)  # [batch, task, P]
    theta = torch.randn(5, generator=draws, dtype=torch.float64)
    rate = 0.1

    def losses(at: Tensor, batch: int) -> Tensor:
        return (1 + (at - centres[batch]).square().sum(dim=1)).log()

    def rows(at: Tensor, batch: int) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(lambda x: losses(x, batch), at)
        assert isinstance(jacobian, Tensor)
        return jacobian

    weighting = build("auto_lambda", 3, primary_tasks=["task0", "task2"])
    assert isinstance(weighting, AutoLambda)
    weighting.step = StepInfo(0, 0, 0, (0, 1, 2), rate)
    now = rows(theta, 0)
    ahead = rows(theta - rate * weighting.lookahead_weights() @ now, 1)
    stacked = torch.cat([now, ahead])
    shown = torch.cat([losses(theta, 0), losses(theta, 1)])
    weights = weighting.weights(stacked @ stacked.T, shown)

    meta = ahead[0] + ahead[2]
    nudge = 0.01 / meta.norm()
    plus, minus = losses(theta + nudge * meta, 0), losses(theta - nudge * meta, 0)
    published = -rate * (plus - minus) / (2 * nudge)
    close(weighting.adam.first / (1 - 0.9), published, 1e-5)
    close(weights, 0.1 - 1e-4 * published.sign(), 1e-8)  # Adam's first step


ROWS = [
    Row("famo", "Cranial-XIX/FAMO, 2-D toy", famo),
    Row("stch", "the rule of Xi-L/STCH by hand", stch),
    Row("igb", "the rule of YanqiDai/IGB4MTL by hand", igb),
    Row("go4align", "the rule of autumn9999/GO4Align by hand", go4align),
    Row("ldc_mtl", "the rules of OptMN-Lab/LDC-MTL by hand", ldc_mtl),
    Row("excess_mtl", "the rules of yifei-he/ExcessMTL and the paper by hand", excess_mtl),
    Row("auto_lambda", "the finite difference of lorenmt/auto-lambda", auto_lambda),
]
