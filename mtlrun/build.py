"""From configuration to parts. The only caller of ``hydra.utils.instantiate``."""

import inspect
import math
import pydoc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hydra.utils import instantiate
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.flop_counter import FlopCounterMode

from mtlrun.config import Config
from mtlrun.data.base import Dataset
from mtlrun.engine.loader import TrainLoader, label_masks
from mtlrun.engine.step import parameter_groups
from mtlrun.errors import UserError, did_you_mean
from mtlrun.models.architectures.base import Architecture
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.heads.base import Head
from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global
from mtlrun.sampling.base import Sampler
from mtlrun.tasks.base import Task
from mtlrun.types import TaskInfo
from mtlrun.weighting.base import Weighting

Settings = Mapping[str, Any]


# -- components ------------------------------------------------------------------------------------


def located(settings: Settings, where: str) -> Callable[..., Any]:
    """The class that a component's ``_target_`` names.

    Raises:
        UserError: there is no such class, or it cannot be imported.
    """
    target = settings.get("_target_")
    if not target:
        raise UserError(f"{where} names no class: give it a _target_.")
    try:
        found: Callable[..., Any] | None = pydoc.locate(target)  # type: ignore[assignment]
    except pydoc.ErrorDuringImport as error:
        raise UserError(
            f"{where}._target_={target}: its module has an error: "
            f"{type(error.value).__name__}: {error.value}."
        ) from error
    if not callable(found):
        raise UserError(
            f"{where}._target_={target}: there is no such class. Check the name; modules in the "
            "working directory are found."
        )
    return found


def check_arguments(
    settings: Settings, where: str, facts: Sequence[str] = (), *, complete: bool = True
) -> None:
    """Compare a component's settings with the signature of its class.

    Args:
        settings: the group's configuration.
        where: how the user names it, for example ``weighting``.
        facts: names of the arguments that are given at run time.
        complete: whether all others must be among the settings.

    Raises:
        UserError: an argument that the class does not take, or one that it misses.
    """
    target = located(settings, where)
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    settable = [name for name in parameters if name not in facts]
    for key in settings:
        if not key.startswith("_") and key not in settable:
            raise UserError(
                f"{where}.{key}: {target.__name__} has no such setting. "
                f"{did_you_mean(key, settable)}"
            )
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is not (
            parameter.VAR_POSITIONAL
        )
        if complete and required and name in settable and name not in settings:
            raise UserError(
                f"{where}.{name} is missing: {target.__name__} needs it. Add +{where}.{name}=..."
            )


def component(settings: Settings, where: str, kind: type = object, **facts: Any) -> Any:
    """Instantiate a component with its settings and those runtime facts that it takes.

    Args:
        settings: the group's configuration.
        where: how the user names it, for example ``weighting``.
        kind: the class that it must extend.
        facts: what is known at run time.

    Raises:
        UserError: the settings do not fit the class, or the class refuses them.
    """
    target = located(settings, where)
    check_arguments(settings, where, tuple(facts))
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    taken = {name: fact for name, fact in facts.items() if open_ended or name in parameters}
    options = {"_partial_": True, "_convert_": "all", "_recursive_": False}
    make = instantiate({**settings, **options})
    try:
        made = make(**taken)
    except ValueError as error:
        raise UserError(f"{where} ({target.__name__}): {error}") from error
    except TypeError as error:
        given = [f"{key}={value}" for key, value in settings.items() if not key.startswith("_")]
        raise UserError(
            f"{where} ({target.__name__}) cannot work with {', '.join(given)}: {error}."
        ) from error
    if not isinstance(made, kind):
        raise UserError(
            f"{where}._target_={settings['_target_']}: {type(made).__name__} does not extend "
            f"{kind.__module__}.{kind.__name__}. Name a class that does."
        )
    return made


