"""The dataset and the run's tasks."""

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from mtlrun import tasks as tasks_package
from mtlrun.build.components import Settings, component, located
from mtlrun.config import Config
from mtlrun.data.base import Dataset
from mtlrun.engine.loader import label_masks
from mtlrun.errors import UserError, did_you_mean
from mtlrun.task_choice import chosen_tasks
from mtlrun.tasks.base import Task
from mtlrun.types import TaskInfo


def declared_tasks(config: Config) -> dict[str, dict[str, Any]]:
    """For each task of the dataset's configuration its settings; ``_target_`` names its class.

    ``dataset.tasks`` says for each task the class and its settings; or ``kind``, the name of a
    module of :mod:`mtlrun.tasks`; or this word alone; or ``auto``, which leaves the kind to the
    data. A list of names leaves all kinds to the data.

    Raises:
        UserError: a kind that there is not.
    """
    given = config.dataset.get("tasks") or {}
    if not isinstance(given, Mapping):
        given = dict.fromkeys([given] if isinstance(given, str) else given)
    found = {}
    for name, entry in given.items():
        settings = dict(entry) if isinstance(entry, Mapping) else {"kind": entry}
        kind = settings.pop("kind", None)
        if "_target_" not in settings and kind not in (None, "auto"):
            settings["_target_"] = task_target(str(kind), f"dataset.tasks.{name}")
        found[str(name)] = settings
    return found


def task_target(kind: str, where: str) -> str:
    """The class of a kind of task: the one that its module of :mod:`mtlrun.tasks` defines.

    Raises:
        UserError: there is no such kind.
    """
    folder = Path(tasks_package.__path__[0])
    modules = sorted(module.stem for module in folder.glob("[a-z]*.py"))
    found = _task_in(kind) if kind in modules else None
    if found is None:
        kinds = [module for module in modules if _task_in(module) is not None]
        raise UserError(f"{where}: there is no kind of task {kind}. {did_you_mean(kind, kinds)}")
    return found


@cache
def _task_in(module: str) -> str | None:
    name = f"{tasks_package.__name__}.{module}"
    for label, member in vars(import_module(name)).items():
        if inspect.isclass(member) and issubclass(member, Task) and member.__module__ == name:
            return None if inspect.isabstract(member) else f"{name}.{label}"
    return None


def task_names(config: Config) -> list[str]:
    """The run's tasks, in the dataset's order.

    Raises:
        UserError: ``tasks`` is empty, names a task twice or one that the dataset does not have.
    """
    known = list(declared_tasks(config))
    if not known:
        possible = _possible_tasks(config)
        raise UserError(
            "The dataset's configuration names no tasks. Name them and their kinds, for example "
            "dataset.tasks={price: regression, sold: classification}, or dataset.tasks=[price,sold]"
            f" where the data can tell the kinds.{possible}"
        )
    chosen = chosen_tasks(config.tasks).of
    return known if chosen is None else _chosen("tasks", chosen, known)


