"""Tables in memory: one file or several, and where each row came from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtlrun.data.table.delimited import Delimited, open_delimited
from mtlrun.data.table.numerals import is_number, numbers_in
from mtlrun.errors import UserError, did_you_mean, nearest_hint

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Paths = str | Sequence[str] | Mapping[str, str | Sequence[str]]

ABSENT = -1
"""The code of a missing cell."""

MANY_NUMBERS = 20
"""Different whole numbers up to which they may stand for classes; above, they measure something."""

NOT_FINITE = ("nan", "inf", "infinity")


@dataclass(frozen=True)
class Levels:
    """A column by its different values.

    Attributes:
        codes: for each row the number of its value, -1 where it is missing; int64 [rows].
        names: the values as they are written, without spaces around them.
    """

    codes: Array
    names: tuple[str, ...]

    @cached_property
    def _numbers(self) -> tuple[Array, str]:
        return numbers_in(self.names)

    @property
    def numbers(self) -> Array:
        """The finite number that each value is, NaN where it is none; float64 [values]."""
        return self._numbers[0]

    @property
    def written(self) -> str:
        """How the numbers are written, in words, where it is not in digits alone."""
        return self._numbers[1]

    @property
    def all_numbers(self) -> bool:
        """Whether every value is a number."""
        return not np.isnan(self.numbers).any()

    def first_text(self) -> int | None:
        """The first row whose value is there and is no number."""
        rows = np.flatnonzero(np.append(np.isnan(self.numbers), False)[self.codes])
        return int(rows[0]) if len(rows) else None

    def stray(self) -> int | None:
        """The first row of a text among numbers, where hardly any other value is a text.

        None where there is no such row; and where the numbers may stand for categories: whole, and
        at most 20 different ones.
        """
        texts = np.isnan(self.numbers)
        if texts.all() or not texts.any():
            return None
        known = self.numbers[~texts]
        mistaken = [name for name, text in zip(self.names, texts, strict=True) if text]
        if not all(name.lower().lstrip("+-") in NOT_FINITE for name in mistaken):
            if len(known) <= MANY_NUMBERS and (known % 1 == 0).all():
                return None
            rows = np.bincount(self.codes[self.codes >= 0], minlength=len(texts))
            share = 0.5 if len(mistaken) <= 2 else 0.1
            if rows[texts].sum() > share * rows.sum():
                return None
        return self.first_text()

    def at(self, row: int) -> str | None:
        """The value of a row, None where it is missing."""
        code = int(self.codes[row])
        return self.names[code] if code != ABSENT else None


class TableFile(Protocol):
    """A file that a table was read from."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user may want to know of how it is read."""

    def frame(self, missing: Sequence[str], as_text: Sequence[str]) -> pd.DataFrame:
        """Its rows; see :meth:`Delimited.frame`."""


@dataclass(frozen=True)
class Parquet:
    """A parquet file.

    Attributes:
        path: the file.
        whole: its rows.
        notes: none.
    """

    path: Path
    whole: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns."""
        return tuple(str(name) for name in self.whole.columns)

    def frame(self, missing: Sequence[str], as_text: Sequence[str]) -> pd.DataFrame:
        """Its rows; types are the file's own."""
        del as_text
        frame = self.whole.set_axis(list(self.names), axis=1)
        for name in self.names:
            if isinstance(frame[name].dtype, (pd.StringDtype, pd.CategoricalDtype)) or (
                frame[name].dtype == object
            ):
                frame[name] = frame[name].astype(object).where(~frame[name].isin(missing), np.nan)
        return frame


@dataclass
class Sheet:
    """A table, and where each of its rows came from.

    Attributes:
        frame: columns by name, rows numbered from 0.
        files: what it was read from.
        file_of: for each row its file's number, int64 [rows].
        record_of: for each row its number in the file, from 0, int64 [rows].
        parts: for each split the rows of its files, where files are splits; else None.
        missing: cells that say that nothing is known.
    """

    frame: pd.DataFrame
    files: Sequence[TableFile]
    file_of: Array
    record_of: Array
    parts: Mapping[str, Array] | None
    missing: Sequence[str]
    _levels: dict[str, Levels] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the file's order."""
        return [str(name) for name in self.frame.columns]

    @property
    def notes(self) -> str:
        """What the user may want to know of how files were read, for a line's end, or nothing."""
        notes = dict.fromkeys(note for file in self.files for note in file.notes)
        return f", with {' and '.join(notes)}" if notes else ""

    @property
    def title(self) -> str:
        """The file, or the files, for messages."""
        return ", ".join(str(file.path) for file in self.files)

    def place(self, row: int, column: str | None = None) -> str:
        """Where a row is: the file, its line as an editor counts, and the column."""
        file, record = self.files[int(self.file_of[row])], int(self.record_of[row])
        if isinstance(file, Delimited):
            where = f"line {file.line_of(record)}"
        else:
            where = f"row {record + 1}"
        return f"{file.path}, {where}" + (f", column {column}" if column is not None else "")

    def levels(self, column: str) -> Levels:
        """A column by its different values, in the order of their first rows.

        Raises:
            UserError: it holds lists, or other things that are neither numbers nor text.
        """
        if column not in self._levels:
            try:
                codes, uniques = pd.factorize(self.frame[column])
            except TypeError as error:
                raise UserError(
                    f"{self.title}: column {column} holds values that are neither numbers nor text "
                    f"({error}). Name it in dataset.ignore, or convert it."
                ) from error
            numbers: dict[str, int] = {}
            table = []
            for text in map(str.strip, uniques.astype(str).tolist()):
                known = text not in self.missing
                table.append(numbers.setdefault(text, len(numbers)) if known else ABSENT)
            merged = np.array([*table, ABSENT], dtype=np.int64)[codes]  # -1 takes the last
            self._levels[column] = Levels(merged, tuple(numbers))
        return self._levels[column]

    def require(self, column: str, setting: str) -> None:
        """Check that there is such a column.

        Raises:
            UserError: there is none.
        """
        if column not in self.columns:
            hint = ""
            if any(is_number(name) for name in self.columns):
                hint = " Where the file has no header line, name its columns by dataset.columns."
            raise UserError(
                f"{setting}: {self.title} has no column {column}. "
                f"{did_you_mean(column, self.columns)}{hint}"
            )


