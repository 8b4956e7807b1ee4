"""Checks of settings that several methods and samplers share."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.errors import UserError, nearest_hint
from mtlrun.types import TaskInfo

REDUCTIONS = ("sum", "mean")
"""Whether tasks are summed, or averaged over the tasks of the step."""


def check_choice(setting: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is none of ``choices``.

    Raises:
        ValueError: names the setting, the value and the choices.
    """
    if value not in choices:
        raise ValueError(f"{setting}={value!r}: choose one of {', '.join(choices)}")


def check_positive(setting: str, value: float) -> None:
    """Refuse a number that is not finite and greater than 0.

    Raises:
        ValueError: names the setting and the value.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{setting}={value}: must be a number greater than 0")


def check_not_negative(**settings: float) -> None:
    """Refuse numbers that are below 0 or not finite.

    Raises:
        ValueError: names the first such setting and its value.
    """
    for setting, value in settings.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{setting}={value}: must be a number, 0 or more")


def check_whole(setting: str, value: int, least: int) -> None:
    """Refuse what is not a whole number of at least ``least``.

    Raises:
        ValueError: names the setting and the value.
    """
    if not (isinstance(value, int) and value >= least):
        raise ValueError(f"{setting}={value}: must be a whole number of {least} or more")


def per_task(
    setting: str,
    values: Mapping[str, float],
    tasks: Sequence[TaskInfo],
    default: float,
    maximum: float = math.inf,
) -> Tensor:
    """Numbers that a user gave to some tasks by name, as one number a task of the run.

    Args:
        setting: what the user typed, for messages.
        values: for some tasks their number.
        tasks: the tasks of the run.
        default: the number of a task that is left out.
        maximum: the greatest number allowed.

    Returns:
        [tasks of the run], float32.

    Raises:
        UserError: a name that is no task of the run; a number outside [0, maximum].
    """
    names = [task.name for task in tasks]
    for name, value in values.items():
        if name not in names:
            raise UserError(
                f"{setting}.{name}={value}: this run has no task of that name. "
                f"{nearest_hint(name, names)}Its tasks are {', '.join(names)}."
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and 0 <= value <= maximum):
            bound = "0 or more" if maximum == math.inf else f"between 0 and {maximum:g}"
            raise UserError(f"{setting}.{name}={value}: give a finite number, {bound}.")
    return torch.tensor([float(values.get(name, default)) for name in names])
