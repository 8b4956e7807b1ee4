"""When training ends, for the whole run or task by task: what an epoch's evaluation says of it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mtlrun.engine.evaluation import Figures, headline
from mtlrun.errors import did_you_mean
from mtlrun.settings import check_not_negative, check_whole
from mtlrun.tasks.base import Task

SCORE, DELTA_M = "score", "delta_m"
"""What :class:`JointStopping` may look at beside a metric of a task."""


@dataclass(frozen=True)
class Seen:
    """What there is to see after an epoch.

    Attributes:
        epoch: counted from 1.
        figures: for each task its metrics on the split that selects.
        best_epoch: the newest of the epochs that are the best of a group of tasks, by
            :class:`~mtlrun.engine.evaluation.Selection`.
        delta_m: the mean over the primary tasks of the change against training each alone, in
            percent; NaN where nothing is known.
    """

    epoch: int
    figures: Figures
    best_epoch: int = 0
    delta_m: float = math.nan


@dataclass
class Change:
    """What an epoch changes.

    Attributes:
        better: the tasks whose best epoch it is; one that comes back begins with it.
        left: the tasks that leave training.
        said: sentences for the user.
    """

    better: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


class Stopping(ABC):
    """Looks at each epoch's evaluation, and says which tasks go on.

    A stopping's ``__init__`` takes its settings and, as keywords, those runtime facts that it
    wants: ``tasks`` (for each task of the run its :class:`~mtlrun.tasks.base.Task`), ``primary``
    (names of those that the run is for) and ``baseline`` (the folder that ``tracking.baseline``
    names, or None).

    Attributes:
        per_task: whether single tasks leave.
        revives: whether they may come back.
        stopped: for each task that has left, and has not come back, the epoch after which it did.
        ended: why the run is over, a sentence; None while it goes on.
    """

    per_task: ClassVar[bool] = False
    revives: bool = False

    def __init__(self) -> None:
        self.stopped: dict[str, int] = {}
        self.ended: str | None = None

    @abstractmethod
    def after_epoch(self, seen: Seen) -> Change:
        """Take an epoch in."""

    def best_epochs(self) -> Mapping[str, int]:
        """For each task that has left its best epoch; 0 where it never had a value."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next epochs depend on, as plain data for the checkpoint."""
        return {"stopped": dict(self.stopped), "ended": self.ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        self.stopped = dict(state["stopped"])
        self.ended = state["ended"]


class Best:
    """The best of a row of values, and its epoch. NaN is never better, nor is the same value.

    Args:
        higher_is_better: the direction.

    Attributes:
        value: NaN before there is one.
        epoch: of the best value; 0 before there is one.
    """

    def __init__(self, *, higher_is_better: bool) -> None:
        self.higher_is_better = higher_is_better
        self.value = math.nan
        self.epoch = 0

    def take(self, value: float, epoch: int) -> bool:
        """Take a value in; whether it is the best so far."""
        sign = 1 if self.higher_is_better else -1
        better = not math.isnan(value) and not sign * value <= sign * self.value
        if better:
            self.value, self.epoch = value, epoch
        return better

    def begin_anew(self, value: float, epoch: int) -> None:
        """Forget the values before this one."""
        self.value, self.epoch = value, epoch

    def state_dict(self) -> dict[str, Any]:
        """Plain data for the checkpoint."""
        return {"value": self.value, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        self.value, self.epoch = state["value"], state["epoch"]


class JointStopping(Stopping):
    """The run ends when one figure, on the split that selects, has not got better for some epochs.

    Args:
        patience: epochs without a better value, 1 or more.
        monitor: ``score``, that which selects the best epoch (for independent networks the newest
            of their best epochs counts); ``delta_m``, against the run that ``tracking.baseline``
            names; or ``TASK/METRIC``, one of the task's metrics or its ``loss``.
        tasks: see :class:`Stopping`.
        baseline: likewise.

    Raises:
        ValueError: a patience below 1; a figure that there is not.
    """

    def __init__(
        self,
        patience: int = 10,
        monitor: str = SCORE,
        *,
        tasks: Mapping[str, Task],
        baseline: str | None = None,
    ) -> None:
        super().__init__()
        check_whole("patience", patience, 1)
        self.patience = patience
        self.monitor = monitor
        self.figure: tuple[str, str] | None = None
        higher = True
        if monitor == DELTA_M and not baseline:
            raise ValueError(
                "monitor=delta_m needs a single-task run to compare with: name the folder of a "
                "finished one in tracking.baseline=FOLDER, or choose another figure"
            )
        if monitor not in (SCORE, DELTA_M):
            self.figure, higher = _figure_of(monitor, tasks)
        self.best = Best(higher_is_better=higher)

    def after_epoch(self, seen: Seen) -> Change:
        """See :meth:`Stopping.after_epoch`."""
        if self.monitor == SCORE:
            self.best.epoch = seen.best_epoch
        else:
            self.best.take(self._value(seen), seen.epoch)
        if seen.epoch - self.best.epoch < self.patience:
            return Change()
        since = f"the best was epoch {self.best.epoch}" if self.best.epoch else "it has no value"
        self.ended = (
            f"{self.monitor} has not got better for {_epochs(self.patience)}, {since} "
            "(stopping=joint)"
        )
        return Change(said=[f"The run ends: {self.ended}."])

    def _value(self, seen: Seen) -> float:
        if self.figure is None:
            return seen.delta_m
        task, metric = self.figure
        return seen.figures.get(task, {}).get(metric, math.nan)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Stopping.state_dict`."""
        return {**super().state_dict(), "best": self.best.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Stopping.load_state_dict`."""
        super().load_state_dict(state)
        self.best.load_state_dict(state["best"])


class PerTaskStopping(Stopping):
    """A task that stops getting better leaves training; the run ends with the last primary one.

    Each task is judged by its own headline metric on the split that selects. One that has left
    takes no part in the objective, as if its labels were missing; its own parameters (its head's,
    and the architecture's for it) are those of its best epoch and stay so, while shared ones go on
    moving. It is still evaluated.

    What the others get stays as it was: steps of a sampler that draws a task that has left are
    passed over.

    Args:
        patience: epochs without a better value of the task's headline metric, 1 or more.
        revive: a task that has left comes back when its error (the distance of its headline metric
            from the optimum) exceeds that of its best epoch by more than this share, 0 or more;
            None for never. It goes on from where it is: its patience begins anew, and its best
            value is that since it came back.
        tasks: see :class:`Stopping`.
        primary: likewise; all tasks where it is empty.

    Raises:
        ValueError: a patience below 1; a share below 0.
    """

    per_task = True

    def __init__(
        self,
        patience: int = 5,
        revive: float | None = None,
        *,
        tasks: Mapping[str, Task],
        primary: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_whole("patience", patience, 1)
        if revive is not None:
            check_not_negative(revive=revive)
        self.patience = patience
        self.revive = revive
        self.revives = revive is not None
        self.metrics = {name: headline(task) for name, task in tasks.items()}
        self.facts = {name: tasks[name].metrics[metric] for name, metric in self.metrics.items()}
        self.primary = tuple(primary) or tuple(tasks)
        self.best = {
            name: Best(higher_is_better=facts.higher_is_better)
            for name, facts in self.facts.items()
        }

    def after_epoch(self, seen: Seen) -> Change:
        """See :meth:`Stopping.after_epoch`."""
        change = Change()
        for name, best in self.best.items():
            value = seen.figures.get(name, {}).get(self.metrics[name], math.nan)
            if name in self.stopped:
                if self._has_worsened(name, value):
                    self._bring_back(name, value, seen.epoch, change)
            elif best.take(value, seen.epoch):
                change.better.append(name)
            elif seen.epoch - best.epoch >= self.patience:
                self._leave(name, seen.epoch, change)
        if self.stopped.keys() >= set(self.primary):
            self._end(change)
        return change

    def best_epochs(self) -> Mapping[str, int]:
        """See :meth:`Stopping.best_epochs`: those whose parameters are kept."""
        return {name: self.best[name].epoch for name in self.stopped}

    def _has_worsened(self, name: str, value: float) -> bool:
        """Whether a task that has left is to come back."""
        if self.revive is None:
            return False
        optimum = self.facts[name].optimum
        return abs(optimum - value) > (1 + self.revive) * abs(optimum - self.best[name].value)

    def _bring_back(self, name: str, value: float, epoch: int, change: Change) -> None:
        change.said.append(
            f"Task {name} comes back: its {self.metrics[name]} is {value:.4g}, and was "
            f"{self.best[name].value:.4g} in epoch {self.best[name].epoch}."
        )
        del self.stopped[name]
        self.best[name].begin_anew(value, epoch)
        change.better.append(name)

    def _leave(self, name: str, epoch: int, change: Change) -> None:
        self.stopped[name] = epoch
        change.left.append(name)
        best, metric = self.best[name], self.metrics[name]
        kept = "which has had no value yet: its head stays as it is"
        if best.epoch:
            kept = f"and keeps its head of epoch {best.epoch} ({metric} {best.value:.4g})"
        change.said.append(
            f"Task {name} leaves after {_epochs(self.patience)} without a better {metric}, {kept}."
        )

    def _end(self, change: Change) -> None:
        everything = len(self.primary) == len(self.metrics)
        who = "all tasks" if everything else f"the primary tasks ({', '.join(self.primary)})"
        self.ended = f"{who} have stopped getting better (stopping=per_task)"
        change.said.append(f"The run ends: {self.ended}.")

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Stopping.state_dict`."""
        best = {name: best.state_dict() for name, best in self.best.items()}
        return {**super().state_dict(), "best": best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Stopping.load_state_dict`."""
        super().load_state_dict(state)
        for name, best in self.best.items():
            best.load_state_dict(state["best"][name])


def _figure_of(monitor: str, tasks: Mapping[str, Task]) -> tuple[tuple[str, str], bool]:
    """The task and the metric that a setting names, and whether higher is better there."""
    figures = {f"{name}/loss": ((name, "loss"), False) for name in tasks}
    for name, task in tasks.items():
        for metric, facts in task.metrics.items():
            figures[f"{name}/{metric}"] = ((name, metric), facts.higher_is_better)
    if monitor not in figures:
        hint = did_you_mean(monitor, [SCORE, DELTA_M, *figures])
        raise ValueError(f"monitor={monitor}: there is no such figure. {hint}")
    return figures[monitor]


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"
