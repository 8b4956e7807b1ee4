import pytest
import torch
from weighting_driver import Drive, random_problem

from mtlrun.weighting.equal import Equal


def test_sum_and_mean_over_the_tasks_of_the_step() -> None:
    jacobian, losses = random_problem(3, 5)
    torch.testing.assert_close(Drive(Equal(), 3).step(jacobian, losses), jacobian.sum(dim=0))
    mean = Drive(Equal("mean"), 4).step(jacobian, losses, (0, 1, 3))
    torch.testing.assert_close(mean, jacobian.mean(dim=0), rtol=1e-6, atol=1e-7)


def test_refuses_an_unknown_reduction() -> None:
    with pytest.raises(ValueError, match="reduction='max': choose one of sum, mean"):
        Equal("max")
