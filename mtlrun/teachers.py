"""Finished runs as teachers: the section ``distill``."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from mtlrun import build
from mtlrun.config import Config, DistillConfig
from mtlrun.data.base import Dataset
from mtlrun.engine import checkpoint
from mtlrun.engine.backward import Forward
from mtlrun.engine.distillation import Distillation, Teacher, Teaching
from mtlrun.errors import UserError, did_you_mean
from mtlrun.inference.stored import StoredRun, read_run
from mtlrun.inference.trained import network_of
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.tracking import folder as run_folder

BESIDE_THE_DATA = ("root", "prepared", "in_memory", "augment")
"""Settings of datasets in which a teacher may differ: where files lie, and how training rows are
varied."""


def check(config: Config) -> None:
    """Check the section ``distill`` and its runs, before any data is read.

    Raises:
        UserError: a setting that is out of range or has no effect; a folder that holds no finished
            run of the same dataset.
    """
    given = config.distill
    if not given.teachers:
        for field in fields(DistillConfig):
            value, default = getattr(given, field.name), getattr(DistillConfig(), field.name)
            if value != default:
                raise UserError(
                    f"distill.{field.name}={_shown(value)} has no effect without teachers: name "
                    "finished runs in distill.teachers=[FOLDER], or leave it out."
                )
        return
    _check_numbers(given)
    theory = config.weighting.get("initial_loss") == "theory"
    if theory and (given.features or (given.weight and given.temperature != 1)):
        raise UserError(
            "weighting.initial_loss=theory goes by what labels cost an untrained network, and with "
            "distill.features or a distill.temperature other than 1 tasks are trained by more than "
            "labels. Use weighting.initial_loss=first."
        )
    folders = [_folder(config, name).resolve() for name in given.teachers]
    for name, folder in zip(given.teachers, folders, strict=True):
        if folders.count(folder) > 1:
            raise UserError(f"distill.teachers: {name} is named twice. Name each run once.")
        _read(config, name)


def distillation(
    config: Config,
    dataset: Dataset,
    tasks: Mapping[str, Task],
    model: MultiTaskModel,
    device: torch.device,
    steps: int,
) -> Distillation | None:
    """The teachers of a run; None where it has none.

    Args:
        config: the run's configuration, checked.
        dataset: with the run's tasks.
        tasks: these.
        model: the network that is taught, on its device.
        device: of the run.
        steps: of the whole run.

    Raises:
        UserError: they teach none of its tasks, or not all that are to be taught; or something does
            not fit.
    """
    given = config.distill
    if not given.teachers:
        return None
    wanted = _wanted(given.tasks, dataset, tasks)
    teachers = [_teacher(config, name, dataset, tasks, wanted, device) for name in given.teachers]
    _check_taught(given, teachers, tasks, wanted)
    teaching = Teaching(
        temperature=given.temperature,
        weight=given.weight,
        steps=steps if given.anneal else None,
        features=given.features,
        memory=given.cache_gb * 2**30,
    )
    try:
        made = Distillation(teachers, tasks, model, teaching, config.seed)
    except ValueError as error:
        raise UserError(
            f"distill.features={given.features:g} matches what heads read, and {error}. Use "
            "distill.features=0, or teachers whose backbone ends as this one's."
        ) from error
    return made.to(device)


def remarks(made: Distillation | None) -> list[str]:
    """Who is taught by whom, in a line."""
    if made is None:
        return []
    said = [f"{', '.join(teacher.tasks)} by {teacher.name}" for teacher in made.teachers]
    alone = [task for task in made.tasks if task not in made.taught]
    rest = f" By labels alone: {', '.join(alone)}." if alone else ""
    return [f"Taught beside the labels: {'; '.join(said)}.{rest}"]


# -- settings --------------------------------------------------------------------------------------


def _check_numbers(given: DistillConfig) -> None:
    if not 0 <= given.weight <= 1:
        raise UserError(
            f"distill.weight={given.weight:g}: what teachers say has a share from 0 to 1, and "
            "labels have the rest."
        )
    if not 0 < given.temperature < math.inf:
        raise UserError(f"distill.temperature={given.temperature:g}: use a number above 0.")
    if not math.isfinite(given.features):
        raise UserError(f"distill.features={given.features}: use a number, 0 or more.")
    if given.weight or given.features:
        idle = {"anneal": given.anneal, "temperature": given.temperature != 1}
        for name, changed in idle.items():
            if changed and not given.weight:
                raise UserError(
                    f"distill.{name}={_shown(getattr(given, name))} has no effect with "
                    "distill.weight=0, where what teachers say does not count. Leave it out, or "
                    "use a weight above 0."
                )
        return
    raise UserError(
        "distill.weight=0 with distill.features=0 leaves the teachers nothing to say. Use a weight "
        "above 0, match their features, or leave distill.teachers out."
    )


def _wanted(
    given: Sequence[str] | None, dataset: Dataset, tasks: Mapping[str, Task]
) -> list[str] | None:
    """The tasks that are to be taught, None for all that can be."""
    if given is None:
        return None
    if not given:
        raise UserError(
            "distill.tasks=[] leaves nothing to teach. Name some of "
            f"{', '.join(tasks)}, or leave it out."
        )
    found: list[str] = []
    for name in given:
        members = [task for task in dataset.families.get(name, (name,)) if task in tasks]
        if not members:
            raise UserError(
                f"distill.tasks: this run has no task {name}. {did_you_mean(name, tasks)}"
            )
        for task in members:
            if task in found:
                raise UserError(f"distill.tasks names {task} twice. Name each task once.")
        found += members
    return found


def _check_taught(
    given: DistillConfig,
    teachers: Sequence[Teacher],
    tasks: Mapping[str, Task],
    wanted: Sequence[str] | None,
) -> None:
    """Refuse tasks without a teacher, teachers without a task, and settings without effect."""
    taught = {task for teacher in teachers for task in teacher.tasks}
    for task in wanted or ():
        if task not in taught:
            raise UserError(
                f"distill.tasks names {task}, and no run of distill.teachers has that task. Add "
                "one that has, or leave the task out."
            )
    for teacher in teachers:
        if not teacher.tasks:
            raise UserError(
                f"distill.teachers: {teacher.name} teaches nothing here: its tasks are "
                f"{', '.join(teacher.forward.names)}, and those to be taught are "
                f"{', '.join(wanted or tasks)}. Leave it out."
            )
    for name in taught if given.weight else ():
        if type(tasks[name]).soft_loss is Task.soft_loss:
            raise UserError(
                f"Task {name} cannot be taught by answers: its class {type(tasks[name]).__name__} "
                "does not define soft_targets and soft_loss. Define them, or use distill.weight=0 "
                "with distill.features."
            )
    classes = any(tasks[name].likelihood == "classification" for name in taught)
    if given.temperature != 1 and not classes:
        raise UserError(
            f"distill.temperature={given.temperature:g} softens probabilities of classes, and no "
            f"task that is taught has any ({', '.join(sorted(taught))}). Leave it out."
        )


# -- runs ------------------------------------------------------------------------------------------


def _folder(config: Config, name: str) -> Path:
    """The run's folder: as named, or below a method's folder that of the student's seed."""
    folder = Path(name).expanduser()
    if (folder / run_folder.CONFIG).is_file():
        return folder
    runs = sorted(path.parent.name for path in folder.glob(f"seed=*/{run_folder.CONFIG}"))
    own = f"seed={config.seed}"
    if own in runs:
        return folder / own
    if runs:
        raise UserError(
            f"distill.teachers: {name} has no run of this run's seed ({own}); it has "
            f"{', '.join(runs)}. Train that seed, or name one of these runs."
        )
    return folder


