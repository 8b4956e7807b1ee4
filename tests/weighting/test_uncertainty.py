import math

import pytest
import torch
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.uncertainty import CLIP, FORMS, Uncertainty

GAUSSIAN, CLASSIFICATION, LAPLACE = 0, 1, 2  # the likelihoods of the driver's first three tasks


def test_likelihood_form_is_each_likelihoods_own() -> None:
    """Against the densities themselves, constants of the loss left out."""
    weighting = Uncertainty(tasks=task_infos(3))
    sigma = torch.tensor([0.5, 1.5, 2.0])
    with torch.no_grad():
        weighting.log_scale.copy_(2 * sigma.log())
    leaves = [torch.tensor(loss, requires_grad=True) for loss in (0.3, 0.7, 1.1)]
    weighting.step = StepInfo(0, 0, 0, (0, 1, 2))
    objective = weighting.objective(leaves)
    normal = torch.distributions.Normal(0.0, sigma[GAUSSIAN])
    laplace = torch.distributions.Laplace(0.0, sigma[LAPLACE])
    expected = (
        -normal.log_prob(torch.tensor(0.3).sqrt())
        - 0.5 * math.log(2 * math.pi)
        + 0.7 / sigma[CLASSIFICATION] ** 2
        + sigma[CLASSIFICATION].log()
        - laplace.log_prob(torch.tensor(1.1))
        - math.log(2)
    )
    torch.testing.assert_close(objective, expected)


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"log_sigma_clipped"}))
def test_the_optimum_is_where_the_form_says(form: str) -> None:
    """s is least where exp(rate s) = factor rate L / penalty; the weight there goes as 1 / L."""
    weighting = Uncertainty(form=form, initial_value=0.3, tasks=task_infos(3))
    jacobian, _ = random_problem(3, 3)
    losses = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    drive = Drive(weighting, 3, learning_rate=0.05)
    for _ in range(400):
        direction = drive.step(jacobian, losses)
    terms = [FORMS[form][info.likelihood] for info in task_infos(3)]
    for term, s, loss in zip(terms, weighting.log_scale.tolist(), losses.tolist(), strict=True):
        assert math.exp(term.rate * s) == pytest.approx(
            term.factor * term.rate * loss / term.penalty, rel=1e-3
        )
    weights = torch.tensor([term.penalty / term.rate for term in terms]) / losses
    torch.testing.assert_close(direction, weights @ jacobian, rtol=1e-3, atol=1e-3)


def test_clipping_bounds_the_weight_and_stops_learning() -> None:
    """tag's form on losses whose own optimum, s = log(2 L) / 2, lies outside and inside."""
    losses = torch.tensor([1e-3, 5.0], dtype=torch.float64)
    weighting = Uncertainty("log_sigma_clipped", 1.0, tasks=task_infos(2))
    drive = Drive(weighting, 2, learning_rate=0.05)
    for _ in range(400):
        weights = drive.step(torch.eye(2, dtype=torch.float64), losses)
    solved, learned = weighting.log_scale.tolist()
    assert solved < CLIP[0]
    assert learned == pytest.approx(math.log(10) / 2, rel=1e-3)
    assert weights.tolist() == pytest.approx([math.exp(-2 * CLIP[0]), 1 / 10], rel=1e-3)
    weighting.step = StepInfo(0, 0, 0, (0, 1))
    objective = weighting.objective([torch.tensor(1e-3), torch.tensor(5.0)])
    (gradient,) = torch.autograd.grad(objective, weighting.log_scale)
    assert gradient[0] == 0
    with pytest.raises(ValueError, match=r"form=log_sigma_clipped trains it between 0.01 and 10"):
        Uncertainty("log_sigma_clipped", tasks=task_infos(2))


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_a_loss_that_is_not_positive_leaves_its_scale(loss: float) -> None:
    """Otherwise s falls without end and its weight overflows."""
    weighting = Uncertainty(initial_value=0.7, tasks=task_infos(2))
    drive = Drive(weighting, 2)
    losses = torch.tensor([loss, 1.0], dtype=torch.float64)
    for _ in range(3):
        weights = drive.step(torch.eye(2, dtype=torch.float64), losses)
    assert weighting.log_scale[0].item() == pytest.approx(0.7)
    assert weighting.log_scale[1].item() != pytest.approx(0.7)
    assert weights[0].item() == pytest.approx(math.exp(-0.7) / 2)


def test_a_task_that_is_absent_learns_nothing() -> None:
    jacobian, losses = random_problem(3, 3)
    weighting = Uncertainty(tasks=task_infos(3))
    Drive(weighting, 3).step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    moved = weighting.log_scale != 0
    assert moved.tolist() == [True, False, True]


def test_settings_reach_the_parameter() -> None:
    weighting = Uncertainty(initial_value=-0.5, learning_rate=0.025, tasks=task_infos(2))
    assert weighting.log_scale.tolist() == [-0.5, -0.5]
    assert weighting.learning_rate == 0.025
    assert list(weighting.state_dict()) == ["log_scale"]
    with pytest.raises(ValueError, match="form='kendall': choose one of likelihood, half"):
        Uncertainty(form="kendall", tasks=task_infos(2))
