"""Text files of rows and columns (CSV, TSV and their kin), checked before they are parsed."""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mtlrun.data.files import read_bytes
from mtlrun.data.table.numerals import decimal_mark, is_number, with_point
from mtlrun.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
SAMPLE_RECORDS = 200
"""Records that are looked at to find the delimiter and the decimal mark."""

Array = npt.NDArray[np.int64]

WORKBOOK_MARKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

csv.field_size_limit(2**31 - 1)  # a cell may be a long text


@dataclass(frozen=True)
class Delimited:
    """A file of records, each of as many cells.

    Attributes:
        path: the file.
        content: its bytes as UTF-8, lines ending in a line feed, without a byte order mark.
        delimiter: what stands between cells.
        decimal: the decimal mark, a point or a comma.
        names: of the columns.
        has_header: whether the first record holds them.
        quoted: whether quotation marks hold cells together; else they stand for themselves.
    """

    path: Path
    content: bytes
    delimiter: str
    decimal: str
    names: tuple[str, ...]
    has_header: bool
    quoted: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user may want to know of how it is read."""
        commas = ("decimal commas",) if self.decimal == "," else ()
        return commas if self.quoted else (*commas, "quotation marks that stand for themselves")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """For each record that is not blank, header first, its first line (from 1) and cells."""
        return _records(self.path, self.content, self.delimiter, self.quoted)

    def line_of(self, record: int) -> int:
        """The line, as an editor counts, on which a record starts; records count from 0, without
        the header."""
        line, _ = next(islice(self.records(), record + self.has_header, None))
        return line

    def frame(self, missing: Sequence[str], as_text: Sequence[str]) -> pd.DataFrame:
        """The records: columns of numbers, of booleans, or of text (or objects), NaN where missing.

        Args:
            missing: cells that say that nothing is known.
            as_text: columns whose cells are kept as they are written.

        Raises:
            UserError: a record has too many or too few cells, or a quote is left open.
        """
        self._check_widths()
        texts = [name for name in as_text if name in self.names]
        try:
            frame = pd.read_csv(
                io.BytesIO(self.content),
                sep=self.delimiter,
                header=0 if self.has_header else None,
                names=list(self.names),
                index_col=False,
                dtype=dict.fromkeys(texts, str),
                na_values=list(missing),
                keep_default_na=False,
                quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
                skipinitialspace=True,
                decimal=self.decimal,
                low_memory=False,  # a column's type is that of all its cells
                encoding="utf-8",
            )
        except pd.errors.ParserError as error:
            *_, (line, _) = self.records()  # the last one has swallowed all lines after it
            raise UserError(
                f"{self.path}, line {line}: a quotation mark is opened and never closed "
                f"({str(error).strip()})."
            ) from error
        if self.decimal == ",":
            for name in frame.columns[[not is_numeric_dtype(of) for of in frame.dtypes]]:
                frame[name] = frame[name].map(with_point, na_action="ignore")
        return frame

    def _check_widths(self) -> None:
        width = len(self.names)
        if self.quoted and b'"' in self.content:  # a cell may then hold delimiters and line ends
            for line, cells in self.records():
                if len(cells) != width:
                    swallowed = any("\n" in cell for cell in cells)
                    raise UserError(self._ragged(line, len(cells), swallowed))
            return
        lines, cells_of = _cells_of_lines(self.content, self.delimiter)
        bad = np.flatnonzero(cells_of != width)
        if len(bad):
            raise UserError(self._ragged(int(lines[bad[0]]) + 1, int(cells_of[bad[0]])))

    def _ragged(self, line: int, cells: int, swallowed: bool = False) -> str:
        rows = (len(cells) for _, cells in islice(self.records(), 1, None))
        if self.has_header and cells == len(self.names) + 1 and all(own == cells for own in rows):
            hint = (
                "So has every row: give the header one name more, for example a first one where "
                "rows begin with their name or number."
            )
        elif swallowed:
            hint = "A quotation mark on it goes on over the next lines: is it closed too late?"
        else:
            hint = (
                f"Correct the line; a cell that holds {_DELIMITER_NAMES[self.delimiter]} must "
                "stand in double quotes."
            )
        named = "the header names" if self.has_header else "dataset.columns names"
        return (
            f"{self.path}, line {line}: it has {_cells(cells)}, and {named} "
            f"{len(self.names)} columns. {hint}"
        )


_DELIMITER_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


def _cells(number: int) -> str:
    return f"{number} cell" if number == 1 else f"{number} cells"


def open_delimited(path: Path, encoding: str, columns: Sequence[str] | None) -> Delimited:
    """Read a file, and find out how it is laid out.

    Args:
        path: the file, plain or gzip.
        encoding: of its text.
        columns: names of the columns where it has no header line, else None.

    Raises:
        UserError: it is no text, in another encoding, or empty; or names are wrong.
    """
    content = _as_utf8(path, read_bytes(path), encoding)
    if not content.strip():
        raise UserError(f"{path} is empty.")
    delimiter = _delimiter(path, content)
    quoted = not _quotes_are_text(path, content, delimiter, columns is None)
    sample = list(islice(_records(path, content, delimiter, quoted), SAMPLE_RECORDS))
    line, first = sample[0]
    if columns is None:
        cells = [cell.strip() for cell in first]
        names = [cell or f"unnamed {place}" for place, cell in enumerate(cells, start=1)]
        source = f"{path}, line {line}"
        rows = [cells for _, cells in sample[1:]]
    else:
        names, source, rows = list(columns), "dataset.columns", []
        rows = [cells for _, cells in sample]
        if len(first) != len(names):
            raise UserError(
                f"dataset.columns names {len(names)} columns, and {path} has {len(first)}."
            )
    if len(names) == 1:
        raise UserError(
            f"{path}, line {line}: there is one column only, {first[0].strip()[:40]!r}. Columns "
            "must stand apart by commas, semicolons, tabs or bars, on the first line as well."
        )
    for name, count in Counter(names).items():
        if count > 1:
            hint = ""
            if columns is None and any(is_number(cell) for cell in names):
                hint = " Where the file has no header line, name its columns by dataset.columns."
            raise UserError(
                f"{source}: {count} columns are called {name}. Rename all but one.{hint}"
            )
    decimal = decimal_mark(delimiter, [cell.strip() for row in rows for cell in row])
    return Delimited(path, content, delimiter, decimal, tuple(names), columns is None, quoted)


def _cells_of_lines(content: bytes, delimiter: str) -> tuple[Array, Array]:
    """For each line that is not blank its number, from 0, and its cells, quotation marks aside."""
    data = np.frombuffer(content, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if not content.endswith(b"\n"):
        ends = np.append(ends, len(data))
    marks = np.flatnonzero(data == ord(delimiter))
    cells = 1 + np.diff(np.searchsorted(marks, ends), prepend=0)
    starts = np.append(0, ends[:-1] + 1)
    blank = [
        line
        for line in np.flatnonzero(cells == 1).tolist()
        if not content[starts[line] : ends[line]].strip()
    ]
    lines = np.delete(np.arange(len(ends)), blank)
    return lines, cells[lines]


def _quotes_are_text(path: Path, content: bytes, delimiter: str, header: bool) -> bool:
    """Whether quotation marks join lines that are whole records without them.

    So it is in tables of sentences that were written without quoting: a sentence that begins with a
    mark would swallow all others up to the next one. In a file with commas or semicolons, whose
    cells may well hold these, some mark must also stand where quoting has none.
    """
    if b'"' not in content or (header and b'"' in content.lstrip().split(b"\n", 1)[0]):
        return False
    lines, cells = _cells_of_lines(content, delimiter)
    if cells[0] == 1 or (cells != cells[0]).any():
        return False
    try:
        joined = sum(1 for _ in _records(path, content, delimiter)) < len(lines)
        if joined and delimiter in ",;":
            for _ in _records(path, content, delimiter, strict=True):
                pass
    except UserError:
        return True
    return joined and delimiter not in ",;"


def _records(
    path: Path, content: bytes, delimiter: str, quoted: bool = True, *, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="")
    reader = csv.reader(
        text,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        skipinitialspace=True,
        strict=strict,
    )
    line = 1
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: this record cannot be read ({error}). Is a quotation mark "
            "opened and never closed?"
        ) from error


def _as_utf8(path: Path, content: bytes, encoding: str) -> bytes:
    """A file's text as UTF-8 with line feeds."""
    if content.startswith(WORKBOOK_MARKS):
        raise UserError(f"{path} is an Excel workbook or a zip archive. Save its table as CSV.")
    try:
        codec = codecs.lookup(encoding).name
    except LookupError as error:
        raise UserError(
            f"dataset.encoding={encoding}: there is no such encoding. Use utf-8, latin-1, cp1252 "
            "or utf-16."
        ) from error
    try:
        text = content.decode(codec)
    except UnicodeError as error:
        raise UserError(_wrong_encoding(path, content, encoding, error)) from error
    if codec != "utf-8":
        content = text.encode("utf-8")
    if b"\0" in content:
        raise UserError(
            f"{path} holds zero bytes: it is no text file in encoding {encoding}. Save its table "
            "as CSV."
        )
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content.removeprefix(codecs.BOM_UTF8)


