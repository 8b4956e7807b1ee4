"""The typed schema of a run's configuration. Imports no torch.

The sections ``engine``, ``gradients`` and ``tracking`` and the root keys are typed here; the groups
(dataset, backbone, ...) are open, and checked against their components' signatures in ``build``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from hashlib import blake2b
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from mtlrun.errors import UserError, nearest_hint
from mtlrun.task_choice import chosen_tasks, plain_tasks
from mtlrun.teacher_names import KEY as TEACHERS
from mtlrun.teacher_names import teachers_text
from mtlrun.tracking.folder import flatten


@dataclass
class EngineConfig:
    """How a run is executed. See the README's table of engine settings."""

    device: str = "auto"
    threads: Any = "auto"
    workers: int = 0
    amp: str = "none"
    compile: bool = False
    channels_last: bool = False
    accumulate: int = 1
    clip_norm: float | None = None
    on_nonfinite: str = "stop"
    log_every: int = 20
    checkpoint_minutes: float = 10.0
    evaluation_batch_size: int | None = None
    keep_data_on_device: bool = True
    affinity: str = "none"
    affinity_every: int = 10


@dataclass
class GradientsConfig:
    """Where per-task gradients are taken and how often; what becomes of any method's weights."""

    at: str = "auto"
    every: int = 1
    smoothing: float = 0.0
    rescale: str = "none"
    memory_gb: float = 4.0


@dataclass
class ModelConfig:
    """Parts of the network that are frozen, and what it starts from."""

    freeze: list[str] = field(default_factory=list)
    init_from: str | None = None


@dataclass
class DistillConfig:
    """Finished runs that teach this one, and how much their answers count beside the labels."""

    teachers: list[str] = field(default_factory=list)
    tasks: list[str] | None = None
    temperature: float = 1.0
    weight: float = 0.5
    anneal: bool = False
    features: float = 0.0
    cache_gb: float = 1.0


@dataclass
class TrackingConfig:
    """What is written beside the CSV files."""

    tensorboard: bool = True
    images: int = 4
    progress: str = "auto"
    baseline: str | None = None


@dataclass
class ToyConfig:
    """The paths that ``experiment=toy`` draws; ``configs/experiment/toy.yaml`` has the values."""

    weightings: list[str] = MISSING
    starts: list[Any] = MISSING  # pairs of numbers
    scale: float = MISSING
    steps: int = MISSING
    learning_rate: float = MISSING
    betas: list[float] = MISSING
    record_every: int = MISSING
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """The root of a run's configuration."""

    seed: int = 0
    study: str = "default"
    outputs: str = "outputs"
    epochs: int = 10
    batch_size: int = 64
    tasks: Any = None  # see mtlrun.task_choice
    select_on: str = "validation"
    objective: str = "delta_m"
    dataset: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, Any] = field(default_factory=dict)
    architecture: dict[str, Any] = field(default_factory=dict)
    weighting: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    stopping: dict[str, Any] = field(default_factory=dict)
    engine: EngineConfig = field(default_factory=EngineConfig)
    gradients: GradientsConfig = field(default_factory=GradientsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    toy: ToyConfig | None = None


GROUPS = tuple(section.name for section in fields(Config) if section.default_factory is dict)
"""What holds the settings of one choice each; ``build`` compares them with their classes."""

CHOICES = {
    "select_on": ("validation", "test"),
    "engine.amp": ("none", "bf16"),
    "engine.on_nonfinite": ("stop", "skip"),
    "engine.affinity": ("none", "tag", "cosine"),
    "gradients.rescale": ("none", "sum", "norm"),
    "gradients.at": ("auto", "parameters", "representation", "last_layer"),
    "tracking.progress": ("auto", "bar", "lines", "none"),
}
"""Settings that take one of a few words."""

AT_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "engine.workers": 0,
    "engine.accumulate": 1,
    "engine.log_every": 1,
    "engine.checkpoint_minutes": 0,
    "engine.evaluation_batch_size": 1,
    "engine.affinity_every": 1,
    "engine.clip_norm": 1e-6,
    "distill.features": 0,
    "distill.cache_gb": 0,
    "gradients.every": 1,
    "gradients.smoothing": 0,
    "gradients.memory_gb": 0,
    "tracking.images": 0,
    "seed": 0,
}
"""Smallest values of numeric settings."""

