"""Every weighting against published code, exact solutions or figures worked out by hand.

One row a method: its name, where the figures come from, and the check. Figures of published code
are in ``tests/reference``.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, build, configured, random_problem, reference
from weighting_toys import (
    run_gradnorm_toy,
    run_uncertainty_notebook,
    toy2d_reference,
    walk_toy2d,
)

from mtlrun.weighting.base import GramianWeighting, LossWeighting, StepInfo
from mtlrun.weighting.graddrop import drop_signs
from mtlrun.weighting.pcgrad import project


class Row(NamedTuple):
    method: str
    source: str
    check: Callable[[], None]


def close(got: Tensor, expected: Tensor | Sequence[float], tolerance: float) -> None:
    """Each figure within ``tolerance``, absolute."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)


def aggregator_cases() -> list[tuple[Tensor, Tensor, dict[str, dict[str, dict[str, list[float]]]]]]:
    """Gradients [T, P], losses [T] and what is known of each case."""
    return [
        (
            torch.tensor(case["gradients"], dtype=torch.float64),
            torch.tensor(case["losses"], dtype=torch.float64),
            case,
        )
        for case in reference("weighting_aggregators")["cases"].values()
    ]


def first_step(
    method: str, key: str, *, tolerance: float, kind: str = "published", **changes: object
) -> None:
    """The first step's direction on each aggregator case."""
    for jacobian, losses, case in aggregator_cases():
        drive = Drive(build(method, len(losses), **changes), len(losses))
        close(drive.step(jacobian, losses), case[kind][key]["direction"], tolerance)


def toy2d(
    method: str,
    change: Callable[[Tensor], Tensor] = lambda weights: weights,
    only: Sequence[tuple[float, float]] | None = None,
    **changes: object,
) -> None:
    """Positions on the 2-D toy within 1e-4 up to step 2000.

    Args:
        change: what becomes of the weights.
        only: the starts to walk from; None for all three.
    """
    known = toy2d_reference(method)
    starts = list(known if only is None else only)
    weighting = build(method, 2, **changes)
    weighting.step = StepInfo(0, 0, 0, (0, 1))

    def direction(jacobian: Tensor, losses: Tensor) -> Tensor:
        if isinstance(weighting, LossWeighting):
            leaves = [loss.requires_grad_() for loss in losses.clone().unbind()]
            weights = torch.stack(torch.autograd.grad(weighting.objective(leaves), leaves))
        else:
            assert isinstance(weighting, GramianWeighting)
            weights = weighting.weights(jacobian @ jacobian.T, losses)
        return change(weights) @ jacobian

    found = walk_toy2d(starts, [direction] * len(starts), 2000)
    for number, start in enumerate(starts):
        for step, position in known[start].items():
            close(found[step][number], position, 1e-4)


def equal() -> None:
    first_step("equal", "equal sum", tolerance=1e-6)
    toy2d("equal", only=[(9.0, 9.0)])


def static() -> None:
    """With all weights 1 the published sum; otherwise the weighted sum of rows."""
    first_step("static", "equal sum", tolerance=1e-6)
    for jacobian, losses, _ in aggregator_cases():
        drive = Drive(build("static", len(losses), weights={"task0": 2.5, "task1": 0}), len(losses))
        expected = 2.5 * jacobian[0] + jacobian[2:].sum(dim=0)
        close(drive.step(jacobian, losses), expected, 1e-12)


def uncertainty() -> None:
    """The published form at its start. Training is in :func:`test_uncertainty_notebook`."""
    first_step("uncertainty", "uncertainty half", tolerance=1e-6, form="half")


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
    first_step("mgda", "mgda none", kind="exact", tolerance=1e-6)
    first_step("mgda", "mgda none", tolerance=1e-4, reduction="sum")
    for (jacobian, losses, case), tolerance in zip(
        aggregator_cases(), (1e-4, 1e-4, 2e-3), strict=True
    ):  # in the last case the published weights stop 0.0014 short of their corner
        weighting = build("mgda", len(losses), normalisation="loss", reduction="sum")
        direction = Drive(weighting, len(losses)).step(jacobian, losses)
        close(direction, case["published"]["mgda loss"]["direction"], tolerance)
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
            close(direction, case["published"][f"pcgrad seed {seed}"]["direction"], 1e-6)
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
    Row("uncertainty", "AvivNavon/nash-mtl, vectors", uncertainty),
    Row("dwa", "the rule of lorenmt/mtan by hand", dwa),
    Row("gradnorm", "brianlan/pytorch-grad-norm, toy of the paper", gradnorm),
    Row("mgda", "exact, and AvivNavon/nash-mtl, vectors and 2-D toy", mgda),
    Row("pcgrad", "AvivNavon/nash-mtl, vectors and 2-D toy", pcgrad),
    Row("graddrop", "Cranial-XIX/FAMO, 2-D toy", graddrop),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.method)
def test_parity(row: Row) -> None:
    row.check()


def test_every_method_has_a_row() -> None:
    assert sorted(row.method for row in ROWS) == configured()


@pytest.mark.slow
def test_gradnorm_toy_up_to_iteration_500() -> None:
    gradnorm(iterations=501)


@pytest.mark.slow
def test_uncertainty_notebook() -> None:
    """10,000 steps of Adam; the notebook's printed standard deviations within 1e-4."""
    known = reference("weighting_uncertainty_notebook")
    found = run_uncertainty_notebook()
    assert found["first_inputs"] == pytest.approx(known["first_inputs"], abs=1e-6)
    assert found["first_targets"] == pytest.approx(known["first_targets"], abs=1e-6)
    expected = known["measured_first_and_last_epoch_loss"]
    assert found["epoch_losses"] == pytest.approx(expected, abs=1e-3)
    printed = known["printed_standard_deviations"]
    assert found["standard_deviations"] == pytest.approx(printed, abs=1e-4)


def oracle_problems() -> list[tuple[Tensor, Tensor]]:
    return [random_problem(2, 10, seed) for seed in range(20)]


def test_mgda_beside_torchjd() -> None:
    """Its Frank-Wolfe comes within 3% of our length and is never shorter.

    The shortest vector d of a convex set has |x - d|^2 <= |x|^2 - |d|^2 for every x in it.
    """
    aggregation = pytest.importorskip("torchjd.aggregation")
    for tasks in (2, 3, 8):
        for seed in range(3):
            jacobian, losses = random_problem(tasks, 20, seed)
            ours = Drive(build("mgda", tasks), tasks).step(jacobian, losses)
            theirs = aggregation.MGDA(epsilon=1e-6, max_iters=500)(jacobian)
            excess = theirs.square().sum() - ours.square().sum()
            assert excess <= 0.03 * ours.square().sum()
            assert (theirs - ours).square().sum() <= excess + 1e-12


def test_pcgrad_beside_torchjd() -> None:
    """For two tasks the order does not matter, so both give the same figures."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    for jacobian, losses in oracle_problems():
        ours = Drive(build("pcgrad", 2), 2).step(jacobian, losses)
        close(ours, aggregation.PCGrad()(jacobian), 1e-9)
