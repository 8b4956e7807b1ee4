"""The columns that settings name: that they are there, and have one use each."""

from collections.abc import Mapping, Sequence

from mtlrun.data.table.reading import Sheet
from mtlrun.errors import UserError, did_you_mean

Names = str | Sequence[str] | None


def names_of(given: Names) -> list[str]:
    """A setting that lists names: none, one by itself, or several."""
    if given is None:
        return []
    if isinstance(given, str):
        return [given]
    return ["null" if name is None else str(name) for name in given]


def check_uses(
    sheet: Sheet,
    tasks: Mapping[str, str | None],
    own_use: Mapping[str, str | None],
    ignore: Sequence[str] = (),
    inputs: Sequence[str] | None = None,
    kinds: Mapping[str, Sequence[str]] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Check that every column named is there and has one use.

    Args:
        sheet: the table.
        tasks: by target column.
        own_use: for a setting that names a column of its own use that column, or None.
        ignore: columns to leave out.
        inputs: columns to predict from, or None.
        kinds: for each kind of input the columns that the user named.
        classes: by target column.

    Returns:
        the columns that may be inputs, in the file's order; and for each column whose kind the user
        named that kind.

    Raises:
        UserError: a column is not there or has two uses, or no target is named.
    """
    if not tasks:
        raise UserError(
            f"Name the columns of {sheet.title} to predict: 'dataset.tasks=[NAME,...]'. It has "
            f"{', '.join(sheet.columns)}."
        )
    uses = [("dataset.tasks", column) for column in tasks]
    uses += [(f"dataset.{name}", column) for name, column in own_use.items() if column is not None]
    uses += [("dataset.ignore", column) for column in ignore]
    taken = _distinct(sheet, uses)
    kinds = kinds or {}
    given = [(f"dataset.{kind}", column) for kind, of in kinds.items() for column in of]
    _distinct(sheet, [*uses, *given])
    _distinct(sheet, [*uses, *(("dataset.inputs", column) for column in inputs or ())])
    for column in classes or ():
        if column not in tasks:
            raise UserError(f"dataset.classes names {column}. {did_you_mean(column, tasks)}")
    named = {column: kind for kind, of in kinds.items() for column in of}
    wanted = set(sheet.columns if inputs is None else [*inputs, *named])
    return [column for column in sheet.columns if column in wanted and column not in taken], named


def _distinct(sheet: Sheet, uses: Sequence[tuple[str, str]]) -> dict[str, str]:
    """For each column named the setting that names it."""
    found: dict[str, str] = {}
    for setting, column in uses:
        sheet.require(column, setting)
        if column in found:
            where = (
                f"{setting} names it twice"
                if found[column] == setting
                else f"{found[column]} and {setting} both name it"
            )
            raise UserError(f"Column {column} of {sheet.title} has one use, and {where}.")
        found[column] = setting
    return found


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check a setting that has a few values.

    Raises:
        ValueError: it is none of them.
    """
    if value not in choices:
        raise ValueError(f"{name}={value}: choose one of {', '.join(choices)}")