def check_settings(config: Config) -> None:
    """Compare every group's settings with its class, before any data is read.

    Raises:
        UserError: the first that does not fit.
    """
    dataset = {key: value for key, value in config.dataset.items() if key != "tasks"}
    check_arguments(dataset, "dataset", ("carve_validation",))
    check_arguments(config.backbone, "backbone", ("input_shape",))
    for where, settings in _head_settings(config):
        check_arguments(settings, where, ("in_channels", "out_channels", "spatial", "size"))
    check_arguments(config.architecture, "architecture", ("make_backbone", "streams"))
    check_arguments(config.weighting, "weighting", ("tasks", "layers", "channels"))
    check_arguments(config.sampler, "sampler", ("tasks",))
    check_arguments(config.optimizer, "optimizer", ("params",))
    if config.scheduler.get("_target_"):
        check_arguments(config.scheduler, "scheduler", ("optimizer",))
    for name in task_names(config):  # the data may bring some of a task's arguments
        where = f"dataset.tasks.{name}"
        check_arguments(config.dataset["tasks"][name], where, ("name",), complete=False)


# -- tasks and data --------------------------------------------------------------------------------


def task_names(config: Config) -> list[str]:
    """The run's tasks, in the dataset's order.

    Raises:
        UserError: ``tasks`` is empty, names a task twice or one that the dataset does not have.
    """
    known = list(config.dataset.get("tasks") or {})
    if not known:
        raise UserError(
            "The dataset's configuration names no tasks. Give it dataset.tasks.NAME._target_=..., "
            "for example mtlrun.tasks.classification.Classification."
        )
    if config.tasks is None:
        return known
    if not config.tasks:
        raise UserError(
            f"tasks=[] leaves nothing to train. Name some of {', '.join(known)}, or leave it out."
        )
    for name in config.tasks:
        if name not in known:
            raise UserError(f"tasks: this dataset has no task {name}. {did_you_mean(name, known)}")
        if config.tasks.count(name) > 1:
            raise UserError(f"tasks names {name} twice. Name each task once.")
    return [name for name in known if name in config.tasks]


def dataset_and_tasks(config: Config) -> tuple[Dataset, dict[str, Task]]:
    """The dataset, with the run's tasks only, and the tasks."""
    names = task_names(config)
    settings = {key: value for key, value in config.dataset.items() if key != "tasks"}
    carve = config.select_on == "validation"
    dataset: Dataset = component(settings, "dataset", Dataset, carve_validation=carve)
    carried = [task for tasks in dataset.streams.values() for task in tasks]
    for name in names:
        if name not in carried:
            raise UserError(
                f"dataset.tasks.{name}: the dataset carries no target of that name. "
                f"{did_you_mean(name, carried)}"
            )
    dataset.select(names)
    if config.select_on == "validation" and "val" not in dataset.splits:
        raise UserError(
            "select_on=validation, and this dataset has no validation rows. Set dataset.validation "
            "to a fraction above 0, or select_on=test for the literature's protocol."
        )
    tasks: dict[str, Task] = {}
    for name in names:
        facts = {**dataset.facts.get(name, {}), "name": name}
        own = {**config.dataset["tasks"][name]}
        given = {key: value for key, value in facts.items() if key not in own}
        tasks[name] = component(own, f"dataset.tasks.{name}", Task, **given)
    return dataset, tasks


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


# -- network ---------------------------------------------------------------------------------------


def _head_settings(config: Config) -> list[tuple[str, Settings]]:
    base = {key: value for key, value in config.heads.items() if key != "of"}
    found: list[tuple[str, Settings]] = [("heads", base)]
    known = list(config.dataset.get("tasks") or {})
    for name in config.heads.get("of") or {}:
        if name not in known:
            raise UserError(f"heads.of.{name}: no such task. {did_you_mean(name, known)}")
        found.append((f"heads.of.{name}", _head_of(config, name)))
    return found


def _head_of(config: Config, task: str) -> dict[str, Any]:
    """A task's head settings: the common choice, changed or replaced by ``heads.of.<task>``."""
    base = {key: value for key, value in config.heads.items() if key != "of"}
    own = (config.heads.get("of") or {}).get(task) or {}
    if "_target_" in own and own["_target_"] != base.get("_target_"):
        return dict(own)
    return {**base, **own}


