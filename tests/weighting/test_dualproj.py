import pytest
import torch
from parity_programs import torchjd_aggregator
from torch import Tensor
from weighting_driver import Drive, random_problem

from mtlrun.weighting.dualproj import DualProj
from mtlrun.weighting.upgrad import UPGrad


def direction(jacobian: Tensor, **settings: str) -> Tensor:
    tasks = len(jacobian)
    return Drive(DualProj(**settings), tasks).step(jacobian, torch.ones(tasks, dtype=torch.float64))


def test_two_tasks_in_closed_form() -> None:
    """The mean loses its component along the gradient that it conflicts with."""
    bent = 0
    for seed in range(20):
        jacobian, _ = random_problem(2, 3, seed)
        jacobian[1] *= 5
        expected = jacobian.mean(dim=0)
        for gradient in jacobian:
            overlap = gradient @ expected
            if overlap < 0:
                expected = expected - overlap / gradient.square().sum() * gradient
                bent += 1
        torch.testing.assert_close(direction(jacobian), expected)
    assert bent


def test_is_the_mean_where_the_mean_conflicts_with_nothing() -> None:
    """Also where gradients conflict with each other, where UPGrad is another vector."""
    jacobian = torch.tensor([[1.0, 2.0], [-1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(direction(jacobian), jacobian.mean(dim=0))
    jacobian = torch.tensor([[1.0, 0.5], [-1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(direction(jacobian), jacobian.mean(dim=0))
    upgrad = Drive(UPGrad(), 2).step(jacobian, torch.ones(2, dtype=torch.float64))
    assert (upgrad - jacobian.mean(dim=0)).norm() > 0.1


def test_stays_where_gradients_are_opposed() -> None:
    one, _ = random_problem(1, 20)
    for factor in (1.0, 3.0, 1e4):
        assert direction(torch.cat([one, -factor * one])).norm() <= 1e-6 * factor


def test_reduction_counts_the_tasks_of_the_step() -> None:
    jacobian, losses = random_problem(3, 5)
    mean = Drive(DualProj(), 5).step(jacobian, losses, (0, 2, 4))
    total = Drive(DualProj("sum"), 5).step(jacobian, losses, (0, 2, 4))
    torch.testing.assert_close(total, 3 * mean)
    with pytest.raises(ValueError, match="reduction='max': choose one of sum, mean"):
        DualProj("max")


@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_beside_torchjd(tasks: int) -> None:
    jacobian, _ = random_problem(tasks, 20)
    theirs = torchjd_aggregator("DualProj")(jacobian)
    torch.testing.assert_close(direction(jacobian), theirs, rtol=1e-5, atol=1e-6)
