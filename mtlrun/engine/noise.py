"""The gradient noise scale of each task, measured beside the training."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from mtlrun.engine.backward import Forward, StepFigures
from mtlrun.engine.watching import Watcher
from mtlrun.tracking.tracker import Tracker
from mtlrun.types import Batch, StepInfo

EVERY = 20
"""Of so many steps with a task one is looked at, in their middle. On a network of three linear
layers a look takes a third of a step, on larger ones a smaller part."""

FEWEST = 20
"""Steps looked at without which there is no figure: where few directions carry the noise, as in
tasks with one output, the figure of a few steps is itself mostly noise."""


@dataclass
class Look:
    """What a step has shown of a task; tensors are scalars that wait on the device.

    Attributes:
        index: the task.
        square: squared norm of the step's gradient.
        squares: sum of the squared norms of what each row adds to it.
        rows: how many rows have a label.
        batches: micro-batches of the step with the task, of which this was the first.
    """

    index: int
    square: Tensor
    squares: Tensor
    rows: int | Tensor
    batches: int = 1


@dataclass
class Sums:
    """What a noise scale follows from, over the steps looked at.

    They are added to one step at a time, so it does not matter for the last bit in which portions
    the figures were read back.

    Attributes:
        trace: of the covariance of a row's gradient, times the rows.
        square: the squared norm of the expected gradient, likewise.
        looked: rows that were looked at.
        rows: labelled rows of the steps: more than that, where they have several micro-batches.
        steps: how many there are.
    """

    trace: float = 0.0
    square: float = 0.0
    looked: float = 0.0
    rows: float = 0.0
    steps: int = 0

    def add(self, square: float, squares: float, rows: float, batches: int) -> None:
        """Take a step in, see :class:`Look`; of a single row nothing is learned."""
        if rows < 2 or not math.isfinite(square + squares):
            return
        self.trace += rows * max(rows * squares - square, 0.0) * rows / (rows - 1)
        self.square += rows * (square - squares) * rows / (rows - 1)
        self.looked += rows
        self.rows += rows * batches
        self.steps += 1

    @property
    def scale(self) -> float:
        """The noise scale in rows; NaN of too few steps, and where the gradient drowns in noise."""
        known = self.steps >= FEWEST and self.square > 0
        return self.trace / self.square if known else math.nan

    @property
    def drowned(self) -> bool:
        """Whether the rows' gradients were seen to have no direction in common."""
        return self.steps >= FEWEST and not self.square > 0


