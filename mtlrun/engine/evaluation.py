"""Metrics of a whole split, and the choice of the best epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mtlrun.engine.backward import Forward
from mtlrun.engine.loader import EvaluationLoader
from mtlrun.tasks.base import Statistics, Task
from mtlrun.types import Evaluation, MetricValue

Figures = dict[str, dict[str, float]]
"""For each task its metrics by name, ``loss`` among them."""


@torch.inference_mode()
def evaluate(forward: Forward, loader: EvaluationLoader) -> Figures:
    """Metrics over the whole split: sums over rows, not means over batches.

    ``loss`` is the mean over labelled elements, whatever batches they came in. The figures are read
    back from the device once.
    """
    model = forward.model
    training = model.training
    model.eval()
    model.architecture.start_evaluation()
    statistics: dict[str, Statistics] = {}
    losses: dict[str, torch.Tensor] = {}
    elements: dict[str, torch.Tensor] = {}
    for batch, counts in loader:
        present = [i for i, name in enumerate(forward.names) if counts.get(name)]
        features = forward.features(batch, present)
        for index in present:
            name = forward.names[index]
            task = forward.tasks[name]
            prediction = forward.prediction(index, features[name])
            target = forward.target(batch, index)
            sums = task.statistics(prediction, target)
            here = task.elements(target)
            loss = task.loss(prediction, target).double() * here
            if name in statistics:
                sums = task.joined(statistics[name], sums)
                loss, here = losses[name] + loss, elements[name] + here
            statistics[name], losses[name], elements[name] = sums, loss, here
    model.train(training)
    return {
        name: {
            "loss": float(losses[name] / elements[name]),
            **task.compute({key: value.cpu() for key, value in statistics[name].items()}),
        }
        for name, task in forward.tasks.items()
        if name in statistics
    }


def headline(task: Task) -> str:
    """The metric that stands for a task: its first."""
    return next(iter(task.metrics))


def as_evaluation(
    tasks: Mapping[str, Task], figures: Figures, changes: Mapping[str, float]
) -> Evaluation:
    """What a weighting that looks at metrics is shown.

    Args:
        tasks: the run's tasks.
        figures: for each task its metrics.
        changes: see :class:`~mtlrun.types.Evaluation`.
    """
    metrics = {
        name: {
            metric: MetricValue(
                value, metric in task.metrics and task.metrics[metric].higher_is_better
            )
            for metric, value in figures.get(name, {}).items()
        }
        for name, task in tasks.items()
    }
    return Evaluation(metrics, {name: headline(task) for name, task in tasks.items()}, changes)


def remaining_error(task: Task, figures: Mapping[str, float]) -> float:
    """Distance of a task's headline metric to its optimum: 1 - accuracy, or an error itself."""
    name = headline(task)
    return abs(task.metrics[name].optimum - figures[name])


@dataclass
class Selection:
    """Keeps the best epoch of each group of tasks that share anything.

    The score of an epoch is the mean, over the group's primary tasks, of the headline metric's
    remaining error relative to the first epoch's: 1 at the first, less is better. Ties go to the
    earlier. A task whose headline is NaN is left out; epochs with fewer such tasks go first,
    whatever their score. So neither a network that diverges is chosen, nor does a headline that the
    split leaves undefined (the area under a curve where one class is absent) decide.

    Attributes:
        groups: see :meth:`mtlrun.models.model.MultiTaskModel.independent_groups`.
        primary: the tasks that the run is for; of a group without any, all tasks count.
        first: each task's remaining error in the first epoch.
        score: each group's best score.
        undefined: of each group the tasks whose headline was NaN in that epoch.
        epoch: the epoch (from 1) of each group's best score.
        best: for each task and metric the best value over epochs, and its epoch.
    """

    groups: Sequence[tuple[str, ...]]
    primary: Sequence[str] = ()
    first: dict[str, float] = field(default_factory=dict)
    score: list[float] = field(default_factory=list)
    undefined: list[int] = field(default_factory=list)
    epoch: list[int] = field(default_factory=list)
    best: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)

    def update(self, tasks: Mapping[str, Task], figures: Figures, epoch: int) -> list[int]:
        """Take an epoch's figures in.

        Returns:
            the groups for which this is the best epoch so far.
        """
        for name, values in figures.items():
            for metric, info in tasks[name].metrics.items():
                value = values[metric]
                old = self.best.setdefault(name, {}).get(metric)
                sign = 1 if info.higher_is_better else -1
                if not math.isnan(value) and (old is None or sign * value > sign * old[0]):
                    self.best[name][metric] = (value, epoch)
        if not self.score:
            self.score = [math.inf] * len(self.groups)
            self.undefined = [0] * len(self.groups)
            self.epoch = [0] * len(self.groups)
        improved = []
        for number, group in enumerate(self.groups):
            undefined, score = self._score(tasks, figures, group)
            best = (self.undefined[number], self.score[number])
            if (undefined, score) < best or self.epoch[number] == 0:
                self.undefined[number], self.score[number] = undefined, score
                self.epoch[number] = epoch
                improved.append(number)
        return improved

    def _score(
        self, tasks: Mapping[str, Task], figures: Figures, group: Sequence[str]
    ) -> tuple[int, float]:
        """How many of the group's headlines are NaN, and the score by the others."""
        ratios, undefined = [], 0
        for name in [name for name in group if name in self.primary] or group:
            if name not in figures:
                continue
            error = remaining_error(tasks[name], figures[name])
            if math.isnan(error):
                undefined += 1
                continue
            first = self.first.setdefault(name, error)
            ratios.append(error / first if first > 0 else float(error > 0))
        return undefined, sum(ratios) / len(ratios) if ratios else math.inf

    def state_dict(self) -> dict[str, Any]:
        """Plain data for the checkpoint."""
        return {
            "first": self.first,
            "score": self.score,
            "undefined": self.undefined,
            "epoch": self.epoch,
            "best": {n: {m: list(v) for m, v in d.items()} for n, d in self.best.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        self.first = dict(state["first"])
        self.score = list(state["score"])
        self.undefined = list(state["undefined"])
        self.epoch = list(state["epoch"])
        self.best = {
            name: {metric: (value[0], value[1]) for metric, value in metrics.items()}
            for name, metrics in state["best"].items()
        }