WITHOUT_EFFECT = (
    "outputs",
    "study",
    "seed",
    "objective",
    "engine.workers",
    "engine.checkpoint_minutes",
    "tracking",
    "toy",  # an experiment of its own, with folders of its own
)
"""Settings that change neither a figure nor a file's meaning, or are in the folder's name already:
they are left out of the name of the run folder and of the comparison with what a folder holds."""


def without_effect(stopping: Mapping[str, Any] | None) -> tuple[str, ...]:
    """:data:`WITHOUT_EFFECT`, but for the baseline where a run's stopping looks at it."""
    if not stopping or stopping.get("monitor") != "delta_m":
        return WITHOUT_EFFECT
    written = [f"tracking.{key.name}" for key in fields(TrackingConfig) if key.name != "baseline"]
    return (*(key for key in WITHOUT_EFFECT if key != "tracking"), *written)


def register() -> None:
    """Make the schema known to Hydra under the name that ``config.yaml`` starts from."""
    ConfigStore.instance().store(name="schema", node=Config)


def unknown_settings(config: DictConfig) -> list[str]:
    """Keys outside of groups that Hydra's ``+`` added, and that nothing reads."""
    known = _known_settings()
    # Of tasks it is said what there is where they are looked at: chosen_tasks
    open_to_all = tuple(f"{section}." for section in (*GROUPS, "toy.settings", "tasks"))
    return [
        key
        for key in plain(config)
        if key not in known and key not in GROUPS and not key.startswith(open_to_all)
    ]


@cache
def _known_settings() -> frozenset[str]:
    kinds = (Config(), Config(toy=ToyConfig()))
    return frozenset(key for kind in kinds for key in plain(OmegaConf.structured(kind)))


def typed(config: DictConfig, choices: Mapping[str, str]) -> Config:
    """The settings of a run, from the composed configuration.

    Args:
        config: without Hydra's own node.
        choices: for each group the name of its choice.

    Raises:
        UserError: a setting that nothing reads.
    """
    unknown = unknown_settings(config)
    if unknown:
        known = [name for name in plain(config) if name not in unknown]
        raise UserError(explain_key(unknown[0], known, choices))
    found = OmegaConf.to_object(config)
    assert isinstance(found, Config)
    chosen_tasks(found.tasks)
    found.tasks = plain_tasks(found.tasks)
    return found


def explain_key(key: str, leaves: Iterable[str], choices: Mapping[str, str]) -> str:
    """What is known where a key is not.

    Args:
        key: as given.
        leaves: the settings that there are, by dotted key.
        choices: for each group the name of its choice.
    """
    parent, _, last = key.rpartition(".")
    inside = {name.removeprefix(f"{parent}.") for name in leaves if name.startswith(f"{parent}.")}
    if inside:
        within = f"{parent}={choices[parent]}" if parent in choices else parent
        known = sorted({name.split(".")[0] for name in inside} - {"_target_"})
        hint = nearest_hint(last, known, cutoff=0.5, before=f"{parent}.")
        return f"{key}: there is no such setting. {hint}{within} has {', '.join(known) or 'none'}."
    tops = sorted({name.split(".")[0] for name in leaves})
    hint = nearest_hint(key, [*leaves, *tops])
    return f"{key}: there is no such setting. {hint}See mtlrun --help, or mtlrun list."


def validate(config: Config) -> None:
    """Check words and numbers that the schema's types let through.

    Raises:
        UserError: the first setting that is out of its range.
    """
    for key, words in CHOICES.items():
        value = _at(config, key)
        if value not in words:
            raise UserError(f"{key}={value}: choose one of {', '.join(words)}.")
    for key, least in AT_LEAST.items():
        value = _at(config, key)
        if value is not None and value < least:
            raise UserError(f"{key}={value}: use {least} or more, or leave it out.")


