import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem

from mtlrun.weighting.fairgrad import FairGrad
from mtlrun.weighting.nash_mtl import NashMTL


def direction(jacobian: Tensor, *settings: float) -> Tensor:
    tasks = len(jacobian)
    return Drive(FairGrad(*settings), tasks).step(jacobian, torch.ones(tasks, dtype=torch.float64))


def test_orthogonal_gradients_in_closed_form() -> None:
    """|g|^2 x = x^(-1 / alpha), so x = |g|^(-2 alpha / (1 + alpha))."""
    lengths = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    for alpha in (0.5, 1.0, 2.0, 10.0):
        expected = lengths ** (1 - 2 * alpha / (1 + alpha))
        torch.testing.assert_close(direction(torch.diag(lengths), alpha), expected)


def test_alpha_1_is_nash_mtl() -> None:
    jacobian, losses = random_problem(4, 20)
    torch.testing.assert_close(direction(jacobian, 1.0), Drive(NashMTL(), 4).step(jacobian, losses))


def test_gains_are_more_equal_with_a_larger_alpha() -> None:
    jacobian, _ = random_problem(4, 20)
    jacobian *= torch.tensor([[0.2], [1.0], [1.0], [3.0]], dtype=torch.float64)
    gains = [jacobian @ direction(jacobian, alpha) for alpha in (0.5, 1.0, 2.0, 8.0)]
    spreads = [(gain.max() / gain.min()).item() for gain in gains]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 2


def test_the_length_depends_on_the_scale_of_losses_as_documented() -> None:
    jacobian, _ = random_problem(3, 20)
    for scale in (1e-6, 1e6):
        expected = scale ** ((1 - 2) / (1 + 2)) * direction(jacobian, 2.0)
        torch.testing.assert_close(direction(scale * jacobian, 2.0), expected)


def test_multiplying_counts_the_tasks_of_the_step() -> None:
    jacobian, losses = random_problem(3, 5)
    plain = Drive(FairGrad(), 5).step(jacobian, losses, (0, 2, 4))
    multiplied = Drive(FairGrad(multiply_by_tasks=True), 5).step(jacobian, losses, (0, 2, 4))
    torch.testing.assert_close(multiplied, 3 * plain)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_beside_torchjd(alpha: float) -> None:
    """Its least squares stop early; our equation holds better, and where both hold they agree."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    try:
        theirs = aggregation.FairGrad(alpha)
    except (AttributeError, ImportError):
        pytest.skip("torchjd has no FairGrad, or not its solver")
    for seed in range(3):
        jacobian, _ = random_problem(3, 20, seed)
        ours = direction(jacobian, alpha)
        torch.testing.assert_close(ours, theirs(jacobian), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_wrong_alpha(alpha: float) -> None:
    with pytest.raises(ValueError, match="must be a number greater than 0"):
        FairGrad(alpha)


def test_heads_train_on_the_plain_losses() -> None:
    assert FairGrad.heads == "unweighted"
