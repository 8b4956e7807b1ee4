"""Sweeps over groups of tasks: which groups there are, and where none can be made."""

import itertools
from collections.abc import Callable, Sequence

from mtlrun.config import Config
from mtlrun.errors import UserError
from mtlrun.overrides import hydra_text
from mtlrun.sweeping.jobs import Axis
from mtlrun.task_choice import chosen_tasks

KINDS = ("pairs", "all")
"""Values of ``hydra.sweeper.groups``."""

MOST_TASKS = 10
"""Tasks of which every group is trained: 1013 groups. Each further task doubles them."""

KEY = "tasks"

Compose = Callable[[Sequence[str]], Config]
"""The settings of a run with some overrides."""


def check_kind(kind: str | None) -> None:
    """Refuse groups of a kind that there is not.

    Raises:
        UserError: it is neither of :data:`KINDS` nor None.
    """
    if kind not in (None, *KINDS):
        raise UserError(f"hydra.sweeper.groups={kind}: choose one of {', '.join(KINDS)}, or null.")


def groups_axis(kind: str, axes: Sequence[Axis], compose: Compose) -> tuple[int, Axis]:
    """The axis of all tasks in one network, then of the groups of some of them.

    Groups are in the order of their sizes, and those of one size in the dataset's order of tasks.

    Args:
        kind: one of :data:`KINDS`.
        axes: what else is given; ``tasks`` among them restricts the tasks that groups are made of.
        compose: makes the settings that say which tasks there are.

    Returns:
        how many tasks there are, and the axis.

    Raises:
        UserError: the groups are not known before the data is read, differ from run to run, or are
            none or too many.
    """
    _check_axes(kind, axes)
    config = compose([axis.overrides[0] for axis in axes])
    tasks = _tasks(kind, config)
    size = 2 if kind == "pairs" else len(tasks)
    groups = [
        group
        for count in range(2, size + 1)
        for group in itertools.combinations(tasks, count)
        if len(group) < len(tasks)
    ]
    # All tasks as they were given, or not given, so that this is the plain run.
    given = chosen_tasks(config.tasks).of
    texts = {task: hydra_text(task) for task in tasks}
    listed = [f"[{','.join(texts[task] for task in of)}]" for of in (given or (), *groups)]
    values = ["null" if given is None else listed[0], *listed[1:]]
    return len(tasks), Axis(KEY, tuple(f"{KEY}={value}" for value in values))


def _tasks(kind: str, config: Config) -> list[str]:
    """The tasks that groups are made of."""
    from mtlrun.build.data import task_names  # imports torch

    if config.toy is not None:
        raise UserError(f"experiment=toy has no tasks to make groups of: leave {_who(kind)} out.")
    choice = chosen_tasks(config.tasks)
    for key, value in (("primary", choice.primary), ("anneal", choice.anneal)):
        if value is not None:
            raise UserError(
                f"{KEY}.{key} has no place beside {_who(kind)}, which trains each group for the "
                "sake of all its tasks: leave it out."
            )
    if config.dataset.get("task_column") is not None:
        raise UserError(
            "dataset.task_column makes several tasks of each target, one for each value that the "
            f"data has in it, and `tasks` cannot choose among these. {_who(kind)} makes groups of "
            "tasks that have names in the configuration: give each a target column of its own in "
            "dataset.tasks."
        )
    tasks = task_names(config)
    if len(tasks) < 2:
        raise UserError(
            f"{_who(kind)} makes groups of two tasks and more, and there is one: {tasks[0]}."
        )
    if kind == "all" and len(tasks) > MOST_TASKS:
        pairs = len(tasks) * (len(tasks) - 1) // 2
        raise UserError(
            f"{len(tasks)} tasks have {2 ** len(tasks) - len(tasks) - 1} groups of two and more, "
            f"too many to train. Use +sweep=pairs, which trains {pairs} and lets `mtlrun group` "
            "predict the others; or one run with engine.affinity=tag, and `mtlrun group` on it; or "
            f"choose up to {MOST_TASKS} tasks, as in tasks=[{','.join(tasks[:3])}]."
        )
    return tasks


def _check_axes(kind: str, axes: Sequence[Axis]) -> None:
    """Refuse what would give some of the sweep's runs other groups than the others."""
    for axis in axes:
        decides = of_tasks(axis) or axis.name in ("dataset", f"dataset.{KEY}", "experiment")
        if decides and len(axis.overrides) > 1:
            own = f", or name groups of your own without it: -m {KEY}=[a,b],[b,c]"
            raise UserError(
                f"{_who(kind)} makes groups of one set of tasks, and {axis.name} has several "
                f"values: give it one, and repeat the command{own if of_tasks(axis) else ''}."
            )


def of_tasks(axis: Axis) -> bool:
    """Whether it says which tasks there are, which the groups take the place of."""
    return axis.name.split(".")[0] == KEY


def _who(kind: str) -> str:
    """The sweep, as it is typed."""
    return "+sweep=pairs" if kind == "pairs" else "+sweep=groups"
