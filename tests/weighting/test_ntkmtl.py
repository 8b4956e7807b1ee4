import pytest
import torch
from weighting_driver import Drive, build, random_problem

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.ntkmtl import NTKMTL


def test_one_batch_equalises_the_norms() -> None:
    jacobian, losses = random_problem(5, 20)
    jacobian *= torch.logspace(-3, 3, 5, dtype=torch.float64)[:, None]
    units = jacobian / jacobian.norm(dim=1, keepdim=True)
    length = jacobian.square().sum(dim=1).mean().sqrt()
    got = Drive(build("ntkmtl", 5), 5).step(jacobian, losses)
    torch.testing.assert_close(got, length * units.sum(dim=0))


@pytest.mark.parametrize("batches", [2, 4])
def test_several_batches_weigh_mean_gradients_by_the_largest_eigenvalue(batches: int) -> None:
    tasks = 3
    rows = torch.cat([random_problem(tasks, 20, seed)[0] * (1 + seed) for seed in range(batches)])
    weighting = NTKMTL(batches=batches)
    assert weighting.batches == batches
    assert NTKMTL.batches == 1
    weighting.step = StepInfo(0, 0, 0, (0, 1, 2))
    weights = weighting.weights(rows @ rows.T, torch.ones(batches * tasks).double())
    by_task = [rows[task::tasks] for task in range(tasks)]  # [n, P] each
    speeds = torch.stack([torch.linalg.svdvals(own)[0] ** 2 for own in by_task])
    expected = sum(
        (speeds.mean() / speed).sqrt() * own.mean(dim=0)
        for speed, own in zip(speeds, by_task, strict=True)
    )
    torch.testing.assert_close(weights @ rows, expected)


def test_sum_is_the_mean_times_a_constant() -> None:
    jacobian, losses = random_problem(4, 20)
    mean = Drive(build("ntkmtl", 4), 4).step(jacobian, losses)
    total = Drive(build("ntkmtl", 4, reduction="sum"), 4).step(jacobian, losses)
    torch.testing.assert_close(total, 4 * 4**0.5 * mean)


def test_a_zero_gradient_gets_no_weight() -> None:
    weighting = NTKMTL()
    weighting.step = StepInfo(0, 0, 0, (0, 1))
    weights = weighting.weights(torch.diag(torch.tensor([4.0, 0.0]).double()), torch.ones(2))
    torch.testing.assert_close(weights, torch.tensor([0.5**0.5, 0.0]).double())


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="batches=0: must be 1 or more"):
        NTKMTL(batches=0)
    with pytest.raises(ValueError, match="exponent=0: must be a number greater than 0"):
        NTKMTL(0)
