import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from weighting_driver import random_problem

from mtlrun.weighting import _worst_task
from mtlrun.weighting._worst_task import worst_task_weights
from mtlrun.weighting.solvers import SolverError, min_norm_point, project_on_dual_cone


def solve(jacobian: Tensor, c: float) -> Tensor:
    return worst_task_weights(jacobian @ jacobian.T, c) @ jacobian


def assert_optimal(jacobian: Tensor, c: float) -> None:
    """In the ball, and as good for the worst task as the dual problem says that it can be."""
    weights = worst_task_weights(jacobian @ jacobian.T, c)
    direction, mean = weights @ jacobian, jacobian.mean(dim=0)
    radius = c * mean.norm()
    assert (direction - mean).norm() <= radius * (1 + 1e-7)
    convex = weights - 1 / len(weights)
    assert (convex >= 0).all()
    dual = convex / convex.sum() @ jacobian  # g_w
    bound = dual @ mean + radius * dual.norm()
    scale = radius * jacobian.norm(dim=1).max()
    assert (jacobian @ direction).min() >= bound - 1e-7 * scale


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    tasks=st.integers(1, 8),
    seed=st.integers(0, 1000),
    spread=st.floats(0, 2),
    c=st.sampled_from([0.01, 0.2, 0.4, 0.9, 1.5, 20.0]),
)
def test_primal_meets_dual(tasks: int, seed: int, spread: float, c: float) -> None:
    jacobian, losses = random_problem(tasks, 20, seed)
    jacobian = jacobian * 10 ** (spread * (2 * losses - 2))[:, None]
    assert_optimal(jacobian, c)


@pytest.mark.parametrize("c", [0.2, 0.4, 0.9])
def test_more_tasks_than_parameters(c: float) -> None:
    for seed in range(10):
        assert_optimal(random_problem(8, 3, seed)[0], c)


def test_forty_tasks() -> None:
    for seed in range(3):
        assert_optimal(random_problem(40, 60, seed)[0], 0.4)


def test_nothing_in_the_ball_is_better() -> None:
    draws = torch.Generator().manual_seed(0)
    for seed in range(5):
        jacobian, _ = random_problem(3, 2, seed)
        mean = jacobian.mean(dim=0)
        offsets = torch.randn(5000, 2, generator=draws, dtype=torch.float64)
        offsets *= 0.5 * mean.norm() / offsets.norm(dim=1).max()
        rivals = ((mean + offsets) @ jacobian.T).min(dim=1).values
        assert (jacobian @ solve(jacobian, 0.5)).min() >= rivals.max()


def test_two_tasks_by_a_fine_grid() -> None:
    """The dual over w = (a, 1 - a)."""
    for seed in range(5):
        jacobian, _ = random_problem(2, 3, seed)
        mean = jacobian.mean(dim=0)
        radius = 0.5 * mean.norm()
        shares = torch.linspace(0, 1, 100001, dtype=torch.float64)[:, None]
        convex = shares * jacobian[0] + (1 - shares) * jacobian[1]
        best = convex[(convex @ mean + radius * convex.norm(dim=1)).argmin()]
        expected = mean + radius * best / best.norm()
        torch.testing.assert_close(solve(jacobian, 0.5), expected, rtol=0, atol=1e-3)


def test_no_radius_is_the_mean() -> None:
    jacobian, _ = random_problem(3, 20)
    assert worst_task_weights(jacobian @ jacobian.T, 0.0).tolist() == [1 / 3] * 3


def test_a_large_radius_turns_to_the_shortest_convex_combination() -> None:
    jacobian, _ = random_problem(3, 20)
    shortest = min_norm_point(jacobian @ jacobian.T) @ jacobian
    direction = solve(jacobian, 1e6)
    assert torch.cosine_similarity(direction, shortest, dim=0).item() == pytest.approx(1, abs=1e-9)


def test_a_zero_gradient_holds_the_worst_task_at_zero() -> None:
    """Then the nearest direction that raises no loss, where it lies in the ball."""
    jacobian, _ = random_problem(3, 20)
    jacobian[1] = 0
    gramian = jacobian @ jacobian.T
    mean = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    expected = project_on_dual_cone(gramian, mean)[0] @ jacobian
    assert (expected - jacobian.mean(dim=0)).norm() < 0.9 * jacobian.mean(dim=0).norm()
    torch.testing.assert_close(solve(jacobian, 0.9), expected)
    assert worst_task_weights(torch.zeros(2, 2, dtype=torch.float64), 0.4).tolist() == [0.5, 0.5]


def test_opposed_gradients() -> None:
    """Along the longer one, by the least that the ball allows; c >= 1 lets it stand still."""
    one = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    jacobian = torch.cat([one, -3 * one])
    torch.testing.assert_close(solve(jacobian, 0.4), -(1 - 0.4) * one[0])
    for c in (1.0, 3.0):
        assert solve(jacobian, c).norm() < 1e-4
    assert solve(torch.cat([one, -one]), 0.4).norm() == 0  # the mean is 0


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e12, 1e150])
def test_the_scale_of_the_gramian_does_not_matter(scale: float) -> None:
    jacobian, _ = random_problem(4, 20)
    gramian = jacobian @ jacobian.T
    expected = worst_task_weights(gramian, 0.4)
    torch.testing.assert_close(worst_task_weights(scale * gramian, 0.4), expected)


def test_failures_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SolverError, match="not finite"):
        worst_task_weights(torch.tensor([[torch.nan]], dtype=torch.float64), 0.4)
    monkeypatch.setattr(_worst_task, "ITERATIONS", 0)
    jacobian, _ = random_problem(3, 20)
    with pytest.raises(SolverError, match="did not converge"):
        worst_task_weights(jacobian @ jacobian.T, 0.4)
