"""The micro-batches of a step: which tasks they carry, and how their figures add up."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.types import Batch


def labelled(batch: Batch, names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the tasks that have a label in a batch, in the order of the run's tasks."""
    present = {task for part in batch.values() for task in part.present}
    if len(present) == len(names):
        return tuple(range(len(names)))
    return tuple(index for index, name in enumerate(names) if name in present)


def first_nonfinite(losses: Sequence[Tensor], present: Sequence[int]) -> int | None:
    """The first of the tasks whose loss is NaN or infinite. Waits for the device."""
    if losses[0].is_cpu:
        values = [loss.item() for loss in losses]
    else:
        values = torch.stack(list(losses)).tolist()
    bad = (task for task, value in zip(present, values, strict=True) if not math.isfinite(value))
    return next(bad, None)


def micro_batch_shares(
    batches: Sequence[Batch], names: Sequence[str], present: Sequence[int]
) -> list[list[float]]:
    """How much each micro-batch counts for each task of the step.

    A task's loss over the step is the mean of its losses over the micro-batches that have labels
    for it.

    Returns:
        for each micro-batch, for each task of the step, its share; shares of a task sum to 1.
    """
    if len(batches) == 1:
        return [[1.0] * len(present)]
    labels = [set(labelled(batch, names)) for batch in batches]
    counts = {task: sum(task in tasks for tasks in labels) for task in present}
    return [[(task in tasks) / counts[task] for task in present] for tasks in labels]


def add_losses(
    sums: list[Tensor], losses: list[Tensor], places: Sequence[int], share: Sequence[float]
) -> list[Tensor]:
    """The step's losses so far, with those of a further micro-batch times their shares."""
    if all(value == 1 for value in share):  # the step's only micro-batch
        return losses
    sums = sums or [torch.zeros_like(losses[0]) for _ in share]
    for place, loss in zip(places, losses, strict=True):
        sums[place] = sums[place] + loss * share[place]
    return sums


def to_host(inner: Tensor, losses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The Gramian, [T, T], and the losses, [T], on the host; from a GPU in one copy."""
    if inner.is_cpu:
        return inner, torch.tensor([loss.item() for loss in losses], dtype=torch.float64)
    tasks = len(inner)
    both = torch.cat([inner.flatten(), torch.stack(list(losses)).double()]).cpu()
    return both[: tasks * tasks].view(tasks, tasks), both[tasks * tasks :]


def first_bad(present: Sequence[int], inner: Tensor, losses: Tensor) -> int | None:
    """The first task with a loss or gradient that is not finite; all on the host.

    The diagonal tells: a gradient with a NaN spoils its inner products with all others, too. Rows
    of several batches follow one another, the tasks of each in their order.
    """
    if math.isfinite(inner.trace().item() + losses.sum().item()):
        return None
    finite = torch.isfinite(inner.diagonal()) & torch.isfinite(losses)
    return None if bool(finite.all()) else present[int((~finite).nonzero()[0]) % len(present)]
