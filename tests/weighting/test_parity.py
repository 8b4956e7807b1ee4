"""Every weighting against published code, exact solutions or figures worked out by hand.

One row a method, in the files ``parity_*.py``. Figures of published code are in
``tests/reference``.
"""

import importlib
from pathlib import Path

import pytest
from parity_first import gradnorm
from parity_kit import Row, close
from torch import Tensor
from weighting_driver import Drive, build, configured, random_problem, reference
from weighting_toys import run_uncertainty_notebook

FILES = sorted(path.stem for path in Path(__file__).parent.glob("parity_*.py"))
ROWS: list[Row] = [
    row for name in FILES for row in getattr(importlib.import_module(name), "ROWS", [])
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
