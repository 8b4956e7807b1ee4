"""Which runs a sweep is made of."""

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mtlrun.tracking.folder import RESULT

METHOD_GROUPS = ("weighting", "architecture", "gradients", "distill")
METHOD_KEYS = ("tasks.primary", "tasks.anneal")
"""What makes a method: a sweep's baseline does not take these over from the command line."""

ONCE = ("sweep", "hydra")
"""Keys of the sweep itself, which its jobs do not vary."""


@dataclass(frozen=True)
class Teachers:
    """The runs that teach a job's, which therefore come before it.

    Attributes:
        overrides: of each.
        own_seed: whether they are of the student's own seed.
    """

    overrides: tuple[tuple[str, ...], ...]
    own_seed: bool


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        overrides: as on a command line.
        telling: keys and values that tell it from the sweep's others.
        baseline: whether it is what the others are compared with.
        against: overrides of the baseline that it is compared with; empty for none.
        teachers: the runs that it is taught by; None for none.
        folder: its run folder; set where it is composed.
        alone: that of its baseline; likewise.
        needs: those of runs that must have finished before it starts; likewise.
        result: the file there that a finished run has.
        refused: why it cannot be started; empty where it can.
    """

    overrides: tuple[str, ...]
    telling: tuple[tuple[str, str], ...]
    baseline: bool = False
    against: tuple[str, ...] = ()
    teachers: Teachers | None = None
    folder: Path = Path()
    alone: Path | None = None
    needs: tuple[Path, ...] = ()
    result: str = RESULT
    refused: str = ""

    @property
    def name(self) -> str:
        """What tells it from the others, as on a command line."""
        return " ".join(f"{key}={value}" for key, value in self.telling) or "the run"

    @property
    def label(self) -> str:
        """Method and seed, as its folders say."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def finished(self) -> bool:
        """Whether its result is there."""
        return not self.refused and (self.folder / self.result).is_file()

    @property
    def waits_for(self) -> list[Path]:
        """Those of the runs that it needs that have not finished."""
        return [folder for folder in self.needs if not (folder / RESULT).is_file()]


@dataclass(frozen=True)
class Axis:
    """A key with the values that a sweep gives it.

    Attributes:
        key: as on the command line, with Hydra's ``+`` or ``~`` where it has one.
        overrides: ``key=value`` for each value.
    """

    key: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The key alone."""
        return key_of(self.key)

    @property
    def of_method(self) -> bool:
        """Whether it says something of the method rather than of data, seed or training."""
        group = self.name.split(".")[0].split("@")[0]
        return group in METHOD_GROUPS or self.name in METHOD_KEYS


def axes(overrides: Iterable[Override]) -> list[Axis]:
    """An axis for each key, in order; of a key given twice the last one.

    Raises:
        HydraException: an interval, which is for sweepers that search, or no value at all.
    """
    found: dict[str, Axis] = {}
    for override in overrides:
        key = override.get_key_element()
        if key_of(key).split(".")[0].split("/")[0] in ONCE:
            continue
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise HydraException(
                    f"{override.input_line}: an interval has no end of values. Give a list, or add "
                    "hydra/sweeper=optuna to search in it"
                )
            values = discrete(override)
        elif override.is_delete():
            values = (str(override.input_line),)
        else:
            values = (f"{key}={override.get_value_element_as_str()}",)
        found[key_of(key)] = Axis(key, values)
    return list(found.values())


def discrete(override: Override) -> tuple[str, ...]:
    """``key=value`` for each value of a list, range or glob.

    Raises:
        HydraException: there is none.
    """
    key = override.get_key_element()
    try:
        values = tuple(f"{key}={value}" for value in override.sweep_string_iterator())
    except ValueError:  # of a range that goes nowhere
        values = ()
    if not values:
        raise HydraException(f"{override.input_line}: there is no value in it")
    return values


def as_typed(key: str, value: Any) -> str:
    """A key and its values in a sweep's YAML as they would be typed on the command line.

    Args:
        key: the key.
        value: values as typed (``0,1,2``), or a list of them.
    """
    if isinstance(value, str):
        return f"{key}={value}"
    written = Override._get_value_element_as_str  # of Hydra's grammar: null, true, [1,2], {a:1}
    if isinstance(value, Sequence):
        return f"{key}={','.join(v if isinstance(v, str) else written(v) for v in value)}"
    return f"{key}={written(value)}"


def expand(methods: Sequence[Axis], others: Sequence[Axis], baseline: Sequence[str]) -> list[Job]:
    """The jobs of a sweep: for each combination of ``others`` the baseline, then each method.

    Args:
        methods: axes of what is compared.
        others: seeds, datasets and whatever else; also fixed settings, of one value.
        baseline: overrides of the job that the methods are compared with, in place of
            ``methods`` and of all that ``others`` say of the method; empty for none.
    """
    varied = {axis.name for axis in (*methods, *others) if len(axis.overrides) > 1}
    jobs: dict[tuple[str, ...], Job] = {}
    if not baseline:
        for overrides in itertools.product(*(axis.overrides for axis in (*others, *methods))):
            jobs.setdefault(overrides, Job(overrides, _telling(overrides, varied)))
        return list(jobs.values())
    keys = {key_of(text) for text in baseline}
    shared = [axis for axis in others if not axis.of_method]
    competing = [*(axis for axis in others if axis.of_method), *methods]
    for rest in itertools.product(*(axis.overrides for axis in shared)):
        alone = (*(text for text in rest if key_of(text) not in keys), *baseline)
        telling = _telling(alone, {*varied, *keys})
        jobs.setdefault(alone, Job(alone, telling, baseline=True))
        for method in itertools.product(*(axis.overrides for axis in competing)):
            overrides = (*rest, *method)
            telling = _telling(overrides, varied)
            jobs.setdefault(overrides, Job(overrides, telling, against=alone))
    return list(jobs.values())


def key_of(override: str) -> str:
    """The key of an override, without Hydra's ``+`` or ``~``."""
    key = override.split("=")[0].lstrip("+~")
    return "tasks" if key == "tasks.of" else key  # see mtlrun.overrides.with_task_keys


def _telling(overrides: Iterable[str], varied: Collection[str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (key_of(text), text.partition("=")[2]) for text in overrides if key_of(text) in varied
    )
