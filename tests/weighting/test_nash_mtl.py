import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.nash_mtl import NashMTL


def weights_of(jacobian: Tensor) -> Tensor:
    weighting = NashMTL()
    weighting.step = StepInfo(0, 0, 0, tuple(range(len(jacobian))))
    return weighting.weights(jacobian @ jacobian.T, torch.ones(len(jacobian), dtype=torch.float64))


def test_two_tasks_in_closed_form() -> None:
    for seed in range(20):
        jacobian, _ = random_problem(2, 4, seed)
        jacobian[0] *= 10 ** (seed / 5 - 2)
        (g11, g12), (_, g22) = (jacobian @ jacobian.T).tolist()
        first = (g11 + g12 * (g11 / g22) ** 0.5) ** -0.5
        expected = torch.tensor([first, first * (g11 / g22) ** 0.5], dtype=torch.float64)
        torch.testing.assert_close(weights_of(jacobian), expected, rtol=1e-6, atol=0)


def test_orthogonal_gradients_count_by_their_inverse_lengths() -> None:
    lengths = torch.tensor([0.01, 1.0, 300.0], dtype=torch.float64)
    torch.testing.assert_close(weights_of(torch.diag(lengths)), 1 / lengths)


@pytest.mark.parametrize("tasks", [1, 2, 5, 40])
def test_the_direction_has_the_square_length_of_the_number_of_tasks(tasks: int) -> None:
    jacobian, losses = random_problem(tasks, 60)
    direction = Drive(NashMTL(), tasks).step(jacobian, losses)
    assert direction.square().sum().item() == pytest.approx(tasks, rel=1e-6)


def test_maximises_the_product_of_gains() -> None:
    """Among directions of the same length."""
    jacobian, losses = random_problem(3, 6)
    direction = Drive(NashMTL(), 3).step(jacobian, losses)
    rivals = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0)).double()
    rivals = direction + 0.3 * rivals
    rivals *= (direction.norm() / rivals.norm(dim=1))[:, None]
    gains = (rivals @ jacobian.T).clamp(min=0).prod(dim=1)
    assert (jacobian @ direction).prod() > gains.max() > 0


def test_a_task_without_gradient_leaves_the_others_alone() -> None:
    jacobian, _ = random_problem(3, 20)
    jacobian[1] = 0
    weights = weights_of(jacobian)
    torch.testing.assert_close(weights[[0, 2]], weights_of(jacobian[[0, 2]]))
    torch.testing.assert_close(weights[1], (weights[0] + weights[2]) / 2)


def test_stands_nearly_still_at_a_pareto_stationary_point() -> None:
    jacobian, losses = random_problem(3, 20)
    jacobian[2] = -2 * jacobian[0] - jacobian[1]
    assert Drive(NashMTL(), 3).step(jacobian, losses).norm() < 1e-3
    assert weights_of(jacobian).max() < 1e4


def test_heads_train_on_the_weighted_losses() -> None:
    assert NashMTL.heads == "weighted"
