"""What a choice of networks rests on."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtlrun.analysis.grouping.scores import Candidates
from mtlrun.analysis.runs import RESULT, Run
from mtlrun.analysis.settings import of_method
from mtlrun.errors import UserError

AFFINITIES = {"tag": "TAG affinity", "cosine": "gradient cosine"}
"""Kinds of ``affinity.csv``, and what they are called."""

SOURCES = (*AFFINITIES, "pairs", "runs")

NEVER = -1e6
"""A task's value in a network of its own where only affinities are known: nothing is (Fifty et al.,
NeurIPS 2021, the authors' code)."""


@dataclass(frozen=True)
class Evidence:
    """What was measured, as values of networks.

    Attributes:
        source: one of :data:`SOURCES`.
        tasks: in the dataset's order; values are in this order.
        candidates: the networks that there are to choose from.
        unit: what the values are.
        reference: the run whose settings the networks are trained with.
        seeds: of the runs that were measured.
        said: sentences on what was read, for the user.
        all_in_one: for each task what one network of all tasks is worth to it; None where unknown.
        alone: for each task what a network of its own is worth to it; None where unknown.
        other_sizes: runs of networks with another backbone, by their tasks and cost.
    """

    source: str
    tasks: tuple[str, ...]
    candidates: Sequence[Candidates]
    unit: str
    reference: Run
    seeds: tuple[int, ...]
    said: tuple[str, ...] = ()
    all_in_one: Mapping[str, float] | None = None
    alone: Mapping[str, float] | None = None
    other_sizes: Mapping[tuple[tuple[str, ...], float], Run] = field(default_factory=dict)


def refuse_several(what: str, examples: Sequence[Run]) -> None:
    """Refuse to choose between runs of different settings.

    Args:
        what: several of, in words.
        examples: a run of each.

    Raises:
        UserError: names where they differ, and how to narrow the choice.
    """
    where = {f"{run.study}/{run.dataset}" for run in examples}
    if len(where) > 1:
        raise UserError(
            f"There are {what} of {', '.join(sorted(where))}. Give the folder of one of them."
        )
    told = [dict(_told(run)) for run in examples]
    keys = [
        key
        for key in dict.fromkeys(key for one in told for key in one)
        if len({one.get(key) for one in told}) > 1 and not key.startswith("train_rows.")
    ]
    lines = [
        ", ".join(f"{key}={one.get(key, 'null')}" for key in keys[:4]) or run.method
        for run, one in zip(examples, told, strict=True)
    ]
    shown = "; ".join(lines[:6]) + ("; and so on" if lines[6:] else "")
    raise UserError(
        f"There are {what} with different settings: {shown}. Choose with --with KEY=VALUE, or give "
        "the folder of one of them."
    )


def _told(run: Run) -> Iterable[tuple[str, str]]:
    """Choices by name, and settings, without the classes that the choices stand for."""
    yield from run.choices.items()
    for key, value in run.settings.items():
        if not key.endswith("._target_"):
            yield key, value


def narrowed(runs: Iterable[Run], wanted: Mapping[str, str]) -> list[Run]:
    """The runs with some settings or choices; single-task ones whatever makes a method.

    Raises:
        UserError: no run has them.
    """
    found = list(runs)
    for key, value in wanted.items():
        kept = [run for run in found if dict(_told(run)).get(key, "null") == value]
        if not any(not run.single_task for run in kept):
            known = sorted({dict(_told(run)).get(key, "null") for run in found})
            raise UserError(
                f"--with {key}={value}: no run has it. There {'is' if len(known) == 1 else 'are'} "
                f"{', '.join(f'{key}={other}' for other in known[:8])}."
            )
        found = [run for run in found if run in kept or (of_method(key) and run.single_task)]
    return found


def result_of(run: Run) -> dict[str, Any]:
    """What the run's ``result.json`` holds; nothing where that is gone since it was found."""
    try:
        found = json.loads((run.folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
