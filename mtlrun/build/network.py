"""The network: backbone, architecture, heads."""

import inspect
from collections.abc import Mapping
from typing import Any

from mtlrun.build.components import Settings, component, located
from mtlrun.build.data import declared_tasks
from mtlrun.build.initial import start_from
from mtlrun.config import Config
from mtlrun.data.base import Dataset
from mtlrun.errors import UserError, did_you_mean
from mtlrun.models.architectures.base import Architecture
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.heads.base import Head
from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global
from mtlrun.tasks.base import Task
from mtlrun.types import InputKind, Layout, OutputShape, Per

INPUT_FACTS = (
    "input_shape",
    "vocabulary",
    "numeric",
    "cardinalities",
    "text_length",
)
"""What a dataset may say of its inputs, see :data:`mtlrun.types.InputKind`."""

ARCHITECTURE_FACTS = (
    "make_backbone",
    "streams",
    "reads",
    "input_kind",
    "input_shape",
    "outputs",
    "epochs",
)
"""What an architecture may take, see :class:`~mtlrun.models.architectures.base.Architecture`."""

READERS: Mapping[InputKind, str] = {
    "values": "Use backbone=mlp, or for images backbone=cnn or resnet18.",
    "tokens": "Use a backbone for text, such as bag_of_words, text_cnn, lstm or transformer.",
    "bags": "Use backbone=bag_of_words or bag_of_ngrams, or dataset.ngrams=1 to keep the order.",
    "columns": "Use backbone=tabular_mlp, or dataset.categories=onehot where there is no text.",
}


BESIDE_HEADS = ("of", "stages")
"""Settings of the group ``heads`` that are not a head's own."""


def head_settings(config: Config) -> list[tuple[str, Settings]]:
    """The settings of each choice of head, and how the user names it.

    Raises:
        UserError: ``heads.of`` names a task that there is not.
    """
    base = {key: value for key, value in config.heads.items() if key not in BESIDE_HEADS}
    found: list[tuple[str, Settings]] = [("heads", base)]
    known = list(declared_tasks(config))
    for name in config.heads.get("of") or {}:
        if name not in known:
            raise UserError(f"heads.of.{name}: no such task. {did_you_mean(name, known)}")
        found.append((f"heads.of.{name}", _head_of(config, name)))
        _stages_of(config, name)
    return found


def _stages_of(config: Config, task: str) -> list[int] | None:
    """The stages that a task's head reads, counted from 1; None for the last.

    Raises:
        UserError: they are no list of numbers.
    """
    own = (config.heads.get("of") or {}).get(task) or {}
    stages = own.get("stages", config.heads.get("stages"))
    if stages is None:
        return None
    if not isinstance(stages, list | tuple) or not all(type(stage) is int for stage in stages):
        where = f"heads.of.{task}.stages" if "stages" in own else "heads.stages"
        raise UserError(f"{where}={stages}: use a list of stages, such as [2,4], or null.")
    return list(stages)


def _head_of(config: Config, task: str) -> dict[str, Any]:
    """A task's head settings: the common choice, changed or replaced by ``heads.of.<task>``."""
    base = {key: value for key, value in config.heads.items() if key not in BESIDE_HEADS}
    own = (config.heads.get("of") or {}).get(task) or {}
    own = {key: value for key, value in own.items() if key != "stages"}
    if "_target_" in own and own["_target_"] != base.get("_target_"):
        return dict(own)
    return {**base, **own}


