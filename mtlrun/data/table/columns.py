"""Input columns: what each holds, where the user leaves it open."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mtlrun.data.table.reading import ABSENT, Array, Bools, Sheet
from mtlrun.errors import UserError

WORDS_OF_TEXT = 4
"""Words a cell, on average, from which a column is taken for text."""

CATEGORIES = 100
"""Different values up to which a column of several words a cell may still be categories."""

ROWS_OF_NUMBERING = 20
"""Rows from which numbers that go up by one from row to row are taken for row numbers."""

_DATE = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|UTC|[+-]\d\d:?\d\d))?)?", re.ASCII
)
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Roles:
    """What the input columns are, each in the file's order.

    Attributes:
        numeric: their numbers, float64 [rows], NaN where missing.
        categorical: columns of categories.
        text: columns of text.
        dates: those of the numeric columns that are dates, as days since 1970.
        left_out: why a column is no input.
    """

    numeric: Mapping[str, Array]
    categorical: Sequence[str]
    text: Sequence[str]
    dates: Sequence[str]
    left_out: Mapping[str, str]


def input_roles(
    sheet: Sheet, candidates: Sequence[str], named: Mapping[str, str], training: Bools
) -> Roles:
    """Decide what each input column is.

    Args:
        sheet: the table.
        candidates: the columns that may be inputs.
        named: for columns whose kind the user named ``numeric``, ``categorical`` or ``text``.
        training: which rows are for training, bool [rows].

    Raises:
        UserError: a numeric column holds text or infinities.
    """
    numeric: dict[str, Array] = {}
    kinds: dict[str, str] = {}
    dates: list[str] = []
    left_out: dict[str, str] = {}
    for column in candidates:
        kind = named.get(column)
        numbers = None
        if kind in (None, "numeric"):
            numbers, is_date = numbers_of(sheet, column)
            dates += [column] if is_date else []
        if kind is None:
            reason = _useless(sheet, column, numbers, training)
            if reason is not None:
                left_out[column] = reason
                continue
            kind = "numeric" if numbers is not None else _kind_of_text(sheet, column, training)
            if kind is None:
                left_out[column] = "nearly all different"
                continue
        kinds[column] = kind
        if kind == "numeric":
            if numbers is None:
                raise UserError(_text_among_numbers(sheet, column))
            _check_finite(sheet, column, numbers)
            numeric[column] = numbers
    return Roles(
        numeric,
        [column for column, kind in kinds.items() if kind == "categorical"],
        [column for column, kind in kinds.items() if kind == "text"],
        [column for column in dates if column in numeric],
        left_out,
    )


def numbers_of(sheet: Sheet, column: str) -> tuple[Array | None, bool]:
    """A column as float64 [rows], NaN where missing, and whether it holds dates.

    True and false count as 1 and 0, ISO dates (2024-05-31, 2024-05-31T14:30) as days since 1970.
    None where it is neither these nor numbers.
    """
    series = sheet.frame[column]
    if pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_complex_dtype(series):
        return series.to_numpy(dtype=np.float64, na_value=np.nan), False
    if isinstance(series.dtype, (np.dtype, pd.DatetimeTZDtype)) and series.dtype.kind == "M":
        return _days(pd.to_datetime(series, utc=True)), True
    levels = sheet.levels(column)
    names = levels.names
    if not names:
        return np.full(len(sheet), np.nan), False
    if all(name.lower() in _TRUTH for name in names):
        return np.array([*(_TRUTH[name.lower()] for name in names), np.nan])[levels.codes], False
    if levels.all_numbers:  # of parquet, where they may be written as text
        return np.append(levels.numbers, np.nan)[levels.codes], False
    if all(_DATE.fullmatch(name) for name in names):
        dates = pd.to_datetime(pd.Series(names), format="ISO8601", utc=True, errors="coerce")
        if not dates.isna().any():
            return np.append(_days(dates), np.nan)[levels.codes], True
    return None, False


def _days(dates: "pd.Series[pd.Timestamp]") -> Array:
    since = dates - pd.Timestamp("1970-01-01", tz="UTC")
    return (since / pd.Timedelta(days=1)).to_numpy(dtype=np.float64, na_value=np.nan)


def _useless(sheet: Sheet, column: str, numbers: Array | None, training: Bools) -> str | None:
    """Why a column says nothing that could be learnt; None where it may."""
    if numbers is not None:
        seen = numbers[training]
        known = seen[~np.isnan(seen)]
        if not len(known):
            return "missing in all training rows"
        if len(known) == len(seen) and (known == known[0]).all():
            return "constant"
        if _numbers_rows(sheet, column):
            return "numbers the rows"
        return None
    codes = sheet.levels(column).codes[training]
    different = np.unique(codes[codes != ABSENT])
    if not len(different):
        return "missing in all training rows"
    if len(different) == 1 and (codes != ABSENT).all():
        return "constant"
    names = sheet.levels(column).names
    if len(different) == len(codes) > 1 and not any(" " in names[code] for code in different):
        return "all different"
    return None


def _numbers_rows(sheet: Sheet, column: str) -> bool:
    """Whether whole numbers go up by one from row to row, or name no column and are all different,
    as programs write them beside a table."""
    series = sheet.frame[column]
    if not pd.api.types.is_integer_dtype(series.dtype) or series.isna().any():
        return False
    values = series.to_numpy(dtype=np.float64)
    if column.startswith("unnamed "):
        return len(np.unique(values)) == len(values)
    return len(values) >= ROWS_OF_NUMBERING and bool((np.diff(values) == 1).all())


def _kind_of_text(sheet: Sheet, column: str, training: Bools) -> str | None:
    """``text`` where cells have many words, ``categorical`` where values repeat, else None.

    A column of a few words a cell is text where its values hardly repeat, or there are many.
    """
    levels = sheet.levels(column)
    codes = levels.codes[training]
    different = np.unique(codes[codes != ABSENT])
    repeated = 2 * len(different) <= int((codes != ABSENT).sum())
    word_counts = [len(levels.names[code].split()) for code in different[:1000]]
    wordy = float(np.mean(word_counts)) >= WORDS_OF_TEXT
    if wordy and (not repeated or len(different) > CATEGORIES):
        return "text"
    return "categorical" if repeated else None


def _check_finite(sheet: Sheet, column: str, numbers: Array) -> None:
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(numbers.astype(np.float32)) & ~np.isnan(numbers))
    if len(bad):
        row = int(bad[0])
        raise UserError(
            f"{sheet.place(row, column)}: {numbers[row]} is no finite number. Correct "
            "the cell, or add its mark to dataset.missing."
        )


def _text_among_numbers(sheet: Sheet, column: str) -> str:
    levels = sheet.levels(column)
    row = levels.first_text() or 0
    return (
        f"{sheet.place(row, column)}: '{levels.at(row)}' is no number, and "
        f"dataset.numeric names {column}. Correct the cell, or add its mark to dataset.missing."
    )
