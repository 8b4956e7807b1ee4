import pytest
import torch
from torch import Tensor
from weighting_driver import task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.igb import IGB


def weights_of(weighting: IGB, losses: list[float], epoch: int) -> Tensor:
    weighting.step = StepInfo(0, epoch, 0, tuple(range(len(losses))))
    leaves = [torch.tensor(loss, requires_grad=True) for loss in losses]
    return torch.stack(torch.autograd.grad(weighting.objective(leaves), leaves))


def test_sum_of_log_losses_until_the_base_is_known() -> None:
    weighting = IGB(tasks=task_infos(3))
    for epoch in range(2):
        weighting.start_epoch([torch.ones(3).double()] * epoch)
        got = weights_of(weighting, [0.5, 1.0, 4.0], epoch)
        torch.testing.assert_close(got, torch.tensor([2.0, 1.0, 0.25]))


def test_weights_are_constants_in_the_gradient() -> None:
    losses, base = torch.tensor([0.5, 1.0, 4.0]), torch.tensor([1.0, 3.0, 5.0])
    weighting = IGB(0, tasks=task_infos(3))
    weighting.start_epoch([base.double()])
    expected = 3 * torch.softmax(losses / base, dim=0) / losses
    torch.testing.assert_close(weights_of(weighting, losses.tolist(), 1), expected)


def test_a_task_without_a_mean_loss_in_the_base_epoch() -> None:
    weighting = IGB(0, tasks=task_infos(2))
    history = [torch.tensor(means).double() for means in ([2.0, torch.nan], [1.0, 4.0])]
    weighting.start_epoch(history[:1])
    expected = 2 * torch.softmax(torch.tensor([2.0, 1.0]), dim=0) / torch.tensor([4.0, 3.0])
    torch.testing.assert_close(weights_of(weighting, [4.0, 3.0], 1), expected)
    weighting.start_epoch(history)
    assert weighting.base_losses.tolist() == [2.0, 4.0]


def test_a_solved_task_sits_the_step_out() -> None:
    weighting = IGB(0, tasks=task_infos(2))
    weighting.start_epoch([torch.ones(2).double()])
    torch.testing.assert_close(weights_of(weighting, [0.0, 2.0], 1), torch.tensor([0.0, 0.5]))
    assert torch.equal(weights_of(weighting, [0.0, 0.0], 1), torch.zeros(2))


def test_a_loss_far_above_its_base_takes_all() -> None:
    weighting = IGB(0, tasks=task_infos(2))
    weighting.start_epoch([torch.tensor([1e-6, 1.0]).double()])
    torch.testing.assert_close(weights_of(weighting, [1e6, 1.0], 1), torch.tensor([2e-6, 0.0]))


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="base_epoch=-1: must be a number, 0 or more"):
        IGB(-1, tasks=task_infos(2))
    with pytest.raises(UserError, match="task1 -1"):
        IGB(tasks=task_infos(2)).start_epoch([torch.tensor([1.0, -1.0]).double()])
