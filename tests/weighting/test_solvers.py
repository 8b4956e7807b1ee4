import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from weighting_driver import random_problem

from mtlrun.weighting import solvers
from mtlrun.weighting.solvers import SolverError, min_norm_point, project_on_dual_cone


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


def assert_projected(jacobian: Tensor, combinations: Tensor, weights: Tensor) -> None:
    """The optimality conditions of the projection, for gradients and vectors of length 1.

    d raises no loss; d - d_0 is a non-negative combination of gradients that are orthogonal to d.
    """
    lengths = jacobian.norm(dim=1).clamp(min=1e-100)
    starts = combinations @ jacobian
    projected = weights @ jacobian
    scale = starts.norm(dim=1, keepdim=True).clamp(min=1e-100)
    assert (projected @ jacobian.T / lengths / scale).min() >= -1e-6
    assert (weights >= combinations).all()
    moved = ((projected - starts) * projected).sum(dim=1, keepdim=True)
    assert (moved.abs() / scale**2).max() <= 1e-9


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    tasks=st.integers(1, 12),
    size=st.integers(1, 30),
    seed=st.integers(0, 1000),
    spread=st.floats(0, 4),
    stationary=st.booleans(),
)
def test_projection_meets_its_conditions(
    tasks: int, size: int, seed: int, spread: float, stationary: bool
) -> None:
    jacobian, losses = random_problem(tasks, size, seed)
    if stationary:
        jacobian[-1] = -losses[:-1] @ jacobian[:-1]
    jacobian = jacobian * 10 ** (spread * (2 * losses - 2))[:, None]
    each = torch.eye(tasks, dtype=torch.float64)
    weights = project_on_dual_cone(jacobian @ jacobian.T, each)
    assert_projected(jacobian, each, weights)
    if stationary:
        lengths = jacobian.norm(dim=1, keepdim=True)
        assert (weights @ jacobian).norm() <= 1e-6 * lengths.sum()


def test_projection_for_forty_tasks() -> None:
    jacobian, _ = random_problem(40, 60)
    each = torch.eye(40, dtype=torch.float64)
    assert_projected(jacobian, each, project_on_dual_cone(jacobian @ jacobian.T, each))


def test_projection_leaves_alone_what_conflicts_with_nothing() -> None:
    jacobian = random_problem(4, 20)[0].abs()
    combinations = torch.rand(3, 4, dtype=torch.float64)
    assert torch.equal(project_on_dual_cone(jacobian @ jacobian.T, combinations), combinations)


def test_projection_with_zero_gradients() -> None:
    """They forbid nothing, and others are projected as without them."""
    jacobian, _ = random_problem(4, 3)
    each = torch.eye(4, dtype=torch.float64)
    assert torch.equal(project_on_dual_cone(torch.zeros(4, 4).double(), each), each)
    jacobian[1] = 0
    weights = project_on_dual_cone(jacobian @ jacobian.T, each)
    others = [0, 2, 3]
    expected = project_on_dual_cone(jacobian[others] @ jacobian[others].T, each[:3, :3])
    torch.testing.assert_close(weights[others][:, others], expected)
    assert weights[1].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e12, 1e150])
def test_the_scale_does_not_matter_to_projections(scale: float) -> None:
    jacobian, _ = random_problem(4, 6)
    gramian = jacobian @ jacobian.T
    each = torch.eye(4, dtype=torch.float64)
    expected = project_on_dual_cone(gramian, each)
    assert not torch.equal(expected, each)
    torch.testing.assert_close(project_on_dual_cone(scale * gramian, each), expected)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(tasks=st.integers(1, 12), size=st.integers(1, 15), seed=st.integers(0, 1000))
def test_a_gramian_of_float32_noise_does_no_harm(tasks: int, size: int, seed: int) -> None:
    """Its eigenvalues may be negative."""
    jacobian, _ = random_problem(tasks, size, seed)
    noise, _ = random_problem(tasks, tasks, seed + 1)
    lengths = jacobian.norm(dim=1)
    gramian = jacobian @ jacobian.T + 1e-6 * lengths[:, None] * lengths * (noise + noise.T)
    assert min_norm_point(gramian).isfinite().all()
    weights = project_on_dual_cone(gramian, torch.eye(tasks, dtype=torch.float64))
    assert ((weights @ jacobian @ jacobian.T) / lengths / lengths[:, None]).min() >= -0.05


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
    nothing = torch.tensor([[torch.nan]], dtype=torch.float64)
    with pytest.raises(SolverError, match="not finite"):
        min_norm_point(nothing)
    with pytest.raises(SolverError, match="not finite"):
        project_on_dual_cone(nothing, torch.ones(1, 1, dtype=torch.float64))

    def give_up(*arguments: object, **settings: object) -> None:
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(solvers, "nnls", give_up)
    with pytest.raises(SolverError, match="Maximum number of iterations"):
        min_norm_point(torch.eye(2, dtype=torch.float64))


def test_a_wrong_projection_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "nnls", lambda design, target, maxiter: (target.clip(0), 0.0))
    opposed = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    with pytest.raises(SolverError, match="projection on the dual cone did not converge"):
        project_on_dual_cone(opposed, torch.eye(2, dtype=torch.float64))