class NoiseScale(Watcher):
    """Measures tr(Sigma) / |G|^2, the simple noise scale, in rows, for each task.

    G is the expected gradient of the task's own loss, without any weight, and Sigma the covariance
    of a single row's (McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch
    Training", 2018, arXiv 1812.06162, eq. 2.9). With many fewer rows in a step than that, a
    gradient is mostly noise, and larger batches take as many fewer steps; with many more they bring
    little.

    The gradient is that on a gain of each channel of the features that the task's head reads: a
    factor of 1 that stands between the two, as if the last layer of the trunk had one more
    parameter a channel. A row's part of it is its features times its gradient on them, summed over
    places. So every weighting and every architecture has it, it is what reaches the trunk, and one
    walk back through the head gives the parts r_i of all B labelled rows, taken at the same
    parameters: with g = sum r_i and q = sum |r_i|^2, of a loss that is a mean over rows,

        E (|g|^2 - q) B / (B - 1) = |G|^2   and   E (B q - |g|^2) B / (B - 1) = tr(Sigma).

    That is the paper's appendix A.1 with the batch sizes 1 and B. The figure is the ratio of the
    sums of both over the steps looked at, each times its rows. |G|^2 can come out at 0 or below:
    then the noise drowns the gradient, and there is no figure. Nor is there one where nothing below
    the head is trained, where steps have a single labelled row, or of fewer than ``FEWEST`` steps.

    What teachers or auxiliary losses add to the task's own loss is left out. Of several
    micro-batches the first one with the task is looked at. Tasks for pixels or tokens are counted
    in rows as well.

    Args:
        forward: how the step calls the network; it says what it does while a look is due.
        partial: names of the tasks without a label in some row.
    """

    name = "noise"

    def __init__(self, forward: Forward, partial: Collection[str]) -> None:
        self.forward = forward
        self.names = forward.names
        self.partial = frozenset(partial)
        self.seen = [0] * len(self.names)
        self.run = [Sums() for _ in self.names]
        self.epoch = [Sums() for _ in self.names]
        self._due: set[int] = set()
        self._looks: list[Look] = []
        self._pending: list[Look] = []

    # -- steps -------------------------------------------------------------------------------------

    def begin(self, info: StepInfo) -> None:
        """See :meth:`Watcher.begin`."""
        self._due.clear()
        self._looks.clear()
        for index in info.present:
            if self.seen[index] % EVERY == EVERY // 2:
                self._due.add(index)
            self.seen[index] += 1
        self.forward.observer = self._note if self._due else None

    def _note(self, index: int, features: Tensor, target: Tensor, loss: Tensor) -> None:
        """Look at one task, before the step's own backward pass."""
        if index not in self._due or not (features.requires_grad and loss.requires_grad):
            return
        self._due.remove(index)
        (gradient,) = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
        if gradient is None:
            return
        name = self.names[index]
        parts = features.detach().float() * gradient.float()
        if parts.dim() > 2:
            places = 1 if self.forward.model.architecture.layout(name) == "sequence" else (2, 3)
            parts = parts.sum(dim=places)
        rows: int | Tensor = len(target)
        if name in self.partial:
            rows = self.forward.tasks[name].labelled(target).sum()
        total, flat = parts.sum(dim=0), parts.flatten()
        self._looks.append(Look(index, total.dot(total), flat.dot(flat), rows))

    def look(self, batches: Sequence[Batch], info: StepInfo, figures: StepFigures) -> None:
        """See :meth:`Watcher.look`: what was noted of a step that is going to be made counts."""
        del info, figures
        self.forward.observer = None
        if len(batches) > 1:
            for look in self._looks:
                name = self.names[look.index]
                look.batches = sum(
                    any(name in part.present for part in batch.values()) for batch in batches
                )
        self._pending += self._looks
        self._looks.clear()

    # -- figures -----------------------------------------------------------------------------------

    def read_back(self) -> None:
        """Bring what waits on the device to the host, in one copy."""
        looks, self._pending = self._pending, []
        if not looks:
            return
        waiting = [value for look in looks for value in (look.square, look.squares)]
        waiting += [look.rows.float() for look in looks if isinstance(look.rows, Tensor)]
        values = torch.stack(waiting).double().tolist()
        rows = iter(values[2 * len(looks) :])
        for number, look in enumerate(looks):
            square, squares = values[2 * number : 2 * number + 2]
            count = next(rows) if isinstance(look.rows, Tensor) else float(look.rows)
            for sums in (self.run[look.index], self.epoch[look.index]):
                sums.add(square, squares, count, look.batches)

    def log(self, tracker: Tracker, step: int, epoch: int) -> None:
        """See :meth:`Watcher.log`: nothing is written, an interval says little."""
        del tracker, step, epoch
        self.read_back()

    def close_epoch(self, tracker: Tracker, step: int, epoch: int) -> None:
        """See :meth:`Watcher.close_epoch`: ``train/noise_scale/<task>``.

        It is over the epoch, or over as many epochs as ``FEWEST`` looks take.
        """
        del epoch
        self.read_back()
        for index, name in enumerate(self.names):
            if self.epoch[index].steps >= FEWEST:
                tracker.scalar(f"train/noise_scale/{name}", self.epoch[index].scale, step)
                self.epoch[index] = Sums()

    def found(self) -> dict[str, dict[str, Any]]:
        """For each task its noise scale over the run, in rows, and what it was measured on."""
        self.read_back()
        return {
            name: {
                "noise_scale": sums.scale,
                "noise_drowns": sums.drowned,
                "noise_steps": sums.steps,
                "rows_per_step": sums.rows / sums.steps if sums.steps else math.nan,
            }
            for name, sums in zip(self.names, self.run, strict=True)
        }

    # -- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Watcher.state_dict`."""
        self.read_back()
        return {
            "seen": list(self.seen),
            "run": [list(astuple(sums)) for sums in self.run],
            "epoch": [list(astuple(sums)) for sums in self.epoch],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Watcher.load_state_dict`."""
        self.seen = list(state["seen"])
        self.run = [Sums(*numbers) for numbers in state["run"]]
        self.epoch = [Sums(*numbers) for numbers in state["epoch"]]
        self._pending = []
