"""What was found in a table, in a few lines."""

from collections.abc import Mapping, Sequence

from mtlrun.data.table.columns import Roles
from mtlrun.data.table.reading import Array, Sheet
from mtlrun.data.table.targets import Target

NAMES = 6
"""Columns that a line names before it ends in dots."""


def remarks_of(
    sheet: Sheet,
    roles: Roles,
    targets: Mapping[str, Target],
    rows: Mapping[str, Array],
    source: str,
    streams: Mapping[str, Array],
    task_column: str | None,
) -> list[str]:
    """Lines on inputs, targets, splits and what was left out.

    Args:
        sheet: the table.
        roles: what its input columns are.
        targets: by column.
        rows: of each split.
        source: where the splits come from, in words.
        streams: the rows of each.
        task_column: whose values are the streams, or None.
    """
    numeric = [f"{name} {roles.written.get(name, '')}".rstrip() for name in roles.numeric]
    inputs = [
        f"{len(names)} {kind} ({listed(names)})"
        for kind, names in (
            ("numeric", numeric),
            ("categorical", roles.categorical),
            ("text", roles.text),
        )
        if names
    ]
    described = [target.remark for target in targets.values()]
    tasks = f", for each of {len(streams):,} values of {task_column}" if task_column else ""
    lines = [
        f"Read {sheet.title}: {len(sheet):,} rows{sheet.notes}. Inputs: {', '.join(inputs)}.",
        f"Targets: {', '.join(described)}{tasks}.",
        split_remark(rows, source),
    ]
    lines += unlabelled_remarks(targets, rows)
    if roles.left_out:
        left = [f"{name} ({why})" for name, why in roles.left_out.items()]
        lines.append(f"Left out: {listed(left)}.")
    return lines


def unlabelled_remarks(targets: Mapping[str, Target], rows: Mapping[str, Array]) -> list[str]:
    """A line for each split in which a target has no value at all."""
    return [
        f"{split} has no value of the target {column}: it is not measured there."
        for split, own in rows.items()
        for column, target in targets.items()
        if not bool(target.labelled[own].any())
    ]


def split_remark(rows: Mapping[str, Array], source: str) -> str:
    """How many rows each split has."""
    counts = ", ".join(f"{len(own):,} {name}" for name, own in rows.items())
    return f"Split: {counts} ({source})."


def listed(names: Sequence[str]) -> str:
    """The names, or the first of them and dots."""
    return ", ".join(names[:NAMES]) + (", ..." if len(names) > NAMES else "")
