import math

import pytest
import torch
from weighting_driver import Drive, build, random_problem, task_infos

from mtlrun.weighting.imtl_l import IMTLL

LOSSES = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
IDENTITY = torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize("base", [math.e, 2.0, 10.0])
def test_at_the_optimum_weighted_losses_are_equal(base: float) -> None:
    drive = Drive(IMTLL(base, tasks=task_infos(3)), 3, learning_rate=0.05)
    for _ in range(400):
        weights = drive.step(IDENTITY, LOSSES)
    expected = torch.full((3,), 1 / math.log(base), dtype=torch.float64)
    torch.testing.assert_close(weights * LOSSES, expected, rtol=1e-3, atol=0)


def test_it_is_uncertainty_weighting_of_the_notebook_with_its_sign_turned() -> None:
    """As docstrings say."""
    jacobian, losses = random_problem(3, 5)
    ours = Drive(IMTLL(tasks=task_infos(3)), 3)
    theirs = Drive(build("uncertainty", 3, form="notebook"), 3)
    for step in range(10):
        now = losses * 0.8**step
        torch.testing.assert_close(ours.step(jacobian, now), theirs.step(jacobian, now))


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_a_loss_that_is_not_positive_leaves_its_scale(loss: float) -> None:
    """Otherwise the scale grows without end and its weight overflows."""
    weighting = IMTLL(tasks=task_infos(3))
    with torch.no_grad():
        weighting.log_weight.fill_(0.5)
    drive = Drive(weighting, 3)
    for _ in range(3):
        weights = drive.step(IDENTITY, torch.tensor([loss, 1.0, 5.0], dtype=torch.float64))
    assert weights[0].item() == pytest.approx(math.exp(0.5))
    assert weights[1].item() < math.exp(0.5)


def test_a_task_that_is_absent_learns_nothing() -> None:
    weighting = IMTLL(tasks=task_infos(3))
    Drive(weighting, 3).step(IDENTITY[[0, 2]], LOSSES[[0, 2]], (0, 2))
    assert (weighting.log_weight != 0).tolist() == [True, False, True]


def test_beside_torchjd() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    theirs = scalarization.IMTLL(3)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    drive = Drive(IMTLL(tasks=task_infos(3)), 3, learning_rate=0.01)
    for _ in range(20):
        leaves = LOSSES.float().requires_grad_()
        optimizer.zero_grad()
        theirs(leaves).backward()
        assert leaves.grad is not None
        torch.testing.assert_close(drive.step(IDENTITY, LOSSES), leaves.grad.double())
        optimizer.step()


def test_settings() -> None:
    weighting = IMTLL(learning_rate=0.025, tasks=task_infos(2))
    assert weighting.learning_rate == 0.025
    assert list(weighting.state_dict()) == ["log_weight"]
    for base in (1.0, 0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"base={base}: must be a number greater than 1"):
            IMTLL(base, tasks=task_infos(2))
