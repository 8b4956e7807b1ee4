"""Target columns: their kinds, where the user leaves them open, and their values as tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlrun.data.table.names import Names, check_choice, names_of
from mtlrun.data.table.numerals import is_number, numbers_in
from mtlrun.data.table.reading import ABSENT, MANY_NUMBERS, Array, Bools, Levels, Sheet
from mtlrun.errors import UserError, did_you_mean

CLASSES_OF_TEXTS = 100
"""Different texts up to which a target is taken for classes, or its parts for labels."""

ROWS_A_CLASS = 3
"""Rows that each class must have on average for a target to be taken for classes."""

UNSEEN = ("refuse", "missing")
Facts = dict[str, Any]


class TargetSettings:
    """How targets are read.

    Args:
        classes: for some targets their classes or labels, in order.
        separator: what stands between the labels of one cell.
        unseen: ``refuse`` or ``missing``: a class that no training row has.

    Raises:
        ValueError: a setting is none of its values.
    """

    def __init__(
        self,
        classes: Mapping[str, Names] | None = None,
        separator: str = ";",
        unseen: str = "refuse",
    ) -> None:
        check_choice("unseen", unseen, UNSEEN)
        if not separator:
            raise ValueError("separator='': say what stands between the labels of a cell")
        self.classes = {
            target: [_class_name(name) for name in names_of(names)]
            for target, names in (classes or {}).items()
        }
        for target, names in self.classes.items():
            if len(set(names)) < len(names) or len(names) < 2:
                raise ValueError(f"classes.{target}={names}: two classes or more, each once")
        self.separator = separator
        self.unseen = unseen


@dataclass(frozen=True)
class Target:
    """A target column, read.

    Attributes:
        values: int64 [rows], -1 where missing, for classes; float32 [rows], NaN where missing, for
            two classes (0 and 1) and numbers; float32 [rows, labels] for several labels a row.
        labelled: which rows have a label, bool [rows].
        facts: what its task needs to know, see :class:`~mtlrun.data.base.Dataset`.
        remark: what it is, in a few words.
    """

    values: Tensor
    labelled: Tensor
    facts: Facts
    remark: str


def read_target(
    sheet: Sheet, column: str, kind: str | None, training: Bools, settings: TargetSettings
) -> Target:
    """A target column as its task reads it. What is learnt from the data comes from training rows.

    Args:
        sheet: the table.
        column: its name, and the task's.
        kind: ``regression``, ``classification``, ``binary``, ``ordinal`` or ``multi_label``; any
            other leaves it to the data, as None does.
        training: which rows are for training, bool [rows].
        settings: how targets are read.

    Raises:
        UserError: a cell does not fit the kind, or training rows do not show what is to be learnt.
    """
    levels = sheet.levels(column)
    if not (levels.codes >= 0).any():
        raise UserError(f"{sheet.title}: the target {column} is missing in every row.")
    if not (levels.codes[training] >= 0).any():
        raise UserError(f"{sheet.title}: no training row has a value of the target {column}.")
    if kind is not None and kind in READERS:
        chosen = kind
    else:
        chosen = inferred_kind(sheet, column, levels, settings)
    target = READERS[chosen](sheet, column, training, settings)
    if kind is None:
        target.facts["kind"] = chosen
    missing = len(sheet) - int(target.labelled.sum())
    notes = [chosen, *([target.remark] if target.remark else [])]
    notes += [f"{missing:,} missing"] if missing else []
    return Target(target.values, target.labelled, target.facts, f"{column} ({', '.join(notes)})")


def inferred_kind(sheet: Sheet, column: str, levels: Levels, settings: TargetSettings) -> str:
    """What kind of task a target column looks like.

    Two different values are ``binary``. Numbers are a ``regression``, unless they are whole, at
    most 20 different ones, and with 3 rows each on average: then a ``classification``. Texts are
    ``multi_label`` where some cell holds the separator, and a ``classification`` else; either has
    at most 100 different ones, with 3 rows each on average.

    Raises:
        UserError: nothing of this.
    """
    names = levels.names
    rows = int((levels.codes >= 0).sum())
    if len(names) == 1:
        raise UserError(_constant(sheet, column, names[0], "all rows"))
    if len(names) == 2 or len(settings.classes.get(column, ())) == 2:
        return "binary"
    if levels.all_numbers:
        whole = bool((levels.numbers % 1 == 0).all())
        few = len(names) <= min(MANY_NUMBERS, rows / ROWS_A_CLASS)
        return "classification" if column in settings.classes or (whole and few) else "regression"
    stray = levels.stray()
    if stray is not None and column not in settings.classes:
        raise UserError(
            f"{sheet.place(stray, column)}: {_quoted(levels.at(stray))} is no number, and "
            f"nearly all other values of {column} are. Correct the cell or add its mark to "
            f"dataset.missing, or name the kind: dataset.tasks={{{column}: classification}}."
        )
    if any(settings.separator in name for name in names):
        parts = {part for name in names for part in _parts(name, settings.separator)}
        if len(parts) <= CLASSES_OF_TEXTS:
            return "multi_label"
    if column in settings.classes or len(names) <= min(CLASSES_OF_TEXTS, rows / ROWS_A_CLASS):
        return "classification"
    row = levels.first_text() or 0
    raise UserError(
        f"{sheet.place(row, column)}: {_quoted(levels.at(row))} is no number, and "
        f"with {len(names):,} different values in {rows:,} rows it is not clear what is to be "
        f"predicted. Correct the cell or add its mark to dataset.missing, or name the kind: "
        f"dataset.tasks={{{column}: classification}}."
    )


# -- numbers ---------------------------------------------------------------------------------------


def _regression(sheet: Sheet, column: str, training: Bools, settings: TargetSettings) -> Target:
    del settings
    levels = sheet.levels(column)
    numbers = np.append(levels.numbers, np.nan)
    with np.errstate(over="ignore"):
        small = np.isfinite(numbers.astype(np.float32))
    bad = np.flatnonzero(~small[levels.codes] & (levels.codes >= 0))
    if len(bad):
        row = int(bad[0])
        raise UserError(
            f"{sheet.place(row, column)}: {_quoted(levels.at(row))} is no "
            f"finite number, and {column} is a regression. Correct the cell, add its mark to "
            f"dataset.missing, or name another kind: dataset.tasks={{{column}: classification}}."
        )
    values = numbers[levels.codes]
    center, scale = moments(values[training])
    if scale == 0:
        raise UserError(_constant(sheet, column, f"{center:g}", "all training rows"))
    facts = {"center": center, "scale": scale}
    target = torch.from_numpy(values).float()
    return Target(target, ~target.isnan(), facts, levels.written)


def moments(values: Array) -> tuple[float, float]:
    """Mean and standard deviation of the known values; (0, 0) where there are none."""
    known = values[~np.isnan(values)]
    return (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)


# -- classes ---------------------------------------------------------------------------------------


def _classification(sheet: Sheet, column: str, training: Bools, settings: TargetSettings) -> Target:
    codes, names = _classes(sheet, column, training, settings)
    facts: Facts = {"classes": len(names), "class_names": names}
    target = torch.from_numpy(codes)
    return Target(target, target != ABSENT, facts, f"{len(names)} classes")


def _ordinal(sheet: Sheet, column: str, training: Bools, settings: TargetSettings) -> Target:
    row = sheet.levels(column).first_text()
    if row is not None and column not in settings.classes:
        raise UserError(
            f"{sheet.title}: the classes of the ordinal target {column} are texts such as "
            f"{_quoted(sheet.levels(column).at(row))}. Say their order, lowest first: "
            f"dataset.classes={{{column}: [low, medium, high]}}."
        )
    target = _classification(sheet, column, training, settings)
    names = target.facts["class_names"]
    return Target(target.values, target.labelled, target.facts, f"{names[0]} to {names[-1]}")


def _binary(sheet: Sheet, column: str, training: Bools, settings: TargetSettings) -> Target:
    codes, names = _classes(sheet, column, training, settings)
    if len(names) != 2:
        raise UserError(
            f"{sheet.title}: the target {column} is binary, and its training rows have "
            f"{len(names)} different values: {', '.join(names[:5])}"
            f"{', ...' if len(names) > 5 else ''}. Use dataset.tasks={{{column}: classification}}."
        )
    target = torch.from_numpy(np.where(codes == ABSENT, np.nan, codes)).float()
    known = codes[training & (codes != ABSENT)]
    share = float(known.mean())
    facts: Facts = {"class_names": names, "positive_share": share}
    return Target(target, ~target.isnan(), facts, f"{100 * share:.3g} % {names[1]}")


def _classes(
    sheet: Sheet, column: str, training: Bools, settings: TargetSettings
) -> tuple[Array, list[str]]:
    """For each row the number of its class, -1 where missing; and the classes' names.

    Classes are in the order that the user gave; else by number where all are numbers, else by name.
    """
    levels = sheet.levels(column)
    names = [_class_name(name) for name in levels.names]  # of each level; "1" and "1.0" are one
    given = settings.classes.get(column, [])
    order = given or ordered({names[code] for code in _codes_seen(levels, training)})
    if len(order) == 1:
        raise UserError(_constant(sheet, column, order[0], "all training rows"))
    numbers = {name: number for number, name in enumerate(order)}
    table = np.array([*(numbers.get(name, ABSENT) for name in names), ABSENT])
    codes = table[levels.codes]
    strange = np.flatnonzero((codes == ABSENT) & (levels.codes >= 0))
    if len(strange) and settings.unseen == "refuse":
        row = int(strange[0])
        name = names[int(levels.codes[row])]
        raise UserError(_unseen(sheet, row, column, name, given))
    return codes, order


def _codes_seen(levels: Levels, training: Bools) -> list[int]:
    """The values that training rows have."""
    return [int(code) for code in np.unique(levels.codes[training]) if code != ABSENT]


def ordered(names: set[str]) -> list[str]:
    """Names by number where all are numbers, else by name."""
    by_name = sorted(names)
    numbers, _ = numbers_in(by_name)
    if np.isnan(numbers).any():
        return by_name
    return [by_name[place] for place in np.argsort(numbers, kind="stable")]


def _class_name(text: str) -> str:
    """``1.0``, which programs make of ``1`` beside missing cells, is ``1``; ``01`` stays."""
    if not text.isdigit() and is_number(text) and float(text).is_integer():
        return str(int(float(text)))
    return text


def _unseen(sheet: Sheet, row: int, column: str, name: str, given: Sequence[str]) -> str:
    if given:
        why = f"is not among dataset.classes of {column}. {did_you_mean(name, given)}"
        if {"True", "False"} & set(given):
            why += " YAML takes yes and no for True and False: write them in quotes."
    else:
        why = f"is a class of {column} that no training row has."
    return (
        f"{sheet.place(row, column)}: {_quoted(name)} {why} Correct the cell, or count such labels "
        f"as missing by dataset.unseen=missing."
    )


# -- several labels a cell -------------------------------------------------------------------------


def _multi_label(sheet: Sheet, column: str, training: Bools, settings: TargetSettings) -> Target:
    levels = sheet.levels(column)
    parts = [_parts(name, settings.separator) for name in levels.names]
    given = settings.classes.get(column, [])
    seen = _codes_seen(levels, training)
    order = given or ordered({part for code in seen for part in parts[code]})
    if not order:
        raise UserError(f"{sheet.title}: no training row has a label in the target {column}.")
    numbers = {name: number for number, name in enumerate(order)}
    table = np.zeros((len(parts) + 1, len(order)), dtype=np.float32)
    table[-1] = np.nan
    for code, labels in enumerate(parts):
        for label in labels:
            if label in numbers:
                table[code, numbers[label]] = 1
            elif settings.unseen == "refuse":
                row = int(np.flatnonzero(levels.codes == code)[0])
                raise UserError(_unseen(sheet, row, column, label, given))
    target = torch.from_numpy(table[levels.codes])
    share = float(target[torch.from_numpy(training)].nanmean())
    facts: Facts = {"labels": len(order), "label_names": order, "positive_share": share}
    return Target(target, ~target.isnan().all(1), facts, f"{len(order)} labels")


def _parts(text: str, separator: str) -> list[str]:
    """The labels of a cell; none where it is the separator alone."""
    return [part for piece in text.split(separator) if (part := piece.strip())]


# -- messages --------------------------------------------------------------------------------------


def _constant(sheet: Sheet, column: str, value: str, where: str) -> str:
    return (
        f"{sheet.title}: the target {column} is {_quoted(value)} in {where}: there is nothing to "
        "learn. Leave it out of dataset.tasks."
    )


def _quoted(text: str | None) -> str:
    text = text or ""
    return f"'{text if len(text) <= 40 else text[:37] + '...'}'"


READERS: Mapping[str, Callable[[Sheet, str, Bools, TargetSettings], Target]] = {
    "regression": _regression,
    "classification": _classification,
    "ordinal": _ordinal,
    "binary": _binary,
    "multi_label": _multi_label,
}