def model(config: Config, dataset: Dataset, tasks: Mapping[str, Task]) -> MultiTaskModel:
    """The network. The initial weights of each part depend on the seed and the part alone."""
    shape, inputs = _inputs(config, dataset)

    def make_backbone(copy: int = 0) -> Backbone:
        seed_global(config.seed, "init", "backbone", copy)
        made: Backbone = component(config.backbone, "backbone", Backbone, **inputs)
        return made

    declared_as = {member: name for name, members in dataset.families.items() for member in members}
    asked = {name: _stages_of(config, declared_as.get(name, name)) for name in tasks}
    reads = {name: stages for name, stages in asked.items() if stages is not None}
    _check_reads(config, reads)
    outputs = {name: _output_shape(task, shape) for name, task in tasks.items()}
    facts = {
        "make_backbone": make_backbone,
        "streams": dataset.streams,
        "reads": reads,
        "input_kind": next(iter(dataset.input_kind.values()), "values"),
        "input_shape": shape,
        "outputs": outputs,
        "epochs": config.epochs,
    }
    architecture: Architecture = component(
        config.architecture, "architecture", Architecture, **facts
    )
    heads: dict[str, Head] = {}
    for name, task in tasks.items():
        seed_global(config.seed, "init", "head", name)
        settings = _head_of(config, declared_as.get(name, name))
        _check_head(settings, name, task, architecture.layout(name))
        heads[name] = component(
            settings,
            f"heads (task {name})",
            Head,
            in_channels=architecture.out_channels(name),
            out_channels=outputs[name].channels,
            layout=architecture.layout(name),
            size=outputs[name].size,
        )
    network = MultiTaskModel(architecture, heads)
    if config.model.init_from is not None:
        network.remarks.append(start_from(network, config.model.init_from))
    try:
        network.freeze(config.model.freeze)
    except ValueError as error:
        raise UserError(f"model.freeze={error}.") from error
    return network


def _output_shape(task: Task, input_shape: tuple[int, ...]) -> OutputShape:
    """Of a task's prediction: dense ones are as large as the input."""
    size = (input_shape[-2], input_shape[-1]) if task.per == "pixel" else None
    return OutputShape(task.output_size, task.per, size)


def _check_reads(config: Config, reads: Mapping[str, Any]) -> None:
    """Refuse heads that read other stages where the architecture gives the last alone."""
    target = located(config.architecture, "architecture")
    if reads and "reads" not in inspect.signature(target).parameters:
        raise UserError(
            f"heads.stages: architecture {target.__name__} gives heads what it makes of the last "
            "stage, and nothing else. Leave heads.stages out, or use an architecture whose stages "
            "can be read, such as hps or single_task."
        )


def _inputs(config: Config, dataset: Dataset) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shape of an input, and all facts that a backbone may take of it.

    Raises:
        UserError: the streams' inputs differ, or the backbone does not read such inputs.
    """
    shapes = {dataset.input_shape[stream] for stream in dataset.streams}
    if len(shapes) > 1:
        raise UserError(
            "The dataset's streams have inputs of different shapes "
            f"({', '.join(map(str, sorted(shapes)))}), and one backbone reads one shape."
        )
    kinds = {stream: dataset.input_kind.get(stream, "values") for stream in dataset.streams}
    facts = [dataset.input_facts.get(stream, {}) for stream in dataset.streams]
    if len(set(kinds.values())) > 1 or any(other != facts[0] for other in facts):
        raise UserError(
            "The dataset's streams have inputs of different kinds, and one backbone reads one kind."
        )
    (kind,) = set(kinds.values())
    target = located(config.backbone, "backbone")
    reads = getattr(target, "reads", ("values",))
    if kind not in reads:
        raise UserError(
            f"backbone={target.__name__} reads {' or '.join(reads)}, and this dataset gives "
            f"{kind}. {READERS[kind]}"
        )
    (shape,) = shapes
    return shape, {"input_shape": shape, **facts[0]}


def _check_head(settings: Settings, name: str, task: Task, layout: Layout) -> None:
    """Refuse a head that predicts for something else than the task does."""
    target = located(settings, f"heads (task {name})")
    gives: Per = getattr(target, "per", "row")
    if gives == task.per and not (gives == "token" and layout != "sequence"):
        return
    if gives == task.per:
        raise UserError(
            f"Task {name} predicts for each token, and this backbone ends in {layout}s, which keep "
            "none. Use a backbone that keeps them: backbone=lstm or backbone=transformer."
        )
    use = {
        "row": "heads=linear or heads=mlp",
        "pixel": "heads=conv or heads=deeplab",
        "token": "heads=tagging",
    }
    raise UserError(
        f"heads (task {name}): {target.__name__} gives a prediction for each {gives}, and this "
        f"task predicts for each {task.per}: use {use[task.per]}, for this task alone by "
        f"heads.of.{name}._target_=..."
    )