def model(config: Config, dataset: Dataset, tasks: Mapping[str, Task]) -> MultiTaskModel:
    """The network. The initial weights of each part depend on the seed and the part alone."""
    shapes = {dataset.input_shape[stream] for stream in dataset.streams}
    if len(shapes) > 1:
        raise UserError(
            "The dataset's streams have inputs of different shapes "
            f"({', '.join(map(str, sorted(shapes)))}), and one backbone reads one shape."
        )
    (shape,) = shapes

    def make_backbone(copy: int = 0) -> Backbone:
        seed_global(config.seed, "init", "backbone", copy)
        made: Backbone = component(config.backbone, "backbone", Backbone, input_shape=shape)
        return made

    facts = {"make_backbone": make_backbone, "streams": dataset.streams}
    architecture: Architecture = component(
        config.architecture, "architecture", Architecture, **facts
    )
    heads: dict[str, Head] = {}
    for name, task in tasks.items():
        seed_global(config.seed, "init", "head", name)
        size = tuple(shape[-2:]) if task.dense else None
        heads[name] = component(
            _head_of(config, name),
            f"heads (task {name})",
            Head,
            in_channels=architecture.out_channels(name),
            out_channels=task.output_size,
            spatial=architecture.spatial(name),
            size=size,
        )
    return MultiTaskModel(architecture, heads)


def weighting(config: Config, infos: Sequence[TaskInfo], network: MultiTaskModel) -> Weighting:
    """The method; its adapters become part of the network."""
    seed_global(config.seed, "init", "weighting")
    facts = {
        "tasks": infos,
        "layers": len(network.shared_layers()),
        "channels": network.architecture.out_channels(network.tasks[0]),
    }
    method = bare_weighting(config.weighting, "weighting", **facts)
    network.attach(method.adapters())
    return method


def bare_weighting(settings: Settings, where: str, **facts: Any) -> Weighting:
    """A weighting by itself, see :func:`component`.

    Raises:
        UserError: the settings do not fit the class; its own learning rate is of no use.
    """
    made: Weighting = component(settings, where, Weighting, **facts)
    rate = made.learning_rate
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise UserError(
            f"{where}.learning_rate={rate}: use a number above 0, or null for the network's."
        )
    return made


def sampler(config: Config, tasks: Mapping[str, Task]) -> Sampler:
    """The sampler."""
    chosen: Sampler = component(config.sampler, "sampler", Sampler, tasks=tuple(tasks))
    return chosen


def forward_flops(network: MultiTaskModel, loader: TrainLoader) -> float:
    """Floating-point operations of one step's forward pass, counted on one row."""
    inputs, rows = {}, 0
    source = loader.dataset.splits["train"]
    for stream in loader.dataset.streams:
        raw, targets = source[stream].rows(torch.arange(1))
        inputs[stream], _ = loader.dataset.transform(stream, raw, targets, None)
        rows = max(rows, loader.sizes[stream])
    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs, network.tasks)
    network.train(training)
    return float(counter.get_total_flops()) * rows


# -- optimisation ----------------------------------------------------------------------------------


def optimizer(config: Config, network: MultiTaskModel, method: Weighting) -> Optimizer:
    """The optimizer over the network's and the method's parameters."""
    rate = config.optimizer.get("lr")
    groups = parameter_groups(network, method, 1e-3 if rate is None else rate)
    if not groups[0]["params"]:
        raise UserError("The network has no parameters to train: every one of them is frozen.")
    chosen: Optimizer = component(config.optimizer, "optimizer", Optimizer, params=groups)
    return chosen


def scheduler(config: Config, chosen: Optimizer) -> LRScheduler | None:
    """The scheduler, stepped once an epoch; a length of null means the run's epochs."""
    settings = dict(config.scheduler)
    if not settings.get("_target_"):
        return None
    for length in ("T_max", "total_iters"):
        if length in settings and settings[length] is None:
            settings[length] = config.epochs
    made: LRScheduler = component(settings, "scheduler", LRScheduler, optimizer=chosen)
    return made