def _chosen(key: str, chosen: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of the dataset's tasks that a setting chooses, in the dataset's order."""
    if not chosen:
        raise UserError(
            f"{key}=[] leaves nothing to train. Name some of {', '.join(known)}, or leave it out."
        )
    for name in chosen:
        if name not in known:
            raise UserError(f"{key}: this dataset has no task {name}. {did_you_mean(name, known)}")
        if chosen.count(name) > 1:
            raise UserError(f"{key} names {name} twice. Name each task once.")
    return [name for name in known if name in chosen]


def primary_names(config: Config) -> list[str]:
    """Those of :func:`task_names` that the run is for; all of them where none are named.

    Raises:
        UserError: a primary task is not among the run's; there is no auxiliary task to anneal.
    """
    names, choice = task_names(config), chosen_tasks(config.tasks)
    primary = names
    if choice.primary is not None:
        primary = _chosen("tasks.primary", choice.primary, list(declared_tasks(config)))
    for name in primary:
        if name not in names:
            raise UserError(
                f"tasks.primary names {name}, and the run trains {', '.join(names)} only. Add "
                f"{name} to tasks=[...], or name one of these."
            )
    if choice.anneal is not None and primary == names:
        raise UserError(
            f"tasks.anneal={choice.anneal} fades auxiliary tasks out, and this run has none: all "
            "its tasks are primary. Name some of them in tasks.primary=[...], or leave it out."
        )
    return primary


def primary_tasks(config: Config, dataset: Dataset) -> tuple[str, ...]:
    """The tasks that the run is for, in its order.

    Args:
        config: the run's configuration.
        dataset: with the run's tasks. It may make several of a declared one, primary all alike.
    """
    primary = {
        member for name in primary_names(config) for member in dataset.families.get(name, (name,))
    }
    return tuple(task for tasks in dataset.streams.values() for task in tasks if task in primary)


def _possible_tasks(config: Config) -> str:
    """A sentence on what tasks there may be, where the data can tell."""
    settings = {key: value for key, value in config.dataset.items() if key != "tasks"}
    target = located(settings, "dataset")
    if not (inspect.isclass(target) and issubclass(target, Dataset)):
        return ""
    names = target.possible_tasks(settings)
    return f" The columns here are {', '.join(names)}." if names else ""


def dataset_and_tasks(config: Config) -> tuple[Dataset, dict[str, Task]]:
    """The dataset, with the run's tasks only, and the tasks, those of each stream together."""
    names = task_names(config)
    settings = {key: value for key, value in config.dataset.items() if key != "tasks"}
    carve = config.select_on == "validation"
    declared = declared_tasks(config)
    kinds = {name: _kind(own) for name, own in declared.items()}
    dataset: Dataset = component(settings, "dataset", Dataset, carve_validation=carve, tasks=kinds)
    carried = [task for tasks in dataset.streams.values() for task in tasks]
    for task in carried:
        if carried.count(task) > 1:
            streams = [
                stream for stream, of in dataset.streams.items() for own in of if own == task
            ]
            raise UserError(
                f"dataset: the task {task} is named by the streams {', '.join(streams)}, and a "
                "task is learnt from one stream. Give each a name of its own."
            )
    declared_as = {member: name for name in names for member in dataset.families.get(name, (name,))}
    for member, name in declared_as.items():
        if member not in carried:
            raise UserError(
                f"dataset.tasks.{name}: the dataset carries no target of that name. "
                f"{did_you_mean(member, carried)}"
            )
    dataset.select(list(declared_as))
    # As an architecture names its parts: a head and a network of one place belong to one task
    ordered = [task for tasks in dataset.streams.values() for task in tasks]
    if config.select_on == "validation" and "val" not in dataset.splits:
        raise UserError(
            "select_on=validation, and this dataset has no validation rows. Set dataset.validation "
            "to a fraction above 0, or select_on=test for the literature's protocol."
        )
    tasks: dict[str, Task] = {}
    for member in ordered:
        name = declared_as[member]
        facts = {**dataset.facts.get(member, {}), "name": member}
        where, own, found = f"dataset.tasks.{name}", declared[name], facts.pop("kind", None)
        if "_target_" not in own:
            if found is None:
                raise UserError(
                    f"{where}: this dataset does not say what kind of task it is. Give it one, for "
                    f"example {where}=regression."
                )
            own = {**own, "_target_": task_target(found, where)}
        given = {key: value for key, value in facts.items() if key not in own}
        tasks[member] = component(own, where, Task, **given)
    return dataset, tasks


def _kind(settings: Settings) -> str | None:
    """The kind of a declared task, None where it is left to the data."""
    module = str(settings.get("_target_", "")).rpartition(".")[0]
    return module.removeprefix(f"{tasks_package.__name__}.") or None


def task_infos(dataset: Dataset, tasks: Mapping[str, Task]) -> list[TaskInfo]:
    """What a weighting may know of the tasks."""
    train = dataset.splits["train"]
    masks = label_masks(train, dataset.streams, tasks)
    rows = {
        name: int(masks[name].sum()) if name in masks else len(train[stream])
        for stream, names in dataset.streams.items()
        for name in names
    }
    return [
        TaskInfo(
            name,
            task.likelihood,
            task.initial_loss,
            rows[name],
            {metric: facts.higher_is_better for metric, facts in task.metrics.items()},
        )
        for name, task in tasks.items()
    ]
