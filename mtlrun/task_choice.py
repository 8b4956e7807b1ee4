"""The key ``tasks``: which tasks a run trains, and which of them it is for. Imports no torch."""

from dataclasses import dataclass, fields
from typing import Any

from mtlrun.errors import UserError, did_you_mean


@dataclass(frozen=True)
class TaskChoice:
    """What the key ``tasks`` says.

    Attributes:
        of: a subset of the dataset's tasks; None for all.
        primary: those that the run is for; None for all. The others help them: auxiliaries.
        anneal: the share of the run by whose end auxiliaries have faded out; None keeps them.
    """

    of: list[str] | None = None
    primary: list[str] | None = None
    anneal: float | None = None


KEYS = tuple(field.name for field in fields(TaskChoice))


def chosen_tasks(tasks: Any) -> TaskChoice:
    """The choice that ``tasks`` stands for: a list of tasks, or a mapping with a choice's fields.

    Raises:
        UserError: it is neither, or a field is none of these or of another kind.
    """
    if isinstance(tasks, dict):
        for key in tasks:
            if key not in KEYS:
                hint = did_you_mean(str(key), KEYS)
                raise UserError(f"tasks.{key}: there is no such setting. {hint}")
        choice = TaskChoice(**tasks)
    else:
        choice = TaskChoice(tasks)
    for key, names in (("tasks", choice.of), ("tasks.primary", choice.primary)):
        listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if names is not None and not listed:
            example = names if isinstance(names, str) else "depth"
            raise UserError(f"{key}={names}: give a list, for example {key}=[{example}].")
    share: object = choice.anneal
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if share is not None and not (number and 0 < choice.anneal <= 1):  # type: ignore[operator]  # a number
        raise UserError(
            f"tasks.anneal={share}: use the share of the run by whose end auxiliary tasks have "
            "faded out, above 0 and at most 1, for example tasks.anneal=0.5."
        )
    return choice


def plain_tasks(tasks: Any) -> Any:
    """The shortest that says the same: ``{of: [depth], primary: null}`` is ``[depth]``."""
    if not isinstance(tasks, dict):
        return tasks
    said = {key: value for key, value in tasks.items() if value is not None}
    return said if said.keys() - {"of"} else said.get("of")
