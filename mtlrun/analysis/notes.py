"""What a reader must know before comparing rows: sentences under a table."""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan

from mtlrun.analysis.figures import Statistics
from mtlrun.analysis.groups import Group, differing_settings
from mtlrun.analysis.runs import PROTOCOL, UnfinishedRun


def protocol_notes(groups: Sequence[Group], labels: Mapping[Group, str]) -> list[str]:
    """For each setting of the protocol in which rows (or a row's seeds) differ, who has what."""
    notes = []
    known = [group for group in groups if group.has_config]
    keys = dict.fromkeys(key for group in known for key in group.settings if _of_protocol(key))
    for key in keys:
        owners = said_by(
            (run.settings.get(key, "unset"), labels[group]) for group in known for run in group.runs
        )
        if len(owners) > 1:
            notes.append(f"Rows differ in {key}: {_who_has_what(owners)}.")
    for group in groups:
        if not group.has_config:
            notes.append(f"{labels[group]}: config.yaml cannot be read, settings are not compared.")
    return notes


def _of_protocol(key: str) -> bool:
    """Whether all rows of a table should share the setting."""
    return key in (*PROTOCOL, "tasks") or key.startswith("dataset.")


def baseline_notes(baselines: Mapping[Group, Group], labels: Mapping[Group, str]) -> list[str]:
    """In which settings, beside the protocol's, rows differ from what their delta_m is against."""
    differences = said_by(
        (_differences(group, baseline), labels[group]) for group, baseline in baselines.items()
    )
    return [
        f"delta_m of {names(rows)}: the baseline has {difference}."
        for difference, rows in differences.items()
        if difference
    ]


def _differences(group: Group, baseline: Group) -> str:
    return ", ".join(
        f"{key}={baseline.settings.get(key, 'unset')} instead of {group.settings.get(key, 'unset')}"
        for key in differing_settings(group, baseline)
        if not _of_protocol(key)
    )


def machine_notes(groups: Sequence[Group], labels: Mapping[Group, str]) -> list[str]:
    """Whose seconds were measured on which machine, where there is more than one."""
    owners = said_by((run.machine, labels[group]) for group in groups for run in group.runs)
    if len(owners) < 2:
        return []
    return [f"Seconds are of different machines: {_who_has_what(owners)}."]


def missing_notes(statistics: Statistics, labels: Mapping[Group, str]) -> list[str]:
    """Which rows have empty cells because a run, or all of them, has no number there."""
    notes = []
    for group, cells in statistics.items():
        empty = [f"{f.group} {f.name}".strip() for f, cell in cells.items() if isnan(cell.mean)]
        if empty:
            some = "at least one of its seeds" if len(group.runs) > 1 else "its run"
            notes.append(f"{labels[group]}: {some} has no figure for {names(empty)}.")
    return notes


def unfinished_notes(runs: Iterable[UnfinishedRun]) -> list[str]:
    """Which runs are not in a table, and in which state they are."""
    listed = [f"{run.name} ({run.state})" for run in runs]
    if not listed:
        return []
    count = "1 run is" if len(listed) == 1 else f"{len(listed)} runs are"
    return [f"{count} not in the table: {names(listed, limit=8)}."]


def said_by(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """For each first element those second elements that came with it, each once."""
    owners: dict[str, list[str]] = {}
    for what, who in pairs:
        if who not in owners.setdefault(what, []):
            owners[what].append(who)
    return owners


def names(items: Iterable[str], limit: int = 6) -> str:
    """``a, b, c``, cut short where there are more than ``limit``."""
    listed = list(items)
    if len(listed) <= limit:
        return ", ".join(listed)
    return ", ".join(listed[:limit]) + f" and {len(listed) - limit} more"


def _who_has_what(owners: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{what} ({names(who)})" for what, who in owners.items())
