"""What a run was run with, as text: the part of its ``config.yaml`` that figures hang on."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from mtlrun.analysis.yaml_files import parse_settings
from mtlrun.teacher_names import KEY as TEACHERS
from mtlrun.teacher_names import teachers_identity

Settings = Mapping[str, str]
"""Leaves by dotted key; those that are null are left out, as if they were not there."""

WITHOUT_EFFECT = (
    "seed",
    "study",
    "outputs",
    "tasks",  # the result says which there were, and null is all
    "tracking",
    "toy",
    "objective",  # read when the run is over
    "engine.device",
    "engine.threads",
    "engine.workers",
    "engine.log_every",
    "engine.affinity",
    "engine.affinity_every",
    "engine.checkpoint_minutes",
    "engine.evaluation_batch_size",
    "engine.keep_data_on_device",
    "gradients.memory_gb",
    "distill.cache_gb",
    "dataset.root",
    "dataset.prepared",
    "dataset.in_memory",
)
"""Settings that leave the figures as they are: the run's place, its machine, what is written, and
where data lies. :data:`mtlrun.config.WITHOUT_EFFECT` is about files as well, and shorter."""

LABELS_OF_OWN_IMAGES = "dataset.labels"
"""Where this is set, ``dataset.root`` is no place of a known dataset: it says which data it is."""

PROTOCOL = ("epochs", "select_on", "tasks")
PROTOCOL_SECTIONS = ("dataset.", "train_rows.")

GROUPING = "grouping"
"""What stands among the settings of a grouping's networks: which tasks each has and serves."""

METHOD_SECTIONS = ("weighting", "architecture", "sampler", "gradients", "distill", GROUPING)
METHOD_KEYS = ("tasks.primary", "tasks.anneal")  # of tasks the part with an effect
"""What makes a method, which single-task training has otherwise by its nature."""

GROUPS = (
    "weighting",
    "architecture",
    "backbone",
    "heads",
    "sampler",
    "optimizer",
    "scheduler",
    "stopping",
)
"""Sections that hold one choice each: its class and its own settings."""


def of_protocol(key: str) -> bool:
    """Whether figures under another value of the setting do not compare."""
    return key in PROTOCOL or key.startswith(PROTOCOL_SECTIONS)


def of_method(key: str) -> bool:
    """Whether the setting is the method's own."""
    return key.split(".", 1)[0] in METHOD_SECTIONS or key in METHOD_KEYS


def without_effect(key: str) -> bool:
    """Whether the setting leaves the figures as they are."""
    return key not in METHOD_KEYS and (key.startswith(_PREFIXES) or key in WITHOUT_EFFECT)


_PREFIXES = tuple(f"{key}." for key in WITHOUT_EFFECT)


def read_effective(path: Path) -> dict[str, str] | None:
    """The settings of a ``config.yaml`` that have an effect; None where it cannot be read.

    Folders of other runs (``model.init_from``) are the same whatever seed they are of. What
    ``distill`` says of a run without teachers has none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return effective_settings(text)


def effective_settings(text: str) -> dict[str, str] | None:
    """The same of a YAML text; None where it is damaged or holds no settings.

    Most sections are the same in all runs of a sweep, so each different one is parsed once, which
    takes ten times less than parsing each file as a whole.
    """
    sections = re.split(r"^(?=\w)", text, flags=re.MULTILINE)
    try:
        parts = [_effective(section) for section in sections if section]
        if "&" in text or any(part is None for part in parts):  # anchors reach beyond sections
            parts = [_effective(text)]
    except RecursionError:  # an anchor that holds itself
        return None
    if not parts or None in parts:
        return None
    return {key: value for part in parts for key, value in part or ()}


@lru_cache(maxsize=4096)
def _effective(text: str) -> tuple[tuple[str, str], ...] | None:
    settings = parse_settings(text)
    if settings is None:
        return None
    leaves = dict(_flatten("", settings))
    own_images = LABELS_OF_OWN_IMAGES in leaves
    taught = bool(leaves.get(TEACHERS))
    return tuple(
        (key, value)
        for key, value in leaves.items()
        if (not without_effect(key) or (own_images and key == "dataset.root"))
        and (taught or not key.startswith("distill."))
    )


def _flatten(key: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flatten(f"{key}.{name}" if key else str(name), inner)
    elif key == TEACHERS and isinstance(value, list):
        yield key, teachers_identity([str(folder) for folder in value])
    elif value is not None:
        yield key, re.sub(r"\bseed=\d+", "seed=*", as_text(value))


def as_text(value: object) -> str:
    """A setting's value; of a list its entries as they are typed: ``[depth, normals]``."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def choices_of(settings: Settings, named: Mapping[str, str]) -> dict[str, str]:
    """For each group the name of its choice.

    Args:
        settings: of a run.
        named: the choices that its result names; of the others the class does.
    """
    return {
        group: named.get(group) or _choice(settings.get(f"{group}._target_", "none"))
        for group in GROUPS
    }


def _choice(target: str) -> str:
    """What a class is called: our modules are called as their choices."""
    *modules, name = target.split(".")
    return modules[-1] if modules[:1] == ["mtlrun"] else name
