import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from weighting_driver import random_problem

from mtlrun.weighting import solvers
from mtlrun.weighting.solvers import SolverError, min_norm_point


def assert_shortest(jacobian: Tensor, weights: Tensor, tolerance: float = 1e-9) -> None:
    """The optimality conditions of the min-norm point, relative to each gradient's length."""
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert (weights >= 0).all()
    direction = weights @ jacobian
    length = direction.norm()
    slack = jacobian @ direction - length**2  # [T], at least 0, and 0 where there is weight
    scale = jacobian.norm(dim=1) * jacobian.norm(dim=1).min()
    assert (slack >= -tolerance * scale).all()
    assert (weights * slack).abs().max() <= tolerance * scale.max()


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    tasks=st.integers(1, 12),
    size=st.integers(1, 30),
    seed=st.integers(0, 1000),
    spread=st.floats(0, 4),
)
def test_min_norm_point_meets_its_conditions(
    tasks: int, size: int, seed: int, spread: float
) -> None:
    """Also on rank-deficient Gramians and on gradients of very different length."""
    jacobian, losses = random_problem(tasks, size, seed)
    jacobian = jacobian * 10 ** (spread * (2 * losses - 2))[:, None]
    assert_shortest(jacobian, min_norm_point(jacobian @ jacobian.T))


def test_forty_tasks() -> None:
    for seed in range(5):
        jacobian, _ = random_problem(40, 60, seed)
        assert_shortest(jacobian, min_norm_point(jacobian @ jacobian.T))


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e12, 1e150])
def test_the_scale_of_the_gramian_does_not_matter(scale: float) -> None:
    jacobian, _ = random_problem(4, 20)
    gramian = jacobian @ jacobian.T
    expected = min_norm_point(gramian)
    torch.testing.assert_close(min_norm_point(scale * gramian), expected, rtol=1e-9, atol=1e-12)


def test_zero_gradients_share_the_weight() -> None:
    jacobian, _ = random_problem(4, 20)
    jacobian[1] = 0
    assert min_norm_point(jacobian @ jacobian.T).tolist() == [0, 1, 0, 0]
    assert min_norm_point(torch.zeros(2, 2, dtype=torch.float64)).tolist() == [0.5, 0.5]


def test_failures_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SolverError, match="not finite"):
        min_norm_point(torch.tensor([[torch.nan]], dtype=torch.float64))

    def give_up(*arguments: object, **settings: object) -> None:
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(solvers, "nnls", give_up)
    with pytest.raises(SolverError, match="Maximum number of iterations"):
        min_norm_point(torch.eye(2, dtype=torch.float64))
