import numpy as np
import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.pcgrad import PCGrad, project


def by_the_book(jacobian: Tensor, orders: Tensor) -> Tensor:
    """Algorithm 1 on explicit gradients, one task and one projection after the other."""
    projected = jacobian.clone()
    for i, order in enumerate(orders.tolist()):
        for j in order:
            overlap = projected[i] @ jacobian[j]
            if j != i and overlap < 0:
                projected[i] -= overlap / jacobian[j].square().sum() * jacobian[j]
    return projected


@pytest.mark.parametrize("tasks", [1, 2, 3, 8, 40])
def test_side_by_side_is_one_after_the_other(tasks: int) -> None:
    draws = torch.Generator().manual_seed(tasks)
    jacobian, _ = random_problem(tasks, 12, tasks)
    orders = torch.rand(tasks, tasks, generator=draws).argsort(dim=1)
    coefficients = torch.from_numpy(project((jacobian @ jacobian.T).numpy(), orders.numpy()))
    torch.testing.assert_close(coefficients @ jacobian, by_the_book(jacobian, orders))


def test_own_index_in_an_order_changes_nothing() -> None:
    jacobian, _ = random_problem(3, 4)
    gramian = (jacobian @ jacobian.T).numpy()
    with_own = project(gramian, np.array([[2, 0, 1], [1, 0, 2], [0, 1, 2]]))
    without = project(gramian, np.array([[2, 1], [0, 2], [0, 1]]))
    assert (with_own == without).all()


def test_nothing_happens_without_conflict() -> None:
    jacobian, losses = random_problem(4, 20)
    direction = Drive(PCGrad(), 4).step(jacobian.abs(), losses)
    torch.testing.assert_close(direction, jacobian.abs().sum(dim=0))


def test_mean_is_the_sum_over_the_tasks_of_the_step() -> None:
    jacobian, losses = random_problem(3, 5)
    total = Drive(PCGrad(), 5).step(jacobian, losses, (0, 2, 4))
    mean = Drive(PCGrad("mean"), 5).step(jacobian, losses, (0, 2, 4))
    torch.testing.assert_close(mean, total / 3)


def test_the_order_is_drawn_anew_in_each_step_and_again_the_same() -> None:
    jacobian, losses = random_problem(5, 8)
    first = [Drive(PCGrad(), 5).step(jacobian, losses, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    drive = Drive(PCGrad(), 5)
    assert not torch.equal(drive.step(jacobian, losses), drive.step(jacobian, losses))


def test_every_order_is_as_likely() -> None:
    """With these gradients each task's two orders differ: eight results, each in 1/8 of steps."""
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -3.0]], dtype=torch.float64)
    gramian, losses = jacobian @ jacobian.T, torch.ones(3, dtype=torch.float64)
    weighting = PCGrad()
    seen = []
    for step in range(1600):
        weighting.step = StepInfo(0, 0, step, (0, 1, 2))
        seen.append(tuple(weighting.weights(gramian, losses).tolist()))
    counts = [seen.count(kind) for kind in set(seen)]
    assert len(counts) == 8
    assert min(counts) > 150  # 200 expected, standard deviation 13


def test_heads_train_on_plain_losses() -> None:
    assert PCGrad.heads == "unweighted"


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="reduction='max': choose one of sum, mean"):
        PCGrad("max")
