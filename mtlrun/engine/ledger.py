"""The figures of training steps, kept on the device and read back once every few steps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlrun.engine.backward import StepFigures
from mtlrun.engine.conflicts import Conflicts
from mtlrun.errors import UserError

Row = dict[str, object]
NAN = float("nan")


class Mean:
    """A running mean of floats, one addition at a time.

    So it does not matter for the last bit in which portions the figures were read back.
    """

    def __init__(self, total: float = 0.0, count: int = 0) -> None:
        self.total = total
        self.count = count

    def add(self, value: float) -> None:
        """Take a value in; NaN stands for no value."""
        if value == value:
            self.total += value
            self.count += 1

    @property
    def value(self) -> float:
        """The mean, NaN of nothing."""
        return self.total / self.count if self.count else NAN


class Ledger:
    """Collects the figures of steps; gives rows for the CSV files, and the epochs' mean losses.

    Args:
        tasks: names of the run's tasks.
        terms: names of the architecture's auxiliary losses, and what multiplies each.

    Attributes:
        conflicts: in how many steps two tasks were in conflict.
    """

    def __init__(self, tasks: Sequence[str], terms: Mapping[str, float] | None = None) -> None:
        self.tasks = tuple(tasks)
        self.terms = dict(terms or {})
        self.initial = [NAN] * len(tasks)
        self.latest_weights = [NAN] * len(tasks)
        self.latest_losses = [NAN] * len(tasks)
        self.epoch_means: list[Tensor] = []
        self.skipped = 0
        self.conflicts = Conflicts()
        self._epoch = [Mean() for _ in tasks]
        self._interval = self._new_interval()
        self._cosines: dict[tuple[int, int], Mean] = {}
        self._terms = {name: Mean() for name in self.terms}
        self._pending: list[tuple[int, StepFigures]] = []

    def _new_interval(self) -> dict[str, list[Mean]]:
        return {key: [Mean() for _ in self.tasks] for key in ("loss", "weight", "grad_norm")}

    def add(self, step: int, figures: StepFigures) -> None:
        """Take a step's figures, without waiting for the device."""
        self._pending.append((step, figures))

    def read_back(self) -> None:
        """Bring the pending figures to the host.

        Raises:
            UserError: where a loss is not finite and was not skipped: names the task and the step.
        """
        pending = [(step, figures) for step, figures in self._pending if figures.present]
        self._pending = []
        taken = [(step, figures) for step, figures in pending if figures.nonfinite is None]
        self.skipped += len(pending) - len(taken)
        if not taken:
            return
        losses = iter(torch.stack([loss for _, f in taken for loss in f.losses]).double().tolist())
        given = [weight for _, f in taken if f.weights is not None for weight in f.weights]
        weights = iter(torch.stack(given).double().tolist() if given else [])
        shown = [value for _, f in taken for value in f.terms.values()]
        values = iter(torch.stack(shown).double().tolist() if shown else [])
        for step, figures in taken:
            for term in figures.terms:
                value = next(values)
                if not math.isfinite(value):
                    raise nonfinite_loss(of_term(term), step)
                self._terms[term].add(value)
            for index in figures.present:
                loss = next(losses)
                if not math.isfinite(loss):
                    raise nonfinite_loss(of_task(self.tasks[index]), step)
                self._add_loss(index, loss)
                if figures.weights is not None:
                    self.latest_weights[index] = next(weights)
                    self._interval["weight"][index].add(self.latest_weights[index])
            if figures.gramian is not None:
                self._add_gramian(figures.present, figures.gramian.tolist())

    def _add_loss(self, index: int, loss: float) -> None:
        if math.isnan(self.initial[index]):
            self.initial[index] = loss
        self.latest_losses[index] = loss
        self._epoch[index].add(loss)
        self._interval["loss"][index].add(loss)

    def _add_gramian(self, present: Sequence[int], gramian: list[list[float]]) -> None:
        norms = [math.sqrt(max(row[place], 0.0)) for place, row in enumerate(gramian)]
        for a, index in enumerate(present):
            self._interval["grad_norm"][index].add(norms[a])
            for b in range(a + 1, len(present)):
                if norms[a] > 0 and norms[b] > 0:
                    pair = (index, present[b])
                    cosine = gramian[a][b] / norms[a] / norms[b]
                    self._cosines.setdefault(pair, Mean()).add(cosine)
                    self.conflicts.add(pair, cosine)

    def rows(self, step: int, epoch: int) -> tuple[list[Row], list[Row]]:
        """Rows of ``losses.csv`` and ``conflicts.csv`` for the steps since the last call.

        Each figure is the mean over these steps; a loss ratio is the mean loss by the task's first.
        A task without a label in these steps has no row.

        Args:
            step: steps done.
            epoch: counted from 1.
        """
        self.read_back()
        losses: list[Row] = []
        for index, task in enumerate(self.tasks):
            means = {key: figures[index].value for key, figures in self._interval.items()}
            if math.isnan(means["loss"]):
                continue
            ratio = loss_ratio(means["loss"], self.initial[index])
            losses.append(
                {"step": step, "epoch": epoch, "task": task, "loss_ratio": ratio, **means}
            )
        conflicts: list[Row] = [
            {
                "step": step,
                "task_a": self.tasks[a],
                "task_b": self.tasks[b],
                "cosine": mean.value,
            }
            for (a, b), mean in sorted(self._cosines.items())
        ]
        self._interval = self._new_interval()
        self._cosines = {}
        return losses, conflicts

    def term_rows(self, step: int, epoch: int) -> list[Row]:
        """Rows of ``terms.csv``: the means since the last call. After :meth:`rows`.

        Args:
            step: steps done.
            epoch: counted from 1.
        """
        found = [
            {"step": step, "epoch": epoch, "term": n, "loss": mean.value, "weight": self.terms[n]}
            for n, mean in self._terms.items()
            if mean.count
        ]
        self._terms = {name: Mean() for name in self.terms}
        return found

    def close_epoch(self) -> list[float]:
        """The tasks' mean training losses over the epoch, NaN without labels; starts the next."""
        self.read_back()
        means = [mean.value for mean in self._epoch]
        self.epoch_means.append(torch.tensor(means, dtype=torch.float64))
        self._epoch = [Mean() for _ in self.tasks]
        return means

    def ratio_at_half(self, index: int) -> float:
        """A task's loss ratio halfway: of its mean loss in the epoch in which half of the epochs
        that were done is reached (the second of 3 or 4); NaN without labels.
        """
        halfway = self.epoch_means[(len(self.epoch_means) - 1) // 2]
        return loss_ratio(float(halfway[index]), self.initial[index])

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain data: so it does not matter when a checkpoint is written."""
        self.read_back()
        return {
            "initial": list(self.initial),
            "latest_weights": list(self.latest_weights),
            "latest_losses": list(self.latest_losses),
            "epoch_means": [means.clone() for means in self.epoch_means],
            "skipped": self.skipped,
            "epoch": _plain(self._epoch),
            "interval": {key: _plain(means) for key, means in self._interval.items()},
            "terms": {name: [mean.total, mean.count] for name, mean in self._terms.items()},
            "cosines": [[a, b, m.total, m.count] for (a, b), m in self._cosines.items()],
            "conflicts": self.conflicts.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        self.initial = list(state["initial"])
        self.latest_weights = list(state["latest_weights"])
        self.latest_losses = list(state["latest_losses"])
        self.epoch_means = list(state["epoch_means"])
        self.skipped = int(state["skipped"])
        self._epoch = [Mean(*pair) for pair in state["epoch"]]
        self._interval = {
            key: [Mean(*pair) for pair in pairs] for key, pairs in state["interval"].items()
        }
        self._terms = {name: Mean(*state["terms"][name]) for name in self.terms}
        self._cosines = {(a, b): Mean(total, count) for a, b, total, count in state["cosines"]}
        self.conflicts.load_state_dict(state["conflicts"])


def _plain(means: Sequence[Mean]) -> list[list[float]]:
    return [[mean.total, mean.count] for mean in means]


def loss_ratio(loss: float, initial: float) -> float:
    """L(now) / L(0), NaN where the first loss was 0."""
    return loss / initial if initial else NAN


def of_task(name: str) -> str:
    """How messages call the loss of a task."""
    return f"task {name}"


def of_term(name: str) -> str:
    """How messages call an auxiliary loss."""
    return f"the auxiliary loss {name}"


def nonfinite_loss(name: str, step: int) -> UserError:
    """What a user is told when a loss or gradient is NaN or infinite.

    Args:
        name: whose, for example ``task depth``.
        step: counted from 1.
    """
    return UserError(
        f"The loss or gradient of {name} is NaN or infinite at step {step}. Lower "
        "optimizer.lr, set engine.clip_norm=1, or look at the task's targets; "
        "engine.on_nonfinite=skip leaves such steps out and counts them."
    )
