"""One unit a step, the likelier the further its tasks are from where they should be."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from mtlrun.errors import nearest_hint
from mtlrun.sampling._headlines import headline_metrics, tasks_of
from mtlrun.sampling.base import Sampler
from mtlrun.sampling.units import Unit
from mtlrun.settings import check_positive, check_whole
from mtlrun.types import Evaluation


class Active(Sampler):
    """Active sampling, rule A5C (Sharma, Jha, Hegde and Ravindran, ICLR 2018).

    Each task has a target level; the further it is from that, the more it is trained. With a_t the
    mean of its headline metric over the last ``window`` evaluations,

        m_t = max(0, target_t - a_t) / target_t    where higher is better
        m_t = max(0, a_t - target_t) / target_t    where lower is better
        p_i = exp(m_i / temperature) / sum over j of exp(m_j / temperature)

    where the m of a stream is the mean over its tasks. Before the first evaluation the chances are
    equal; a task that could not be measured is passed over, and a unit without any m yet counts as
    the mean of the others.

    The paper trains one agent for several games: there a_t is the mean score of the last episodes,
    and the target a published score. Here evaluations on the validation split take their place, and
    a target may be what the task reaches alone. Lower-is-better is ours; there m is not bounded, so
    a task at twice its target is drawn in nearly every step.

    Unchecked: the values of ``temperature`` (0.05) and ``window`` (10) are recalled from the paper;
    its text was not at hand, and there is no code by the authors. The rule itself agrees with a
    reimplementation by others, which has 1 and 3 in their places.

    The paper's other rules are not offered. UA4C, a discounted UCB1 bandit, chooses by how often
    each task was drawn before, step by step, and so can neither be addressed by the step nor read
    ahead; EA4C trains a second network by reinforcement learning to choose.

    Args:
        targets: for each task the level to reach, above 0, in its headline metric.
        baseline: instead of them, the folder of a finished single-task run; the targets are then
            its best validation figures.
        temperature: above 0; the lower, the more the furthest task is preferred. With 0.05 a task
            with a gap of 0.2 is drawn 55 times as often as one that has arrived: raise it where
            the others are starved.
        window: evaluations that a_t is the mean of.
        units: what there is to draw.
        epochs: of the run.
        seed: the run's.
        levels: for each task its figure in the run ``baseline``.

    Raises:
        ValueError: neither or both of ``targets`` and ``baseline`` are given; a task has no target
            or one that is not above 0; a name that is no task.
    """

    uses_evaluation = True

    def __init__(
        self,
        targets: Mapping[str, float] | None = None,
        baseline: str | None = None,
        temperature: float = 0.05,
        window: int = 10,
        *,
        units: Sequence[Unit],
        epochs: int = 1,
        seed: int = 0,
        levels: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(units=units, epochs=epochs, seed=seed)
        if bool(targets) == bool(baseline):
            raise ValueError(
                "give either targets, the level that each task is to reach, as in "
                "sampler.targets={depth:0.5}, or baseline, the folder of a finished single-task run"
            )
        check_positive("temperature", temperature)
        check_whole("window", window, 1)
        self.tasks = tasks_of(units)
        source = "targets" if targets else f"baseline={baseline}"
        self.targets = _checked(source, dict(targets or levels or {}), self.tasks)
        self.temperature = temperature
        self.window = window
        self.levels: dict[str, list[float]] = {}
        self.gaps: dict[str, float] = {}

    def probabilities(self, epoch: int) -> Tensor:
        """The softmax of the gaps. See :meth:`Sampler.probabilities`."""
        del epoch
        gaps = [self._gap(unit) for unit in self.units]
        measured = [gap for gap in gaps if gap is not None]
        middle = fmean(measured) if measured else 0.0
        filled = torch.tensor([middle if gap is None else gap for gap in gaps], dtype=torch.float64)
        return torch.softmax(filled / self.temperature, 0)

    def _gap(self, unit: Unit) -> float | None:
        """The mean over its tasks; None where none of them was measured yet."""
        known = [self.gaps[task] for task in unit.tasks if task in self.gaps]
        return fmean(known) if known else None

    def after_evaluation(self, evaluation: Evaluation) -> None:
        """Measure how far each task is from its target. See :meth:`Sampler.after_evaluation`."""
        for task, metric in headline_metrics(evaluation, self.tasks).items():
            recent = [*self.levels.get(task, []), metric.value][-self.window :]
            short = self.targets[task] - fmean(recent)
            missing = short if metric.higher_is_better else -short
            self.levels[task] = recent
            self.gaps[task] = max(0.0, missing) / self.targets[task]

    def state_dict(self) -> dict[str, Any]:
        """Of each task the last levels and the gap. See :meth:`Sampler.state_dict`."""
        levels = {task: list(values) for task, values in self.levels.items()}
        return {"levels": levels, "gaps": dict(self.gaps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Sampler.load_state_dict`."""
        self.levels = {task: list(values) for task, values in state["levels"].items()}
        self.gaps = dict(state["gaps"])


def _checked(source: str, targets: dict[str, float], tasks: Sequence[str]) -> dict[str, float]:
    """The targets, where there is a usable one for each of the tasks and no other."""
    for name in targets:
        if name not in tasks:
            raise ValueError(
                f"{source} names {name}, which is no task of this run. "
                f"{nearest_hint(name, tasks)}Its tasks are {', '.join(tasks)}"
            )
    missing = [task for task in tasks if task not in targets]
    if missing:
        raise ValueError(f"{source} has no level for {', '.join(missing)}; give one to each task")
    for task, level in targets.items():
        number = isinstance(level, int | float) and not isinstance(level, bool)
        if not (number and math.isfinite(level) and level > 0):
            raise ValueError(
                f"{source}: the level of {task} is {level}, and distances are relative to it, so "
                "it must be a number above 0; give another one with sampler.targets"
            )
    return targets
