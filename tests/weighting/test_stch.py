import pytest
import torch
from torch import Tensor
from weighting_driver import task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.stch import STCH


def weights_of(weighting: STCH, losses: list[float], epoch: int) -> Tensor:
    weighting.step = StepInfo(0, epoch, 0, tuple(range(len(losses))))
    leaves = [torch.tensor(loss, requires_grad=True) for loss in losses]
    return torch.stack(torch.autograd.grad(weighting.objective(leaves), leaves))


def after_warmup(nadirs: list[float], **settings: float) -> STCH:
    weighting = STCH(warmup_epochs=0, tasks=task_infos(len(nadirs)), **settings)
    weighting.start_epoch([torch.tensor(nadirs).double()])
    return weighting


def test_sum_of_log_losses_until_the_nadir_is_known() -> None:
    weighting = STCH(tasks=task_infos(3))
    expected = torch.tensor([2.0, 1.0, 0.25])
    for epoch in range(5):
        weighting.start_epoch([torch.ones(3).double()] * epoch)
        torch.testing.assert_close(weights_of(weighting, [0.5, 1.0, 4.0], epoch), expected)
    assert weighting.nadirs.isnan().all()
    weighting.start_epoch([torch.ones(3).double()] * 5)
    assert torch.equal(weighting.nadirs, torch.ones(3))


def test_weights_in_closed_form() -> None:
    losses, nadirs = torch.tensor([0.5, 1.0, 4.0]), torch.tensor([1.0, 3.0, 5.0])
    for mu in (0.1, 1.0, 5.0):
        weighting = after_warmup(nadirs.tolist(), mu=mu)
        expected = 3 * torch.softmax((losses / nadirs).log() / mu, dim=0) / losses
        torch.testing.assert_close(weights_of(weighting, losses.tolist(), 1), expected)


def test_limits_of_the_smoothness() -> None:
    """A small mu sees the worst ratio only, a large one the sum of log losses."""
    losses = [0.5, 1.0, 4.0]
    small = weights_of(after_warmup([1.0, 3.0, 5.0], mu=1e-9), losses, 1)
    torch.testing.assert_close(small, torch.tensor([0.0, 0.0, 3 / 4]))
    large = weights_of(after_warmup([1.0, 3.0, 5.0], mu=1e6), losses, 1)
    torch.testing.assert_close(large, torch.tensor([2.0, 1.0, 0.25]))


def test_a_task_without_a_mean_loss_in_the_nadirs_epoch() -> None:
    weighting = STCH(warmup_epochs=0, tasks=task_infos(2))
    history = [torch.tensor(means).double() for means in ([2.0, torch.nan], [1.0, 4.0])]
    weighting.start_epoch(history[:1])
    expected = torch.tensor([2 * (2 / 3) / 4, 2 * (1 / 3) / 1])  # ratios 2 and, for want of it, 1
    torch.testing.assert_close(weights_of(weighting, [4.0, 1.0], 1), expected)
    weighting.start_epoch(history)
    assert weighting.nadirs.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("mu", [1e-9, 1.0, 100.0])
def test_a_solved_task_sits_the_step_out(mu: float) -> None:
    weighting = after_warmup([1.0, 1.0], mu=mu)
    expected = torch.tensor([0.0, 0.5])
    torch.testing.assert_close(weights_of(weighting, [0.0, 2.0], 1), expected)
    assert torch.equal(weights_of(weighting, [0.0, 0.0], 1), torch.zeros(2))


def test_negative_losses_are_refused() -> None:
    with pytest.raises(UserError, match="task1 -1"):
        STCH(tasks=task_infos(2)).start_epoch([torch.tensor([1.0, -1.0]).double()])


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="mu=0: must be a number greater than 0"):
        STCH(0, tasks=task_infos(2))
    with pytest.raises(ValueError, match="warmup_epochs=-1: must be a number, 0 or more"):
        STCH(warmup_epochs=-1, tasks=task_infos(2))
