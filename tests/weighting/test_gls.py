import math

import pytest
import torch
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.gls import GLS


def objective(*losses: float) -> float:
    weighting = GLS(tasks=task_infos(len(losses)))
    weighting.step = StepInfo(0, 0, 0, tuple(range(len(losses))))
    return weighting.objective([torch.tensor(loss) for loss in losses]).item()


def test_the_objective_is_the_geometric_mean() -> None:
    assert objective(1.0, 2.0, 4.0) == pytest.approx(2)
    assert objective(0.7) == pytest.approx(0.7)
    assert objective(1.0, 0.0, 9.0) == pytest.approx(3)
    assert objective(0.0, 0.0) == 0


@pytest.mark.parametrize("loss", [1e-3, 1e3])
def test_products_of_many_losses_neither_vanish_nor_overflow(loss: float) -> None:
    assert objective(*[loss] * 40) == pytest.approx(loss, rel=1e-5)


def test_weights_are_the_derivatives_of_the_product() -> None:
    """Against autograd through the product itself, in float64."""
    _, losses = random_problem(4, 4)
    leaves = losses.clone().requires_grad_()
    (expected,) = torch.autograd.grad(leaves.prod() ** (1 / 4), leaves)
    drive = Drive(GLS(tasks=task_infos(4)), 4)
    found = drive.step(torch.eye(4, dtype=torch.float64), losses)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_the_mean_is_over_the_tasks_of_the_step() -> None:
    drive = Drive(GLS(tasks=task_infos(3)), 3)
    losses = torch.tensor([4.0, 9.0], dtype=torch.float64)
    found = drive.step(torch.eye(2, dtype=torch.float64), losses, (0, 2))
    assert found.tolist() == pytest.approx([6 / (2 * 4), 6 / (2 * 9)])


def test_beside_torchjd() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    for seed in range(5):
        _, losses = random_problem(6, 6, seed)
        assert math.isclose(
            objective(*losses.tolist()),
            scalarization.GeometricMean()(losses).item(),
            rel_tol=1e-6,
        )