def _at(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


# -- what a run is called --------------------------------------------------------------------------

Leaves = dict[str, Any]
Compose = Callable[[Sequence[str]], DictConfig]
"""Composes the configuration from overrides, with Hydra's own node."""

LONGEST_VALUE = 40
LONGEST_NAME = 180


def choices_of(hydra: DictConfig) -> dict[str, str]:
    """For each group the name of its choice, from Hydra's own node.

    A sweep is none of them: it is no matter of its runs, which are called after what it sets.
    """
    found = hydra.runtime.choices
    own = (str(group) for group in found if not str(group).startswith("hydra/"))
    return {group: found[group] for group in own if group != "sweep"}


def changed_settings(
    config: DictConfig, hydra: DictConfig, compose: Compose
) -> tuple[dict[str, str], Leaves]:
    """What makes a run differ from ``mtlrun dataset=D weighting=W``.

    Args:
        config: the composed configuration, with or without Hydra's own node.
        hydra: Hydra's own node.
        compose: composes the configurations to compare with, with Hydra's own node.

    Returns:
        the groups with another choice than the dataset's recipe, and the settings that differ
        given these choices, by dotted key.
    """
    choices = choices_of(hydra)
    given = [f"dataset={choices['dataset']}"]
    experiment = choices.get("experiment")
    if experiment:  # a recipe of its own
        given.append(f"experiment={experiment}")
    recipe = choices_of(compose(given).hydra)
    groups = {
        group: choice
        for group, choice in choices.items()
        if choice != recipe.get(group) and group != "dataset"
    }
    if experiment:
        groups = {"experiment": experiment, **groups}
    chosen = [f"{group}={choice}" for group, choice in groups.items()]
    base = compose([f"dataset={choices['dataset']}", *chosen])
    chosen_tasks(_nested(config)["tasks"])  # before there is a folder
    left_out = without_effect(_nested(config).get("stopping"))
    changed = {
        key: value
        for key, value in differing(plain(config), plain(base)).items()
        if not any(key == free or key.startswith(f"{free}.") for free in left_out)
    }
    groups.pop("weighting", None)
    return groups, changed


def differing(here: Leaves, base: Leaves) -> Leaves:
    """The settings of ``here`` that ``base`` has not or has otherwise, and its others as None."""
    return {
        key: here.get(key)
        for key in sorted(here.keys() | base.keys())
        if here.get(key, ...) != base.get(key, ...)
        and (key in here or not any(name.startswith(f"{key}.") for name in here))  # now a mapping
    }


def plain(config: DictConfig) -> Leaves:
    """Leaves of the configuration by dotted key, resolved, without Hydra's own node."""
    return flatten(_nested(config))


def _nested(config: DictConfig) -> dict[str, Any]:
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    nested = OmegaConf.to_container(own, resolve=True)
    assert isinstance(nested, dict)
    return {str(key): value for key, value in nested.items()} | {
        "tasks": plain_tasks(nested.get("tasks"))
    }


def method_name(weighting: str, groups: Mapping[str, str], changed: Mapping[str, Any]) -> str:
    """The part of the run folder's name that says what is special about the run."""
    parts = [weighting]
    parts += [f"{group}={choice}" for group, choice in groups.items()]
    short = {key: _short(value) for key, value in changed.items()}
    if folders := changed.get(TEACHERS):
        own = [*parts, *(f"{key}={value}" for key, value in short.items())]
        told = teachers_text(folders, own)
        short[TEACHERS] = f"{_safe(told)[:LONGEST_VALUE]}-{_digest(str(folders))}"
    name = ",".join([*parts, *(f"{key}={value}" for key, value in short.items())])
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{_digest(name)}"
    return name


def _short(value: object) -> str:
    typed = {"None": "null", "True": "true", "False": "false"}
    text = typed.get(str(value), str(value)).replace(" ", "").replace("'", "")
    safe = _safe(text.rsplit("/", 1)[-1])
    if len(text) <= LONGEST_VALUE and safe == text.replace(",", "_"):
        return safe
    return f"{safe[-LONGEST_VALUE:]}-{_digest(text)}"


def _safe(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._+-[]{}:" else "_" for c in text)


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=3).hexdigest()
