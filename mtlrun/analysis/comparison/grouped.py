"""What is said of rows whose figures are of several networks: groupings of tasks."""

import math
from collections.abc import Iterable, Iterator, Mapping

from mtlrun.analysis.comparison.groups import Group
from mtlrun.analysis.comparison.notes import names
from mtlrun.analysis.settings import GROUPING


def is_grouping(group: Group) -> bool:
    """Whether its runs are of several networks each."""
    return GROUPING in group.settings


def in_sentences(label: str, group: Group) -> str:
    """A grouping's name without its networks: ``grouping tag-budget=2``; other labels as they are.

    Args:
        label: of the group's row.
        group: the group.
    """
    if not is_grouping(group):
        return label
    name = group.runs[0].weighting
    return label.replace(name, name.partition(": ")[0], 1)


def seconds_unknown(group: Group) -> bool:
    """Whether its seconds cannot be told from those of networks that it does not use."""
    return is_grouping(group) and any(math.isnan(run.seconds) for run in group.runs)


def seconds_notes(groups: Iterable[Group], labels: Mapping[Group, str]) -> Iterator[str]:
    """Why such rows have no seconds."""
    rows = [in_sentences(labels[group], group) for group in groups if seconds_unknown(group)]
    if rows:
        yield (
            f"{names(rows)}: seconds are not known, as single-task training, which trained further "
            "networks, lends some of its own."
        )
