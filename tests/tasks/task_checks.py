"""What every task must keep to, asserted on a task, a prediction and a target."""

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mtlrun.tasks.base import Task

READS_BACK = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount")


class NothingReadBack(TorchDispatchMode):
    """Refuses operations that make the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not any(name.startswith(word) for word in READS_BACK), name
        return func(*args, **(kwargs or {}))


def assert_nothing_is_read_back(task: Task, prediction: Tensor, target: Tensor) -> None:
    prediction = prediction.clone().requires_grad_()
    with NothingReadBack():
        task.loss(prediction, target).backward()
        first = task.statistics(prediction.detach(), target)
        task.joined(first, task.statistics(prediction.detach(), target))
        task.labelled(target)


def assert_unlabelled_rows_change_nothing(task: Task, prediction: Tensor, target: Tensor) -> None:
    """Loss, gradient and metrics are, bit for bit, those of the labelled rows alone."""
    rows = task.labelled(target)
    assert 0 < rows.sum() < len(rows)
    whole = prediction.clone().requires_grad_()
    part = prediction[rows].clone().requires_grad_()
    losses = task.loss(whole, target), task.loss(part, target[rows])
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    assert torch.equal(whole.grad[rows], part.grad)
    assert not whole.grad[~rows].any()
    assert metrics_of(task, (prediction, target)) == metrics_of(
        task, (prediction[rows], target[rows])
    )


def assert_nothing_labelled_is_nothing(task: Task, prediction: Tensor, target: Tensor) -> None:
    """For a target without any label: no loss, no gradient, no figures."""
    prediction = prediction.clone().requires_grad_()
    loss = task.loss(prediction, target)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))
    assert not task.labelled(target).any()
    figures = metrics_of(task, (prediction.detach(), target))
    assert all(math.isnan(value) for value in figures.values())


def assert_loss_is_precise(task: Task, prediction: Tensor, target: Tensor) -> None:
    """Half precision is computed in float32."""
    half = prediction.bfloat16()
    loss = task.loss(half, target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, task.loss(half.float(), target))


def metrics_of(task: Task, *batches: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The metrics of batches as an evaluation gathers them."""
    statistics = task.statistics(*batches[0])
    for batch in batches[1:]:
        statistics = task.joined(statistics, task.statistics(*batch))
    figures = task.compute(statistics)
    assert list(figures) == list(task.metrics)
    return figures
