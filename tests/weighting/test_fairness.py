import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from weighting_driver import random_problem

from mtlrun.weighting import _fairness
from mtlrun.weighting._fairness import fair_weights
from mtlrun.weighting.solvers import SolverError

pytestmark = pytest.mark.filterwarnings("error")
POWERS = [0.1, 0.5, 1.0, 2.0]


def residual(gramian: Tensor, weights: Tensor, power: float, shares: Tensor | float = 1.0) -> float:
    """Largest relative error of the equation."""
    return ((gramian @ weights) * (weights / shares) ** power - 1).abs().max().item()


@pytest.mark.parametrize("power", POWERS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(tasks=st.integers(1, 10), seed=st.integers(0, 1000), spread=st.floats(0, 1))
def test_the_equation_holds(power: float, tasks: int, seed: int, spread: float) -> None:
    jacobian, losses = random_problem(tasks, 30, seed)
    jacobian = jacobian * 10 ** (spread * (2 * losses - 2))[:, None]
    gramian = jacobian @ jacobian.T
    weights = fair_weights(gramian, power)
    assert (weights > 0).all()
    assert residual(gramian, weights, power) < 1e-5
    weights = fair_weights(gramian, power, losses)
    assert residual(gramian, weights, power, losses) < 1e-5


@pytest.mark.parametrize("power", POWERS)
def test_forty_tasks(power: float) -> None:
    jacobian, _ = random_problem(40, 200)
    gramian = jacobian @ jacobian.T
    assert residual(gramian, fair_weights(gramian, power), power) < 1e-6


@pytest.mark.parametrize("power", [*POWERS, 10.0])
@pytest.mark.parametrize("scale", [1e-100, 1e-12, 1e12, 1e100])
def test_scales_as_the_equation_does(power: float, scale: float) -> None:
    """G -> s G makes x -> s^(-1 / (1 + power)) x."""
    jacobian, _ = random_problem(4, 20)
    gramian = jacobian @ jacobian.T
    expected = fair_weights(gramian, power) * scale ** (-1 / (1 + power))
    torch.testing.assert_close(fair_weights(scale * gramian, power), expected)


def test_lengths_drop_out_of_the_nash_bargain() -> None:
    jacobian, _ = random_problem(3, 20)
    lengths = torch.tensor([1e-5, 1.0, 1e5], dtype=torch.float64)
    scaled = lengths[:, None] * jacobian
    expected = fair_weights(jacobian @ jacobian.T) / lengths
    torch.testing.assert_close(fair_weights(scaled @ scaled.T), expected)


@pytest.mark.parametrize("power", POWERS)
def test_the_direction_is_small_where_there_is_no_bargain(power: float) -> None:
    """Opposed gradients, and a combination with positive weights that is 0."""
    one, _ = random_problem(1, 20)
    several, _ = random_problem(4, 20)
    several[3] = -(several[:3].sum(dim=0))
    for jacobian in (torch.cat([one, -one]), torch.cat([one, -3 * one]), several):
        weights = fair_weights(jacobian @ jacobian.T, power)
        assert (weights > 0).all()
        assert (weights @ jacobian).norm() < 0.1 * (jacobian.norm() if power < 1 else 0.01)
        assert weights.max() < 1e8 ** (1 / (1 + power))


def test_zero_gradients_get_the_mean_weight_of_the_others() -> None:
    jacobian, _ = random_problem(4, 20)
    jacobian[1] = 0
    weights = fair_weights(jacobian @ jacobian.T)
    others = [0, 2, 3]
    expected = fair_weights(jacobian[others] @ jacobian[others].T)
    torch.testing.assert_close(weights[others], expected)
    torch.testing.assert_close(weights[1], expected.mean())
    assert fair_weights(torch.zeros(2, 2, dtype=torch.float64)).tolist() == [1, 1]


def test_a_gramian_of_float32_noise_does_no_harm() -> None:
    """Its eigenvalues may be negative: here -1e-6, beside which the ridge is small."""
    for seed in range(20):
        jacobian, _ = random_problem(6, 3, seed)
        noise, _ = random_problem(6, 6, seed + 1)
        gramian = jacobian @ jacobian.T + 1e-6 * (noise + noise.T)
        assert fair_weights(gramian).isfinite().all()


def test_lengths_far_apart() -> None:
    """FairGrad's x = |g|^(-2 alpha / (1 + alpha)) for orthogonal gradients, down to alpha = 0.1."""
    lengths = torch.tensor([1e-40, 1e-35, 1e-30], dtype=torch.float64)
    for power in (1 / 20, 1.0, 10.0):
        expected = lengths ** (-2 / (1 + power))
        found = fair_weights(torch.diag(lengths**2), power)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    with pytest.raises(SolverError, match="differ too much"):
        fair_weights(torch.diag(lengths**2), 100.0)


def test_failures_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SolverError, match="not finite"):
        fair_weights(torch.tensor([[torch.inf]], dtype=torch.float64))
    monkeypatch.setattr(_fairness, "ITERATIONS", 1)
    jacobian, _ = random_problem(4, 20)
    with pytest.raises(SolverError, match="did not converge"):
        fair_weights(jacobian @ jacobian.T)
