"""Parity of the first methods: losses, GradNorm, MGDA, PCGrad, GradDrop."""

import math
import random

import torch
from parity_kit import Row, aggregator_cases, close, first_step, toy2d
from torch import Tensor
from weighting_driver import Drive, build, reference
from weighting_toys import run_gradnorm_toy, toy2d_reference, walk_toy2d

from mtlrun.weighting.graddrop import drop_signs
from mtlrun.weighting.pcgrad import project


def equal() -> None:
    first_step("equal", "nash/ls", tolerance=1e-6)
    toy2d("equal", only=[(9.0, 9.0)])


def static() -> None:
    """With all weights 1 the published sum; otherwise the weighted sum of rows."""
    first_step("static", "nash/ls", tolerance=1e-6)
    for jacobian, losses, _ in aggregator_cases():
        drive = Drive(build("static", len(losses), weights={"task0": 2.5, "task1": 0}), len(losses))
        expected = 2.5 * jacobian[0] + jacobian[2:].sum(dim=0)
        close(drive.step(jacobian, losses), expected, 1e-12)


def uncertainty() -> None:
    """The published form at its start, and two steps of the paper's, the default, by hand.

    With a gaussian, a classification and a laplace loss of 2 the gradients on s are -1/2, -3/2 and
    -1/2 at s = 0. Training is in :func:`test_uncertainty_notebook`.
    """
    first_step("uncertainty", "nash/uw", tolerance=1e-6, form="half")
    drive = Drive(build("uncertainty", 3), 3)
    drive.optimizer = torch.optim.SGD(drive.weighting.parameters(), lr=0.1)
    identity = torch.eye(3, dtype=torch.float64)
    for s in ([0.0, 0.0, 0.0], [0.05, 0.15, 0.05]):
        expected = torch.tensor([math.exp(-s[0]) / 2, math.exp(-s[1]), math.exp(-s[2] / 2)])
        close(drive.step(identity, 2 * identity.sum(dim=0)), expected, 1e-6)


def dwa() -> None:
    """mtan's rule at temperature 2 on L(0) = (2, 4), L(1) = (1, 3), L(2) = (1, 1.5).

    Ratios in epoch 2 are (0.5, 0.75): weights 2 e^0.25 / (e^0.25 + e^0.375) and 2 minus that. In
    epoch 3 they are (1, 0.5).
    """
    history = torch.tensor([[2.0, 4.0], [1.0, 3.0], [1.0, 1.5]], dtype=torch.float64)
    drive = Drive(build("dwa", 2, temperature=2.0), 2)
    jacobian, losses = torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    weights = [(1.0, 1.0), (1.0, 1.0), (0.93758134, 1.06241866), (1.12435300, 0.87564700)]
    for epoch, expected in enumerate(weights):
        drive.weighting.start_epoch(list(history[:epoch]))
        close(drive.step(jacobian, losses), expected, 1e-6)


def gradnorm(iterations: int = 101) -> None:
    found = run_gradnorm_toy(iterations)
    for key, expected in reference("weighting_gradnorm_toy")["iterations"].items():
        if int(key) in found:
            weights, losses = found[int(key)]
            close(weights, expected["weights"], 2e-5)
            torch.testing.assert_close(losses, torch.tensor(expected["losses"]), rtol=2e-4, atol=0)


def mgda() -> None:
    """Exact answers to 1e-6; the published solver, which stops early and clips, to 1e-4.

    On the toy its clip to [0.001, 0.999] matters, since one gradient is ten times the other: there
    our weights are clipped too. Unclipped they lead 0.009 away in 2000 steps.
    """
    first_step("mgda", "mgda_exact", kind="exact", tolerance=1e-6)
    first_step("mgda", "nash/mgda:normalization=none", tolerance=1e-4, reduction="sum")
    for (jacobian, losses, case), tolerance in zip(
        aggregator_cases(), (1e-4, 1e-4, 2e-3), strict=True
    ):  # in the last case the published weights stop 0.0014 short of their corner
        weighting = build("mgda", len(losses), normalisation="loss", reduction="sum")
        direction = Drive(weighting, len(losses)).step(jacobian, losses)
        close(direction, case["published"]["nash/mgda:normalization=loss"]["direction"], tolerance)
    toy2d("mgda", change=lambda weights: weights.clamp(2 * 0.001, 2 * 0.999), reduction="sum")


def pcgrad() -> None:
    """Nash-MTL shuffles one list in place, once for each task, and lets it hold the task itself."""
    for jacobian, losses, case in aggregator_cases():
        for seed in (0, 1):
            shuffle = random.Random(seed).shuffle
            order = list(range(len(losses)))
            orders = []
            for _ in losses:
                shuffle(order)
                orders.append(list(order))
            gramian = (jacobian @ jacobian.T).numpy()
            projected = project(gramian, torch.tensor(orders).numpy())
            direction = torch.from_numpy(projected).sum(dim=0) @ jacobian
            close(direction, case["published"][f"nash/pcgrad:seed={seed}"]["direction"], 1e-6)
    toy2d("pcgrad", only=[(0.0, 0.0)])


def graddrop() -> None:
    """FAMO's 2-D toy from (0, 0), with its draws and its clipping to norm 1.

    Its draws come after those of the 3001 steps from the first start.
    """
    draws = torch.Generator().manual_seed(42)
    for _ in range(3001):
        torch.rand(2, generator=draws)

    def direction(jacobian: Tensor, losses: Tensor) -> Tensor:
        dropped = drop_signs(jacobian, torch.rand(2, generator=draws).double(), torch.zeros(2))
        return dropped * min(1.0, 1 / (dropped.norm().item() + 1e-6))

    found = walk_toy2d([(0.0, 0.0)], [direction], 2000)
    for step, position in toy2d_reference("graddrop")[0.0, 0.0].items():
        close(found[step][0], position, 1e-4)


ROWS = [
    Row("equal", "AvivNavon/nash-mtl, vectors and 2-D toy", equal),
    Row("static", "AvivNavon/nash-mtl, vectors", static),
    Row("uncertainty", "AvivNavon/nash-mtl, vectors; the paper's form by hand", uncertainty),
    Row("dwa", "the rule of lorenmt/mtan by hand", dwa),
    Row("gradnorm", "brianlan/pytorch-grad-norm, toy of the paper", gradnorm),
    Row("mgda", "exact, and AvivNavon/nash-mtl, vectors and 2-D toy", mgda),
    Row("pcgrad", "AvivNavon/nash-mtl, vectors and 2-D toy", pcgrad),
    Row("graddrop", "Cranial-XIX/FAMO, 2-D toy", graddrop),
]
