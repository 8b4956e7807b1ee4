import numpy as np
import pytest
import torch
from parity_stochastic import nearest_on_simplex
from weighting_driver import build

from mtlrun.weighting._simplex import Shares, project_on_simplex
from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.solvers import SolverError


def project(*values: float) -> list[float]:
    return project_on_simplex(np.array(values, dtype=np.float64)).tolist()


def test_by_hand() -> None:
    assert project(0.2, 0.3, 0.5) == pytest.approx([0.2, 0.3, 0.5], abs=1e-15)
    assert project(1.0, 1.0, -5.0) == [0.5, 0.5, 0.0]
    assert project(0.9, 0.5, 0.1) == pytest.approx([0.7, 0.3, 0.0], abs=1e-15)
    assert project(7.0) == [1.0]
    assert project(0.0, 0.0, 0.0, 0.0) == [0.25] * 4


@pytest.mark.parametrize("tasks", [1, 2, 5, 40])
def test_against_bisection(tasks: int) -> None:
    draws = np.random.default_rng(tasks)
    for scale in (0.01, 0.5, 20):
        values = scale * draws.normal(size=tasks)
        got = project_on_simplex(values)
        np.testing.assert_allclose(got, nearest_on_simplex(values), atol=1e-12)


def test_far_away() -> None:
    assert project(-1e15, -1e15 + 100, -3e15) == [0.0, 1.0, 0.0]
    assert project(1e300, 1e300, 0.0) == [0.5, 0.5, 0.0]


def test_not_finite() -> None:
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(SolverError, match="not finite"):
            project(1.0, bad)


def shares_of(state: torch.Tensor, present: tuple[int, ...]) -> Shares:
    method = build("moco", len(state))
    method.begin_step(StepInfo(0, 0, 0, present))
    return Shares(method, state)


def test_tasks_of_a_step_divide_what_they_have() -> None:
    state = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    shares = shares_of(state, (0, 2))
    assert shares.values.tolist() == pytest.approx([0.25, 0.75])
    shares.move(torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert state.tolist() == pytest.approx([0.2, 0.6, 0.2])


def test_tasks_that_have_nothing_are_equal() -> None:
    state = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    shares = shares_of(state, (0, 2))
    assert shares.values.tolist() == [0.5, 0.5]
    shares.move(torch.tensor([0.9, 0.1], dtype=torch.float64))
    assert state.tolist() == [0.0, 1.0, 0.0]
