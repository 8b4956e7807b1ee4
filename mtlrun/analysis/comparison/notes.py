"""What a reader must know before comparing rows: sentences under a table."""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan

from mtlrun.analysis.comparison.figures import Statistics
from mtlrun.analysis.comparison.groups import (
    Group,
    Protocol,
    differing_protocol,
    differing_settings,
    value_of,
)
from mtlrun.analysis.runs import UnfinishedRun
from mtlrun.analysis.settings import of_protocol

STOPPING = "stopping"

ALSO_TOLD = ("batch_size", STOPPING)
"""Settings that rows may differ in and be compared, and that a reader wants to know of."""

MOST_NOTES = 4
"""Differences to the baseline that are told one by one."""


def table_notes(protocols: Mapping[str, Sequence[Protocol]]) -> list[str]:
    """Why a dataset has several tables, and in what they differ.

    Args:
        protocols: for each dataset those of its tables.
    """
    notes = []
    for dataset, several in protocols.items():
        if len(several) < 2:
            continue
        differences = [
            f"{key} ({names(dict.fromkeys(value_of(protocol, key) for protocol in several))})"
            for key in differing_protocol(several)
        ]
        notes.append(
            f"{dataset} has {len(several)} tables, since figures of runs that differ in "
            f"{names(differences)} do not compare. --pool puts them into one."
        )
    return notes


def protocol_notes(
    groups: Sequence[Group], labels: Mapping[Group, str], without: tuple[str, ...] = ()
) -> list[str]:
    """For each setting of the protocol in which rows differ, who has what.

    Args:
        groups: the rows.
        labels: their names.
        without: settings that are not told of; sections with a dot behind.
    """
    notes = []
    known = [group for group in groups if group.has_config]
    keys = dict.fromkeys([*(key for group in known for key in group.settings), STOPPING])
    for key in keys:
        if key in without or f"{key.split('.')[0]}." in without:
            continue
        if of_protocol(key) or key in ALSO_TOLD:
            owners = said_by((_told_of(group, key), labels[group]) for group in known)
            if len(owners) > 1:
                notes.append(f"Rows differ in {key}: {_who_has_what(owners)}.")
    for group in groups:
        if not group.has_config:
            notes.append(f"{labels[group]}: config.yaml cannot be read, settings are not compared.")
    return notes


def _told_of(group: Group, key: str) -> str:
    """A setting of a row; of its stopping the choice with its settings."""
    if key != STOPPING:
        return group.protocol.get(key) or group.settings.get(key, "unset")
    settings = [
        f"{name.removeprefix(f'{STOPPING}.')}={value}"
        for name, value in group.settings.items()
        if name.startswith(f"{STOPPING}.") and not name.endswith("._target_")
    ]
    choice = group.runs[0].choices.get(STOPPING, "none")
    return f"{choice} with {listing(settings)}" if settings else choice


def early_notes(groups: Sequence[Group], labels: Mapping[Group, str]) -> list[str]:
    """Which rows have runs that stopped before the epochs that they were to train."""
    found = []
    for group in groups:
        asked = group.settings.get("epochs", "")
        done = sorted({run.epochs_done for run in group.runs})
        if any(str(epochs) != asked for epochs in done):
            text = str(done[0]) if len(done) == 1 else f"{done[0]} to {done[-1]}"
            found.append((f"{text} of {asked}", labels[group]))
    return [
        f"{names(rows)} stopped early, after {epochs} epochs."
        for epochs, rows in said_by(found).items()
    ]


def baseline_notes(baselines: Mapping[Group, Group], labels: Mapping[Group, str]) -> list[str]:
    """In which settings, beside the protocol's, rows differ from what their delta_m is against."""
    found = [
        (group, [key for key in differing_settings(group, baseline) if not of_protocol(key)])
        for group, baseline in baselines.items()
    ]
    differences = said_by(
        (_differences(keys, group, baselines[group]), labels[group]) for group, keys in found
    )
    differences.pop("", None)
    if len(differences) > MOST_NOTES:
        keys = dict.fromkeys(key for _, differing in found for key in differing)
        rows = sum(map(len, differences.values()))
        return [f"delta_m of {rows} rows: the baseline differs from them in {names(keys)}."]
    return [
        f"delta_m of {names(rows)}: the baseline has {difference}."
        for difference, rows in differences.items()
    ]


def _differences(keys: Iterable[str], group: Group, baseline: Group) -> str:
    return names(
        f"{key}={baseline.settings.get(key, 'unset')} instead of {group.settings.get(key, 'unset')}"
        for key in keys
    )


def lent_notes(borrowed: Iterable[Group], labels: Mapping[Group, str]) -> list[str]:
    """Which rows are of runs that trained further tasks, whose figures and seconds are left out."""
    return [
        f"{labels[group]} trained further tasks, too. Its models know nothing of each other, so "
        "these figures stand; its seconds are left out."
        for group in borrowed
    ]


def machine_notes(groups: Sequence[Group], labels: Mapping[Group, str]) -> list[str]:
    """Whose seconds were measured on which machine, where there is more than one."""
    owners = said_by((run.machine, labels[group]) for group in groups for run in group.runs)
    if len(owners) < 2:
        return []
    return [f"Seconds are of different machines: {_who_has_what(owners)}."]


def missing_notes(statistics: Statistics, labels: Mapping[Group, str]) -> list[str]:
    """Which rows have empty cells because a run, or all of them, has no number there."""
    found = []
    for group, cells in statistics.items():
        empty = [f"{f.group} {f.name}".strip() for f, cell in cells.items() if isnan(cell.mean)]
        if empty:
            some = "at least one of its seeds" if len(group.runs) > 1 else "its run"
            found.append((f"{some} has no figure for {names(empty)}", labels[group]))
    return [f"{names(rows)}: {what}." for what, rows in said_by(found).items()]


def unfinished_notes(runs: Iterable[UnfinishedRun]) -> list[str]:
    """Which runs are not in a table, in which state they are, and why."""
    listed = [run.text for run in runs]
    if not listed:
        return []
    count = "1 run is" if len(listed) == 1 else f"{len(listed)} runs are"
    return [f"{count} not in the table: {names(listed, limit=8)}."]


def said_by(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """For each first element those second elements that came with it, each once."""
    owners: dict[str, dict[str, None]] = {}
    for what, who in pairs:
        owners.setdefault(what, {})[who] = None
    return {what: list(who) for what, who in owners.items()}


def names(items: Iterable[str], limit: int = 6) -> str:
    """``a, b, c``, cut short where there are more than ``limit``."""
    listed = list(items)
    if len(listed) <= limit:
        return ", ".join(listed)
    return ", ".join(listed[:limit]) + f" and {len(listed) - limit} more"


def listing(items: Iterable[str], limit: int = 6) -> str:
    """``a, b and c`` in a sentence, cut short where there are more than ``limit``."""
    listed = list(items)
    if len(listed) > limit or len(listed) < 2:
        return names(listed, limit)
    return f"{', '.join(listed[:-1])} and {listed[-1]}"


def metrics_text(count: int) -> str:
    """``the metric``, ``the 3 metrics``."""
    return "the metric" if count == 1 else f"the {count} metrics"


def seeds_text(count: int) -> str:
    """``1 seed``, ``3 seeds``."""
    return "1 seed" if count == 1 else f"{count} seeds"


def _who_has_what(owners: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{what} ({names(who)})" for what, who in owners.items())
