import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.go4align import GO4Align, group_means


def weights_of(weighting: GO4Align, losses: Tensor) -> Tensor:
    weighting.step = StepInfo(0, 0, 0, tuple(range(len(losses))))
    leaves = [loss.requires_grad_() for loss in losses.clone().unbind()]
    return torch.stack(torch.autograd.grad(weighting.objective(leaves), leaves))


def least_squares(values: NDArray[np.float64], groups: int) -> float:
    """The best cost among all ways to deal the values out to groups."""
    costs = []
    for labels in itertools.product(range(groups), repeat=len(values)):
        parts = [values[np.array(labels) == group] for group in range(groups)]
        costs.append(sum(((part - part.mean()) ** 2).sum() for part in parts if len(part)))
    return float(min(costs))


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_groups_are_the_best_there_are(groups: int) -> None:
    draws = np.random.default_rng(0)
    for _ in range(4):
        values = draws.lognormal(sigma=2, size=5)
        means = group_means(values, groups)
        assert len(set(means)) == groups
        cost = ((values - means) ** 2).sum()
        assert cost == pytest.approx(least_squares(values, groups), rel=1e-9)
        for mean in set(means):
            assert values[means == mean].mean() == pytest.approx(mean)


def test_groups_of_numbers_that_repeat_or_are_too_few() -> None:
    assert group_means(np.array([2.0, 1.0]), 5).tolist() == [2.0, 1.0]
    assert group_means(np.array([3.0, 3.0, 1.0, 3.0]), 3).tolist() == [3.0, 3.0, 1.0, 3.0]
    assert group_means(np.array([7.0]), 1).tolist() == [7.0]


def test_groups_are_found_beside_far_larger_numbers() -> None:
    """Costs from sums of squares would lose the small numbers beside 1e12."""
    values = np.array([1e-3, 2e-3, 1.0, 1.001, 1e12])
    expected = [1.5e-3, 1.5e-3, 1.0005, 1.0005, 1e12]
    np.testing.assert_allclose(group_means(values, 3), expected, rtol=1e-12)


def test_one_group_gives_the_mean_indicator() -> None:
    losses = torch.tensor([1.0, 2.0, 5.0])
    weights = weights_of(GO4Align(1, tasks=task_infos(3)), losses)
    indicators = torch.softmax(-1e-4 * losses, dim=0) * losses.sum() / losses
    torch.testing.assert_close(weights, indicators.mean().expand(3))


def test_shares_drift_towards_small_losses() -> None:
    weighting = GO4Align(3, step_size=0.1, tasks=task_infos(3))
    losses = torch.tensor([1.0, 2.0, 5.0])
    for steps in range(1, 40):
        weights = weights_of(weighting, losses)
        expected = torch.softmax(-0.1 * steps * losses, dim=0) * losses.sum() / losses
        torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-30)


def test_an_absent_task_keeps_its_share() -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = GO4Align(3, step_size=0.5, tasks=task_infos(3))
    drive = Drive(weighting, 3)
    drive.step(jacobian, losses)
    before = weighting.log_shares.exp()
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    after = weighting.log_shares.exp()
    assert after[1] == before[1]
    assert after[0] != before[0]
    assert after.sum().item() == pytest.approx(before.sum().item())


def test_losses_of_zero_or_below() -> None:
    for losses in ([0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [-1.0, 1.0, 2.0], [-1.0, -2.0, -3.0]):
        weights = weights_of(GO4Align(tasks=task_infos(3)), torch.tensor(losses))
        assert weights.isfinite().all()
        assert (weights > 0).all()


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="num_groups=0: must be 1 or more"):
        GO4Align(0, tasks=task_infos(2))
    with pytest.raises(ValueError, match="step_size=0: must be a number greater than 0"):
        GO4Align(step_size=0, tasks=task_infos(2))
