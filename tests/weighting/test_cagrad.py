import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem

from mtlrun.weighting import cagrad
from mtlrun.weighting.cagrad import CAGrad
from mtlrun.weighting.mgda import MGDA
from mtlrun.weighting.solvers import SolverError


def direction(jacobian: Tensor, *settings: object) -> Tensor:
    tasks = len(jacobian)
    drive = Drive(CAGrad(*settings), tasks)
    return drive.step(jacobian, torch.ones(tasks, dtype=torch.float64))


def test_orthogonal_gradients_of_the_same_length() -> None:
    """g_w is the mean gradient by symmetry, so that d = (1 + c) g_0."""
    jacobian = torch.eye(3, dtype=torch.float64)
    for c in (0.0, 0.4, 2.0):
        torch.testing.assert_close(direction(jacobian, c), (1 + c) * jacobian.mean(dim=0))
        torch.testing.assert_close(direction(jacobian, c, "1+c"), jacobian.mean(dim=0))


def test_follows_one_task_while_it_stays_the_worst() -> None:
    """g_0 = (2, 1), and (0, 2) is worst everywhere in a small ball: d = g_0 + c |g_0| (0, 1)."""
    jacobian = torch.tensor([[4.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    expected = torch.tensor([2.0, 1.0 + 0.1 * 5**0.5], dtype=torch.float64)
    torch.testing.assert_close(direction(jacobian, 0.1), expected)


def test_the_worst_task_is_better_than_under_the_mean() -> None:
    for seed in range(10):
        jacobian, _ = random_problem(4, 20, seed)
        worst = [(jacobian @ direction(jacobian, c)).min() for c in (0.0, 0.2, 0.4, 0.8)]
        assert worst == sorted(worst)


def test_turns_to_mgda_as_the_ball_grows() -> None:
    jacobian, losses = random_problem(4, 20)
    shortest = Drive(MGDA(), 4).step(jacobian, losses)
    cosine = torch.cosine_similarity(direction(jacobian, 1e5), shortest, dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-8)


def test_rescale_and_reduction() -> None:
    jacobian, losses = random_problem(3, 5)
    plain = Drive(CAGrad(0.5), 5).step(jacobian, losses, (0, 2, 4))
    for rescale, divisor in (("1+c^2", 1.25), ("1+c", 1.5)):
        changed = Drive(CAGrad(0.5, rescale, "sum"), 5).step(jacobian, losses, (0, 2, 4))
        torch.testing.assert_close(changed, plain * 3 / divisor)


def test_goes_on_at_a_pareto_stationary_point() -> None:
    """For c < 1 it goes on towards the minimum of the mean loss."""
    jacobian, _ = random_problem(3, 20)
    jacobian[2] = -2 * jacobian[0] - jacobian[1]
    found, mean = direction(jacobian, 0.4), jacobian.mean(dim=0)
    assert found @ mean >= (1 - 0.4) * mean.square().sum() - 1e-9


def test_a_failure_is_left_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gramian: Tensor, radius: float) -> Tensor:
        raise SolverError("no luck")

    monkeypatch.setattr(cagrad, "worst_task_weights", fail)
    with pytest.raises(SolverError, match="no luck"):
        direction(random_problem(2, 5)[0])


def test_wrong_settings() -> None:
    for c in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be a number, 0 or more"):
            CAGrad(c)
    with pytest.raises(ValueError, match="rescale='2': choose one of none"):
        CAGrad(rescale="2")
    with pytest.raises(ValueError, match="reduction='max': choose one of sum, mean"):
        CAGrad(reduction="max")
