"""Which runs a sweep is made of."""

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

METHOD_GROUPS = ("weighting", "architecture", "gradients")
"""What makes a method: a sweep's baseline does not take these over from the command line."""

ONCE = ("sweep", "hydra")
"""Keys of the sweep itself, which its jobs do not have."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        overrides: as on a command line.
        name: those of them that tell it from the sweep's others.
        baseline: whether it is what the others are compared with.
        folder: its run folder; set where it is composed.
    """

    overrides: tuple[str, ...]
    name: str
    baseline: bool = False
    folder: Path = field(default_factory=Path)

    @property
    def label(self) -> str:
        """Method and seed, as its folders say."""
        return f"{self.folder.parent.name}/{self.folder.name}"


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
    def of_method(self) -> bool:
        """Whether it says something of the method rather than of data, seed or training."""
        return _key(self.key).split(".")[0].split("@")[0] in METHOD_GROUPS


def axes(overrides: Iterable[Override]) -> list[Axis]:
    """An axis for each key, in order; of a key given twice the last one.

    Raises:
        HydraException: an interval, which is for sweepers that search.
    """
    found: dict[str, Axis] = {}
    for override in overrides:
        key = override.get_key_element()
        if _key(key).split(".")[0].split("/")[0] in ONCE:
            continue
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise HydraException(
                    f"{override.input_line}: an interval has no end of values. Give a list, or add "
                    "hydra/sweeper=optuna to search in it"
                )
            values = tuple(f"{key}={value}" for value in override.sweep_string_iterator())
        elif override.is_delete():
            values = (str(override.input_line),)
        else:
            values = (f"{key}={override.get_value_element_as_str()}",)
        found[_key(key)] = Axis(key, values)
    return list(found.values())


def expand(methods: Sequence[Axis], others: Sequence[Axis], baseline: Sequence[str]) -> list[Job]:
    """The jobs of a sweep: for each combination of ``others`` the baseline, then each method.

    Args:
        methods: axes of what is compared.
        others: seeds, datasets and whatever else; also fixed settings, of one value.
        baseline: overrides of the job that the methods are compared with, in place of
            ``methods`` and of all that ``others`` say of the method; empty for none.
    """
    varied = {_key(axis.key) for axis in (*methods, *others) if len(axis.overrides) > 1}
    jobs: dict[tuple[str, ...], Job] = {}
    if not baseline:
        for overrides in itertools.product(*(axis.overrides for axis in (*others, *methods))):
            _add(jobs, overrides, varied)
        return list(jobs.values())
    keys = {_key(text) for text in baseline}
    shared = [axis for axis in others if not axis.of_method]
    competing = [*(axis for axis in others if axis.of_method), *methods]
    for rest in itertools.product(*(axis.overrides for axis in shared)):
        kept = [text for text in rest if _key(text) not in keys]
        _add(jobs, (*kept, *baseline), {*varied, *keys}, baseline=True)
        for method in itertools.product(*(axis.overrides for axis in competing)):
            _add(jobs, (*rest, *method), varied)
    return list(jobs.values())


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def _add(
    jobs: dict[tuple[str, ...], Job],
    overrides: tuple[str, ...],
    varied: Collection[str],
    *,
    baseline: bool = False,
) -> None:
    telling = [text.lstrip("+") for text in overrides if _key(text) in varied]
    name = " ".join(telling) or "the run"
    jobs.setdefault(overrides, Job(overrides, name, baseline))
