import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem, reference

from mtlrun.weighting import mgda
from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.mgda import MGDA, NORMALISATIONS
from mtlrun.weighting.solvers import SolverError


def weights_of(weighting: MGDA, jacobian: Tensor, losses: Tensor) -> Tensor:
    weighting.step = StepInfo(0, 0, 0, tuple(range(len(losses))))
    return weighting.weights(jacobian @ jacobian.T, losses)


def test_exact_weights() -> None:
    for case in reference("weighting_aggregators")["cases"].values():
        jacobian = torch.tensor(case["gradients"], dtype=torch.float64)
        losses = torch.tensor(case["losses"], dtype=torch.float64)
        expected = torch.tensor(case["exact"]["mgda_exact"]["weights"], dtype=torch.float64)
        got = weights_of(MGDA(), jacobian, losses)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_two_tasks_in_closed_form() -> None:
    for seed in range(30):
        jacobian, losses = random_problem(2, 4, seed)
        jacobian[0] *= 1 + seed / 3
        first, second = jacobian
        share = (second - first) @ second / (first - second).square().sum()
        expected = torch.stack([share, 1 - share]).clamp(0, 1)
        torch.testing.assert_close(weights_of(MGDA(), jacobian, losses), expected)


@pytest.mark.parametrize("tasks", [2, 3, 7, 40])
def test_never_conflicts(tasks: int) -> None:
    for seed in range(5):
        jacobian, losses = random_problem(tasks, 50, seed)
        direction = Drive(MGDA(), tasks).step(jacobian, losses)
        assert (jacobian @ direction).min() >= -1e-12


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_is_plain_mgda_of_the_normalised_gradients(normalisation: str) -> None:
    jacobian, losses = random_problem(4, 20)
    losses = losses * torch.tensor([1.0, 10.0, 0.1, 3.0])
    divisors = torch.ones(4, dtype=torch.float64)
    if "loss" in normalisation:
        divisors = divisors * losses
    if normalisation in ("l2", "loss+"):
        divisors = divisors * jacobian.norm(dim=1)
    expected = weights_of(MGDA(), jacobian / divisors[:, None], losses)
    got = weights_of(MGDA(normalisation), jacobian, losses)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_common_scale_changes_nothing(normalisation: str) -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = MGDA(normalisation)
    expected = weights_of(weighting, jacobian, losses)
    for scale in (1e-6, 1e6):
        got = weights_of(weighting, scale * jacobian, scale * losses)
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("normalisation", ["l2", "loss+"])
def test_normalising_by_length_forgets_each_tasks_scale(normalisation: str) -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = MGDA(normalisation)
    scales = torch.tensor([1e-4, 1.0, 1e4], dtype=torch.float64)
    expected = weights_of(weighting, jacobian, losses)
    got = weights_of(weighting, scales[:, None] * jacobian, losses)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_losses_of_zero_or_below(normalisation: str) -> None:
    jacobian, _ = random_problem(3, 20)
    for losses in ([0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [-1.0, 1.0, 2.0]):
        got = weights_of(MGDA(normalisation), jacobian, torch.tensor(losses).double())
        assert got.isfinite().all()
        assert got.sum().item() == pytest.approx(1)


def test_a_zero_gradient_is_pareto_stationary() -> None:
    jacobian, losses = random_problem(3, 20)
    jacobian[1] = 0
    for normalisation in NORMALISATIONS:
        direction = Drive(MGDA(normalisation), 3).step(jacobian, losses)
        assert direction.norm() == 0


def test_reduction() -> None:
    jacobian, losses = random_problem(3, 20)
    mean = weights_of(MGDA(), jacobian, losses)
    torch.testing.assert_close(weights_of(MGDA(reduction="sum"), jacobian, losses), 3 * mean)


def test_a_failure_is_left_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gramian: Tensor) -> Tensor:
        raise SolverError("no luck")

    monkeypatch.setattr(mgda, "min_norm_point", fail)
    with pytest.raises(SolverError, match="no luck"):
        weights_of(MGDA(), *random_problem(4, 20))


def test_heads_train_on_the_weighted_losses() -> None:
    assert MGDA.heads == "weighted"


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match=r"normalisation='norm': choose one of none, l2, loss"):
        MGDA("norm")
    with pytest.raises(ValueError, match="reduction='max': choose one of sum, mean"):
        MGDA(reduction="max")
