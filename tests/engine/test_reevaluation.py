"""Losses of a step's batch, seen again after the step."""

import copy
from typing import Any

import pytest
import torch
from engine_toys import NAMES, hps_model, mlp_model, toy_batch, toy_tasks
from test_step import batches, partial_batches, sgd, step_of
from torch import Tensor, nn
from torch.optim import SGD

from mtlrun.weighting.equal import Equal


class Looking(Equal):
    """Takes the losses after the step."""

    reevaluates = True

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []

    def objective(self, losses: list[Tensor]) -> Tensor:
        self.before.append(torch.stack(losses).detach())
        return super().objective(losses)

    def reevaluated(self, losses: Tensor) -> None:
        assert not losses.requires_grad
        self.after.append(losses)


@pytest.mark.parametrize("rescale", ["none", "norm"])
def test_losses_after_the_step_have_its_masks_and_leave_statistics_alone(rescale: Any) -> None:
    torch.manual_seed(0)
    tasks = toy_tasks()
    trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))
    model = hps_model(trunk, tasks)
    once = copy.deepcopy(model)
    once.architecture({"rows": toy_batch(0)["rows"].inputs}, NAMES)
    still, moving = Looking(), Looking()
    step = step_of(model, tasks, still, lambda g: SGD(g, lr=0.0), rescale=rescale)
    step(batches(1), 0, 0)
    torch.testing.assert_close(still.after[0], still.before[0])
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in once.named_buffers())
    step = step_of(model, tasks, moving, lambda g: SGD(g, lr=1e-3), rescale=rescale)
    step(batches(1), 0, 0)
    assert moving.after[0].sum() < moving.before[0].sum() - 1e-4


def test_losses_after_a_step_of_several_micro_batches() -> None:
    model, tasks = mlp_model()
    weighting = Looking()
    step = step_of(model, tasks, weighting, lambda g: SGD(g, lr=0.0), accumulate=4)
    figures = step(partial_batches(), 0, 0)
    torch.testing.assert_close(weighting.after[0], torch.stack(figures.losses))
    assert len(weighting.after) == 1


def test_no_second_look_after_a_step_that_is_left_out() -> None:
    model, tasks = mlp_model()
    weighting = Looking()
    bad = toy_batch(0)
    bad["rows"].targets["b"][0] = torch.inf
    step = step_of(model, tasks, weighting, sgd)
    assert step([bad], 0, 0).nonfinite == 1
    step([toy_batch(0, present=())], 0, 1)
    assert weighting.after == []
