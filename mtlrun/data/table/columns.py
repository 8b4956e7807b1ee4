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

AS_DAYS = "as days"
MONTHS = 12

_DATE = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|UTC|[+-]\d\d:?\d\d))?)?", re.ASCII
)
_LOCAL_DATE = re.compile(
    r"(?P<first>\d\d?)(?P<mark>[./-])(?P<second>\d\d?)(?P=mark)\d{4}(?P<time> \d\d?:\d\d(:\d\d)?)?",
    re.ASCII,
)
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Roles:
    """What the input columns are, each in the file's order.

    Attributes:
        numeric: their numbers, float64 [rows], NaN where missing.
        categorical: columns of categories.
        text: columns of text.
        written: for numeric columns that are not written in digits alone, how they are to be read.
        left_out: why a column is no input.
    """

    numeric: Mapping[str, Array]
    categorical: Sequence[str]
    text: Sequence[str]
    written: Mapping[str, str]
    left_out: Mapping[str, str]

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each input column."""
        return {
            **dict.fromkeys(self.numeric, "numeric"),
            **dict.fromkeys(self.categorical, "categorical"),
            **dict.fromkeys(self.text, "text"),
        }


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
    written: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for column in candidates:
        kind = named.get(column)
        numbers = None
        if kind in (None, "numeric"):
            numbers, written[column] = numbers_of(sheet, column)
        if kind is None:
            if numbers is None:
                _check_stray(sheet, column)
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
        {column: words for column, words in written.items() if words and column in numeric},
        left_out,
    )


def numbers_of(sheet: Sheet, column: str) -> tuple[Array | None, str]:
    """A column as float64 [rows], NaN where missing, and how it is read where not as it is written.

    True and false count as 1 and 0; dates (2024-05-31, 2024-05-31T14:30, 31.5.2024, and 5/31/2024
    where its order is clear) as days since 1970.
    None where it is neither these nor numbers.
    """
    series = sheet.frame[column]
    if pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_complex_dtype(series):
        return series.to_numpy(dtype=np.float64, na_value=np.nan), ""
    if isinstance(series.dtype, (np.dtype, pd.DatetimeTZDtype)) and series.dtype.kind == "M":
        return _days(pd.to_datetime(series, utc=True)), AS_DAYS
    levels = sheet.levels(column)
    names = levels.names
    if not names:
        return np.full(len(sheet), np.nan), ""
    if all(name.lower() in _TRUTH for name in names):
        return np.array([*(_TRUTH[name.lower()] for name in names), np.nan])[levels.codes], ""
    for form, words in _date_forms(names):
        dates = pd.to_datetime(pd.Series(names), format=form, utc=True, errors="coerce")
        if not dates.isna().any():
            return np.append(_days(dates), np.nan)[levels.codes], words
    if levels.all_numbers:
        return np.append(levels.numbers, np.nan)[levels.codes], levels.written
    return None, ""


def _date_forms(names: Sequence[str]) -> list[tuple[str, str]]:
    """The form that all of these dates may have, as pandas names it, and words for it; or none.

    Whether 03/04/2024 is in March or April is told by the other dates, or the column is no date.
    """
    if all(_DATE.fullmatch(name) for name in names):
        return [("ISO8601", AS_DAYS)]
    if not all(_LOCAL_DATE.fullmatch(name) for name in names):
        return []
    local = [found for name in names if (found := _LOCAL_DATE.fullmatch(name))]
    marks = {(found["mark"], (found["time"] or "").count(":")) for found in local}
    if len(marks) > 1:
        return []
    mark, colons = marks.pop()
    time = ("", " %H:%M", " %H:%M:%S")[colons]
    forms = []
    if mark == "." or any(int(found["first"]) > MONTHS for found in local):
        forms.append((f"%d{mark}%m{mark}%Y{time}", f"{AS_DAYS}, the day first"))
    elif any(int(found["second"]) > MONTHS for found in local):
        forms.append((f"%m{mark}%d{mark}%Y{time}", f"{AS_DAYS}, the month first"))
    return forms


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


def _check_stray(sheet: Sheet, column: str) -> None:
    levels = sheet.levels(column)
    row = levels.stray()
    if row is not None:
        raise UserError(
            f"{sheet.place(row, column)}: '{levels.at(row)}' is no number, and nearly all other "
            f"values of {column} are. Correct the cell, add its mark to dataset.missing, or say "
            f"what the column is: dataset.categorical=[{column}] or dataset.ignore=[{column}]."
        )


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
