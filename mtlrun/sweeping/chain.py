"""Chains of runs: the teachers of a sweep's students first, then each student with and without."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from mtlrun.errors import UserError
from mtlrun.sweeping.jobs import Axis, Job, Teachers, as_typed, key_of
from mtlrun.teacher_names import KEY as TEACHERS
from mtlrun.tracking.folder import flatten

SECTION = "distill."
"""What these settings say, the runs of distilled students alone are told."""


def of_teachers(settings: Any) -> list[str]:
    """``hydra.sweeper.teachers`` as it would be typed: a key with its values each.

    Raises:
        UserError: they are no mapping.
    """
    if OmegaConf.is_config(settings):
        settings = OmegaConf.to_container(settings, resolve=True)
    if settings is None:
        return []
    if not isinstance(settings, Mapping):
        raise UserError(
            f"hydra.sweeper.teachers={settings}: give what teachers have otherwise than their "
            "student, key by key, as in hydra.sweeper.teachers.architecture=mtan."
        )
    return [as_typed(key, value) for key, value in flatten(settings).items()]


def check_free(axes: Sequence[Axis]) -> None:
    """Refuse teachers that were trained before where a sweep trains its own.

    Raises:
        UserError: there are some.
    """
    if any(axis.name == TEACHERS for axis in axes):
        raise UserError(
            f"{TEACHERS} is what this sweep sets itself, to the runs that it trains for it. Say "
            "what they are like with hydra.sweeper.teachers.KEY=VALUE; or, to learn from runs "
            f"that are there, use -m seed=0,1,2 '{TEACHERS}=[\"FOLDER\"]' instead."
        )


def with_teachers(jobs: Sequence[Job], teachers: Sequence[Axis]) -> list[Job]:
    """Before each student its teachers, and after it the same student with them.

    Teachers and plain students are what they are in any other sweep, so their runs are shared.

    Args:
        jobs: of a sweep; what ``distill`` says of a student counts for the distilled one alone.
        teachers: what a student's teachers have in place of its own settings. What is said of
            its method does not count for them; several values make several teachers.
    """
    found: dict[object, Job] = {}
    keys = {axis.name for axis in teachers}
    taught = ",".join(f"{a.name}={'/'.join(map(_value, a.overrides))}" for a in teachers)
    chosen = list(itertools.product(*(axis.overrides for axis in teachers)))
    for job in jobs:
        if job.baseline:
            found.setdefault(job.overrides, job)
            continue
        rest = tuple(text for text in job.overrides if _shared(key_of(text), keys))
        telling = tuple((key, value) for key, value in job.telling if _shared(key, keys))
        for own in chosen:
            more = tuple((key_of(text), _value(text)) for text in own)
            against = () if "seed" in keys else job.against  # of the student's seed
            teacher = Job((*rest, *own), (*telling, *more), against=against)
            found.setdefault(teacher.overrides, teacher)
        plain = replace(
            job,
            overrides=tuple(text for text in job.overrides if not key_of(text).startswith(SECTION)),
            telling=tuple(pair for pair in job.telling if not pair[0].startswith(SECTION)),
        )
        found.setdefault(plain.overrides, plain)
        taught_by = Teachers(tuple((*rest, *own) for own in chosen), own_seed="seed" not in keys)
        found.setdefault(
            (job.overrides, taught_by),
            replace(job, telling=(*job.telling, (TEACHERS, taught)), teachers=taught_by),
        )
    return list(found.values())


def _value(override: str) -> str:
    return override.partition("=")[2]


def _shared(key: str, keys: set[str]) -> bool:
    """Whether a student's setting is its teachers' as well."""
    return key not in keys and not Axis(key, ()).of_method
