import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from weighting_driver import Drive

from mtlrun.weighting.random import DRAWS, Distribution, RandomLossWeighting

every_distribution = pytest.mark.parametrize("distribution", DRAWS)


def draws(distribution: Distribution, tasks: int, count: int = 4000) -> Tensor:
    """[count, tasks]."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([DRAWS[distribution](tasks, generator) for _ in range(count)])


@every_distribution
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_weights_are_on_the_simplex_and_favour_no_task(
    distribution: Distribution, tasks: int
) -> None:
    weights = draws(distribution, tasks, 2000)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2000))
    spread = weights.std(dim=0) / 2000**0.5
    assert ((weights.mean(dim=0) - 1 / tasks).abs() <= 4 * spread + 1e-6).all()


def test_variances_are_those_of_the_distributions() -> None:
    """For two tasks; the softmax of two normals is the logistic of a normal with variance 2."""
    difference = stats.norm(scale=2**0.5)
    normal, _ = integrate.quad(
        lambda x: (1 / (1 + 2.718281828459045**-x) - 0.5) ** 2 * difference.pdf(x), -12, 12
    )
    uniform, _ = integrate.quad(
        lambda x: (1 / (1 + 2.718281828459045**-x) - 0.5) ** 2 * (1 - abs(x)), -1, 1
    )
    expected = {
        "normal": normal,
        "uniform": uniform,
        "dirichlet": 1 / 12,  # a uniform draw from [0, 1] and the rest
        "bernoulli": 1 / 6,  # (1, 0), (0, 1) or (1/2, 1/2)
        "one_task": 1 / 4,
    }
    for distribution in DRAWS:
        variance = draws(distribution, 2)[:, 0].var().item()
        assert variance == pytest.approx(expected[distribution], rel=0.06), distribution


def step(weighting: RandomLossWeighting, number: int, epoch: int = 0, seed: int = 0) -> Tensor:
    drive = Drive(weighting, 3)
    drive.number = number
    ones = torch.ones(3, dtype=torch.float64)
    return drive.step(torch.eye(3, dtype=torch.float64), ones, epoch=epoch, seed=seed)


def test_every_step_draws_anew_and_a_step_always_the_same() -> None:
    weighting = RandomLossWeighting()
    first = step(weighting, 0)
    assert torch.equal(step(weighting, 0), first)
    for other in (step(weighting, 1), step(weighting, 0, epoch=1), step(weighting, 0, seed=1)):
        assert not torch.equal(other, first)


def test_reduction_is_a_factor_of_the_number_of_tasks() -> None:
    mean, total = step(RandomLossWeighting(), 5), step(RandomLossWeighting(reduction="sum"), 5)
    torch.testing.assert_close(total, 3 * mean)
    assert mean.sum().item() == pytest.approx(1, abs=1e-6)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="distribution='gauss': choose one of normal, uniform"):
        RandomLossWeighting("gauss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction='max': choose one of sum, mean"):
        RandomLossWeighting(reduction="max")  # type: ignore[arg-type]
