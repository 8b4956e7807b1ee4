import pytest
import torch
from parity_programs import torchjd_aggregator
from torch import Tensor
from weighting_driver import Drive, random_problem

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.upgrad import UPGrad


def direction(jacobian: Tensor, **settings: str) -> Tensor:
    tasks = len(jacobian)
    return Drive(UPGrad(**settings), tasks).step(jacobian, torch.ones(tasks, dtype=torch.float64))


def test_two_tasks_in_closed_form() -> None:
    """Each loses its component along the other where they conflict, as in PCGrad."""
    for seed in range(10):
        (first, second), _ = random_problem(2, 3, seed)
        overlap = min(first @ second, torch.zeros((), dtype=torch.float64))
        bent = (first - overlap / second.square().sum() * second) + (
            second - overlap / first.square().sum() * first
        )
        torch.testing.assert_close(direction(torch.stack([first, second])), bent / 2)


def test_is_the_mean_without_conflict() -> None:
    jacobian = random_problem(4, 20)[0].abs()
    torch.testing.assert_close(direction(jacobian), jacobian.mean(dim=0))


def test_scaling_a_loss_scales_its_share() -> None:
    """A(diag(c) J) is linear in c for c > 0."""
    jacobian, _ = random_problem(3, 5)
    ones = torch.ones(3, dtype=torch.float64)
    scales = torch.tensor([2.0, 0.5, 7.0], dtype=torch.float64)
    total = direction(jacobian * ones[:, None]) + direction(jacobian * scales[:, None])
    torch.testing.assert_close(direction(jacobian * (ones + scales)[:, None]), total)


def test_a_short_gradient_is_not_run_over() -> None:
    one = torch.tensor([1.0, 0.0], dtype=torch.float64)
    other = torch.tensor([-1e3, 1e3], dtype=torch.float64)
    found = direction(torch.stack([one, other]))
    torch.testing.assert_close(found, torch.tensor([0.25, 0.5e3 + 0.25], dtype=torch.float64))


def test_stays_where_gradients_are_opposed() -> None:
    one, _ = random_problem(1, 20)
    for factor in (1.0, 3.0, 1e4):
        assert direction(torch.cat([one, -factor * one])).norm() <= 1e-6 * factor


def test_a_zero_gradient_does_not_stop_the_others() -> None:
    jacobian, _ = random_problem(3, 20)
    jacobian[1] = 0
    torch.testing.assert_close(direction(jacobian), direction(jacobian[[0, 2]]) * 2 / 3)


def test_reduction_counts_the_tasks_of_the_step() -> None:
    jacobian, losses = random_problem(3, 5)
    mean = Drive(UPGrad(), 5).step(jacobian, losses, (0, 2, 4))
    total = Drive(UPGrad("sum"), 5).step(jacobian, losses, (0, 2, 4))
    torch.testing.assert_close(total, 3 * mean)
    with pytest.raises(ValueError, match="reduction='max': choose one of sum, mean"):
        UPGrad("max")


@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_beside_torchjd(tasks: int) -> None:
    jacobian, _ = random_problem(tasks, 20)
    theirs = torchjd_aggregator("UPGrad")(jacobian)
    torch.testing.assert_close(direction(jacobian), theirs, rtol=1e-5, atol=1e-6)


def test_heads_train_on_the_plain_losses() -> None:
    weighting = UPGrad()
    assert weighting.heads == "unweighted"
    weighting.step = StepInfo(0, 0, 0, (0, 1))
    weights = weighting.weights(torch.eye(2, dtype=torch.float64), torch.ones(2).double())
    assert weights.tolist() == [0.5, 0.5]
