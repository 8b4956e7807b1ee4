import torch
from weighting_driver import Drive, random_problem

from mtlrun.weighting.equal import Equal


def test_the_sum_over_the_tasks_of_the_step() -> None:
    jacobian, losses = random_problem(3, 5)
    torch.testing.assert_close(Drive(Equal(), 3).step(jacobian, losses), jacobian.sum(dim=0))
    some = Drive(Equal(), 4).step(jacobian, losses, (0, 1, 3))
    torch.testing.assert_close(some, jacobian.sum(dim=0), rtol=1e-6, atol=1e-7)