def _wrong_encoding(path: Path, content: bytes, encoding: str, error: UnicodeError) -> str:
    if content.startswith(UTF16_MARKS):
        return f"{path} is not in encoding {encoding}. Add dataset.encoding=utf-16."
    if not isinstance(error, UnicodeDecodeError):
        return f"{path} is not in encoding {encoding}: {error}."
    line = content[: error.start].count(b"\n") + 1
    place = error.start - content[: error.start].rfind(b"\n")
    return (
        f"{path}, line {line}: byte {place} of the line, {content[error.start]:#x}, is not in "
        f"encoding {encoding}. Add dataset.encoding=cp1252 (which Excel writes in Western Europe) "
        "or the file's own, or save it as UTF-8."
    )


def _delimiter(path: Path, content: bytes) -> str:
    """The delimiter that gives the header several cells, and most records as many."""
    head = content[: 1 << 18]
    if len(head) < len(content):
        head = head[: head.rfind(b"\n") + 1] or content
    best, best_score = DELIMITERS[0], (0.0, 0)
    for delimiter in DELIMITERS:
        try:
            widths = [
                len(cells) for _, cells in islice(_records(path, head, delimiter), SAMPLE_RECORDS)
            ]
        except UserError:  # a quote left open is told of with the delimiter that is chosen
            continue
        if widths[0] > 1:
            alike = round(widths.count(widths[0]) / len(widths), 1)
            best, best_score = max((best, best_score), (delimiter, (alike, widths[0])), key=_score)
    return best


def _score(found: tuple[str, tuple[float, int]]) -> tuple[float, int]:
    return found[1]
