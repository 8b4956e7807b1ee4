"""Inter-task affinity: what a step for one task alone would do to the loss of each other."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from mtlrun.engine.backward import Backward, StepFigures
from mtlrun.engine.gradients import TaskGradients, gramian
from mtlrun.engine.ledger import Mean, Row
from mtlrun.engine.shared_gradients import SharedGradients, from_graph
from mtlrun.engine.shares import add_losses, micro_batch_shares
from mtlrun.engine.watching import Watcher
from mtlrun.randomness import seed_global_step
from mtlrun.tracking.tracker import Tracker
from mtlrun.types import Batch, StepInfo

Kind = Literal["tag", "cosine"]


@dataclass
class Seen:
    """One measurement.

    Attributes:
        step: steps done after it.
        present: indices of the tasks of the step.
        values: [T, T] over these, source by target, on the device.
    """

    step: int
    present: tuple[int, ...]
    values: Tensor


class Affinity(Watcher):
    """Measures the affinity of each task onto each other, itself included, every few steps.

    ``tag`` is that of Fifty, Amid, Zhao, Yu, Anil & Finn, "Efficiently Identifying Task Groupings
    for Multi-Task Learning" (NeurIPS 2021, eq. 1). A step along task i's gradient alone is tried
    out on the shared parameters, theta_i = theta - lr grad L_i, with the heads as they are, and

        Z[i, j] = 1 - L_j(theta_i) / L_j(theta)

    is what it would do for task j: above 0 it helps, below it harms. Both losses are of the step's
    own batch (all of its micro-batches) with the step's dropout masks; batch normalisation takes
    the batch's statistics, and its running ones stay. The step is plain gradient descent at the
    network's learning rate, whatever optimizer trains: so values of runs with other optimizers
    compare, and no optimizer state is tried out. The published code does it so on Taskonomy, but
    for a weight decay (its test for a momentum buffer never holds), and has the momentum in it on
    CelebA; it divides by the learning rate where it averages, which is left to the reader here.
    Where the learning rate is 0, so are all values, and where they are not well above 1e-7, as with
    very small rates, they are rounding: losses are in float32.

    ``cosine`` is the cosine between the gradients of the two tasks on the shared parameters.

    All shared parameters count, also in steps of architectures that train a part of them. Steps
    with one task alone are left out. Z is NaN where a loss is 0 or not finite, the cosine where a
    gradient is 0. Under ``engine.amp=bf16`` or ``engine.compile`` the measurement has a forward and
    backward pass of its own, not compiled and in float32, since rounding to bfloat16 can hide what
    one small step does. Where the method has the task gradients, or can still form them from its
    own pass, they are not taken a second time. What is left of the cost of ``tag``, for T tasks:
    T forward passes without gradients; for methods that see losses T backward passes more, which
    for tasks that read the same inputs is the cost of T steps.

    Args:
        kind: ``tag`` or ``cosine``.
        every: steps between two measurements.
        backward: of the training step.
    """

    name = "affinity"

    def __init__(self, kind: Kind, every: int, backward: Backward) -> None:
        self.kind = kind
        self.every = every
        self.forward = backward.forward
        self.shared = backward.shared
        self.own_pass = self.forward.amp or self.forward.compiled
        if self.own_pass:
            self.forward = replace(self.forward, amp=False, compiled=False)
        self._pending: list[Seen] = []
        self._rows: list[Row] = []
        self._epoch: dict[tuple[int, int], Mean] = {}

    # -- steps -------------------------------------------------------------------------------------

    def _due(self, info: StepInfo) -> bool:
        return info.step % self.every == 0 and len(info.present) > 1

    def wants_gradients(self, info: StepInfo) -> bool:
        """See :meth:`Watcher.wants_gradients`."""
        return self._due(info) and not self.own_pass

    def look(self, batches: Sequence[Batch], info: StepInfo, figures: StepFigures) -> None:
        """See :meth:`Watcher.look`."""
        if not self._due(info):
            return
        if figures.shared is not None:
            values = self._measured(batches, info, figures.shared, figures.losses)
        else:
            with _put_back(self._buffers()):
                values = self._measured(batches, info, *self._taken(batches, info))
        self._pending.append(Seen(info.step + 1, info.present, values))

    def _measured(
        self,
        batches: Sequence[Batch],
        info: StepInfo,
        gradients: SharedGradients,
        losses: Sequence[Tensor],
    ) -> Tensor:
        """The affinities, [T, T].

        Args:
            batches: of the step.
            info: of the step.
            gradients: of its tasks.
            losses: likewise, before the step.
        """
        if self.kind == "cosine":
            return self._cosines(gradients, len(losses))
        before = torch.stack([loss.detach().double() for loss in losses])
        after = self._losses_ahead(batches, info, gradients, before)
        found = 1 - after / before
        return torch.where(found.isfinite() & before.isfinite(), found, torch.nan)

    def _losses_ahead(
        self,
        batches: Sequence[Batch],
        info: StepInfo,
        gradients: SharedGradients,
        before: Tensor,
    ) -> Tensor:
        """The losses after a step for each of the tasks, [T, T]."""
        rows = []
        touched = [*self.shared, *self._buffers()]
        values = [tensor.detach().clone() for tensor in touched]
        for place in range(len(before)):
            found = gradients.of(place)
            moves = [(p, g) for p, g in zip(self.shared, found, strict=True) if g is not None]
            if not moves:  # the task trains its head alone
                rows.append(before)
                continue
            with torch.no_grad(), _put_back(touched, values):
                parameters, directions = zip(*moves, strict=True)
                torch._foreach_add_(parameters, directions, alpha=-info.learning_rate)
                losses = self.forward.step_losses(batches, info)
            rows.append(torch.stack(losses).double())
        return torch.stack(rows)

    def _buffers(self) -> list[Tensor]:
        return list(self.forward.model.buffers())

    def _cosines(self, gradients: SharedGradients, tasks: int) -> Tensor:
        inner = gradients.gramian
        if inner is None:
            held = TaskGradients(self.shared, tasks)
            for place in range(tasks):
                held.write(place, gradients.of(place), add=False)
            inner = gramian(held.rows(tasks))
        norms = inner.diagonal().clamp(min=0).sqrt()
        cosines = (inner + inner.T) / 2 / (norms * norms[:, None])
        return torch.where(cosines.isfinite(), cosines, torch.nan)

    def _taken(
        self, batches: Sequence[Batch], info: StepInfo
    ) -> tuple[SharedGradients, list[Tensor]]:
        """Task gradients and losses from a pass of its own.

        Of one batch the graph is kept, and one gradient at a time formed; of several their sums.
        """
        forward = self.forward
        shares = micro_batch_shares(batches, forward.names, info.present)
        rows = TaskGradients(self.shared if len(batches) > 1 else [], len(info.present))
        seed_global_step(info.seed, "dropout", info.epoch, info.step)
        sums: list[Tensor] = []
        for batch, share in zip(batches, shares, strict=True):
            places = [place for place, value in enumerate(share) if value > 0]
            losses = forward.losses_of_pass(batch, [info.present[place] for place in places])
            sums = add_losses(sums, [loss.detach() for loss in losses], places, share)
            if len(batches) == 1:
                return SharedGradients(from_graph(losses, None, self.shared)), sums
            parts = [loss * share[place] for place, loss in zip(places, losses, strict=True)]
            gradient = from_graph(parts, None, self.shared)
            for position, place in enumerate(places):
                rows.write(place, gradient(position), add=True)
        return SharedGradients(rows.cells), sums

    # -- figures -----------------------------------------------------------------------------------

    def read_back(self) -> None:
        """Bring what was measured to the host."""
        pending, self._pending = self._pending, []
        names = self.forward.names
        for seen in pending:
            for source, values in zip(seen.present, seen.values.tolist(), strict=True):
                for target, value in zip(seen.present, values, strict=True):
                    self._epoch.setdefault((source, target), Mean()).add(value)
                    self._rows.append(
                        {
                            "step": seen.step,
                            "source": names[source],
                            "target": names[target],
                            "value": value,
                        }
                    )

    def log(self, tracker: Tracker, step: int, epoch: int) -> None:
        """See :meth:`Watcher.log`: rows of ``affinity.csv``."""
        del step, epoch
        self.read_back()
        tracker.affinity(self._rows)
        self._rows = []

    def close_epoch(self, tracker: Tracker, step: int, epoch: int) -> None:
        """See :meth:`Watcher.close_epoch`: ``train/affinity/<kind>``, the means over the epoch."""
        del epoch
        names = self.forward.names
        means = torch.full((len(names), len(names)), math.nan, dtype=torch.float64)
        for pair, mean in self._epoch.items():
            means[pair] = mean.value
        if self._epoch:
            tracker.heatmap(f"train/affinity/{self.kind}", names, names, means, step)
        self._epoch = {}

    # -- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Watcher.state_dict`."""
        self.read_back()
        return {
            "rows": [dict(row) for row in self._rows],
            "epoch": [[*pair, mean.total, mean.count] for pair, mean in self._epoch.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Watcher.load_state_dict`."""
        self._pending = []
        self._rows = [dict(row) for row in state["rows"]]
        self._epoch = {
            (source, target): Mean(total, count) for source, target, total, count in state["epoch"]
        }


@contextmanager
def _put_back(tensors: Sequence[Tensor], values: Sequence[Tensor] | None = None) -> Iterator[None]:
    """Tensors that may be changed inside; afterwards they are, bit for bit, as before.

    Graphs that need them can still be walked, since autograd does not come to know of it.

    Args:
        tensors: these.
        values: copies of what they hold, where there are any.
    """
    if not tensors:
        yield
        return
    if values is None:
        values = [tensor.detach().clone() for tensor in tensors]
    with _unsafe_preserve_version_counter(tuple(tensors)):
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(tensors), list(values))