def _read(config: Config, name: str, device: str | None = None) -> StoredRun:
    """A teacher's run, which saw the same data."""
    folder = _folder(config, name)
    try:
        stored = read_run(folder, device=device)
    except UserError as error:
        raise UserError(f"distill.teachers: {error}") from error
    if not (folder / "checkpoints" / checkpoint.BEST).is_file():
        raise UserError(
            f"distill.teachers: {folder} has no checkpoints/{checkpoint.BEST}, and the weights of "
            "its best epoch are in it. Copy it, or train the run again."
        )
    here, there = data_settings(config), data_settings(stored.config)
    for key in sorted(here.keys() | there.keys()):
        if here.get(key, ...) != there.get(key, ...):
            raise UserError(
                f"distill.teachers: {name} was trained with {key}="
                f"{_shown(there.get(key, 'nothing'))}, and this run has "
                f"{_shown(here.get(key, 'nothing'))}. A teacher has to know the same inputs and "
                "targets, and none of the rows that this run is judged by. Name a run with the "
                "same settings of the dataset."
            )
    return stored


def data_settings(config: Config) -> dict[str, Any]:
    """The settings that inputs, targets and splits hang on, by dotted key."""
    own = {key: value for key, value in config.dataset.items() if key not in BESIDE_THE_DATA}
    return {**run_folder.flatten(own, "dataset."), "select_on": config.select_on}


def _teacher(
    config: Config,
    name: str,
    dataset: Dataset,
    tasks: Mapping[str, Task],
    wanted: Sequence[str] | None,
    device: torch.device,
) -> Teacher:
    """One teacher, in evaluation mode, on the run's device and in its precision."""
    stored = _read(config, name, str(device))
    view, own = _data(config, stored, dataset, tasks)
    path = stored.folder / "checkpoints" / checkpoint.BEST
    model, _ = network_of(stored, path, view, own)
    model.to(device).eval().requires_grad_(False)
    if config.engine.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    forward = Forward(model, own, config.engine.amp == "bf16")
    taught = tuple(task for task in (tasks if wanted is None else wanted) if task in own)
    digest = path.read_bytes()[-checkpoint.DIGEST :].hex()
    return Teacher(name, digest, forward, taught)


def _data(
    config: Config, stored: StoredRun, dataset: Dataset, tasks: Mapping[str, Task]
) -> tuple[Dataset, dict[str, Task]]:
    """The teacher's dataset and tasks: the student's, which are read anew where there are more."""
    members = [
        member
        for name in build.task_names(stored.config)
        for member in dataset.families.get(name, (name,))
    ]
    if not set(members) <= set(tasks):
        stored.config.dataset = copy.deepcopy(config.dataset)
        return build.dataset_and_tasks(stored.config)
    view = copy.copy(dataset)
    view.select(members)
    return view, {name: tasks[name] for names in view.streams.values() for name in names}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