def read_sheet(
    path: Paths | None,
    *,
    setting: str = "dataset.path",
    encoding: str = "utf-8",
    missing: Sequence[str] = (),
    as_text: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    further: Path | None = None,
    needed: Sequence[str] = (),
) -> Sheet:
    """Read a table.

    Args:
        path: a file; a list of files, whose rows follow one another; or for each split its file or
            files. Relative paths count from the working directory.
        setting: how the user calls ``path``.
        encoding: of text files.
        missing: cells that say that nothing is known, as empty ones always do.
        as_text: columns whose cells are kept as they are written.
        columns: names of the columns where text files have no header line.
        further: a file whose rows follow all others. Columns that only it has are left out.
        needed: columns that it must have; those that it lacks are missing in its rows.

    Raises:
        UserError: a file is not there, or is no such table; files differ in their columns.
    """
    listed = _listed(path, setting)
    missing = ("", *missing)
    files = [_opened(Path(name).expanduser(), setting, encoding, columns) for _, name in listed]
    for file in files[1:]:
        if set(file.names) != set(files[0].names):
            odd = sorted(set(file.names) ^ set(files[0].names))
            raise UserError(
                f"{file.path} and {files[0].path} have different columns: only one of them has "
                f"{', '.join(odd[:5])}."
            )
    if further is not None:
        files.append(_opened(further, "--input", encoding, columns))
        lacking = [name for name in needed if name not in files[-1].names]
        if lacking:
            raise UserError(
                f"{further} lacks the column{'s' if lacking[1:] else ''} {', '.join(lacking[:5])}, "
                f"which {files[0].path} has and predictions are made from."
            )
    first = list(files[0].names)
    frames = [_ordered(file.frame(missing, as_text), first) for file in files]
    mixed = _of_mixed_types(frames)
    if mixed:
        texts = [*as_text, *mixed]
        frames = [_ordered(file.frame(missing, texts), first) for file in files]
        frames = [frame.astype(dict.fromkeys(mixed, object)) for frame in frames]
    whole = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    lengths = [len(frame) for frame in frames]
    file_of = np.repeat(np.arange(len(files)), lengths)
    record_of = np.concatenate([np.arange(length) for length in lengths])
    kept = ~whole.isna().all(axis=1).to_numpy()  # a row of delimiters only, as Excel leaves them
    if not kept.all():
        whole, file_of, record_of = (
            whole[kept].reset_index(drop=True),
            file_of[kept],
            record_of[kept],
        )
    if not len(whole):
        raise UserError(f"{', '.join(str(file.path) for file in files)} has no rows.")
    parts = None
    if isinstance(path, Mapping) and further is None:
        splits = np.array([split for split, _ in listed])[file_of]
        parts = {split: np.flatnonzero(splits == split) for split in path}
    return Sheet(whole, files, file_of, record_of, parts, missing)


def _ordered(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A frame with the columns named, missing where it lacks them."""
    return frame if list(frame.columns) == names else frame.reindex(columns=list(names))


def _listed(path: Paths | None, setting: str) -> list[tuple[str, str]]:
    """The files named, each with its split, or with nothing."""
    if path is None or not path:
        raise UserError(
            f"{setting} names no file. Say which one to read and which of its columns to predict: "
            "mtlrun dataset=table dataset.path=houses.csv 'dataset.tasks=[price,sold]'."
        )
    if isinstance(path, str):
        return [("", path)]
    if isinstance(path, Mapping):
        named = [
            (split, name)
            for split, names in path.items()
            for name in ([names] if isinstance(names, str) else names or ())
        ]
    else:
        named = [("", str(name)) for name in path]
    names = [name for _, name in named]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{setting} names {name} twice. Name each file once.")
    return named


def _opened(path: Path, setting: str, encoding: str, columns: Sequence[str] | None) -> TableFile:
    if not path.is_file():
        raise UserError(_absent(path, setting))
    if path.suffix not in (".parquet", ".pq"):
        return open_delimited(path, encoding, columns)
    try:
        whole = pd.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        raise UserError(
            f"{path} is a parquet file, which needs the package pyarrow: "
            "pip install 'mtlrun[parquet]'. Or save the table as CSV."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or is no parquet file ({error}).") from error
    file = Parquet(path, whole.reset_index(drop=True))
    for name, count in Counter(file.names).items():
        if count > 1:
            raise UserError(f"{path}: {count} columns are called {name}. Rename all but one.")
    return file


def _absent(path: Path, setting: str) -> str:
    if path.is_dir():
        return f"{setting}={path} is a folder. Name the file in it."
    place = "" if path.is_absolute() else f" (it counts from {Path.cwd()})"
    hint = ""
    if path.parent.is_dir():
        hint = nearest_hint(path.name, [entry.name for entry in path.parent.iterdir()], 0.7)
    return f"{setting}={path}: there is no such file{place}. {hint}".rstrip()


def _of_mixed_types(frames: Sequence[pd.DataFrame]) -> list[str]:
    """Columns that hold numbers in one file and text in another."""
    return [
        str(name)
        for name in frames[0].columns
        if len({pd.api.types.is_numeric_dtype(frame[name].dtype) for frame in frames}) > 1
    ]
