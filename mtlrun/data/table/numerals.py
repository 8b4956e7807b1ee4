"""Numbers as people and programs write them into tables: 1e3, 1,234.50, 12,5, $5, 40 %."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LONGEST_NUMBER = 40
"""Characters of a number, at most, to be read with all others at once."""

_UNITS = "$€£¥₹%"
_BLANKS = " \u00a0\u202f"
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FORMATTED = re.compile(
    rf"(?P<sign>[+-]?)(?P<before>[{_UNITS}]?)[{_BLANKS}]?"
    rf"(?P<whole>\d{{1,3}}(?P<mark>[,'{_BLANKS}])\d{{3}}((?P=mark)\d{{3}})*|\d+)"
    rf"(?P<fraction>\.\d+)?[{_BLANKS}]?(?P<after>[{_UNITS}]?)"
)
_WITH_COMMA = re.compile(
    rf"(?P<whole>[+-]?[{_UNITS}]?[{_BLANKS}]?(\d{{1,3}}([.'{_BLANKS}]\d{{3}})+|\d+))"
    rf"(,(?P<fraction>\d+))?(?P<after>[{_BLANKS}]?[{_UNITS}]?)"
)
_THOUSANDS_BY_COMMA = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_THOUSANDS_BY_POINT = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")


def is_number(text: str) -> bool:
    """Whether a cell is a finite number, written in digits and nothing else."""
    return _PLAIN.fullmatch(text) is not None


def numbers_in(texts: Sequence[str]) -> tuple[Array, str]:
    """The finite number that each cell of a column is, NaN where it is none; and how they are
    written, in words, where it is not in digits alone.

    Thousands may be set apart, and all numbers may have one unit: a currency or a percent sign.

    Args:
        texts: the cells, the decimal mark a point.
    """
    # NumPy, as Python, reads 1_000 as a number; a table means something else by it.
    plain = not any("_" in text for text in texts)
    if plain and max(map(len, texts), default=0) <= LONGEST_NUMBER:
        try:
            values = np.array(texts, dtype=np.str_).astype(np.float64)
            values[~np.isfinite(values)] = np.nan
            return values, ""
        except ValueError:  # some of them are texts
            pass
    values = np.array([float(text) if is_number(text) else np.nan for text in texts])
    formatted = {
        place: found
        for place in np.flatnonzero(np.isnan(values)).tolist()
        if (found := _FORMATTED.fullmatch(texts[place]))
    }
    units = {found["before"] + found["after"] for found in formatted.values()}
    if not np.isnan(values).all():
        units.add("")
    if not formatted or len(units) > 1 or len(unit := units.pop()) > 1:
        return values, ""
    for place, found in formatted.items():
        digits = found["whole"].replace(found["mark"], "") if found["mark"] else found["whole"]
        values[place] = float(found["sign"] + digits + (found["fraction"] or ""))
    return values, f"in {unit}" if unit else "with thousands apart"


def decimal_mark(delimiter: str, cells: Sequence[str]) -> str:
    """A comma where numbers are written with it (as Excel does in much of Europe), else a point.

    Where ``1,234`` is all there is to go by, a comma sets thousands apart, but in a file with
    semicolons, which there are because the comma has that other use.

    Args:
        delimiter: of the file.
        cells: some of it.
    """
    if delimiter == ",":
        return "."
    commas = [cell for cell in cells if "," in cell and _WITH_COMMA.fullmatch(cell)]
    points = [cell for cell in cells if "." in cell and _FORMATTED.fullmatch(cell)]
    if any(not _THOUSANDS_BY_POINT.fullmatch(cell) for cell in points):
        return "."
    if any(not _THOUSANDS_BY_COMMA.fullmatch(cell) for cell in commas):
        return ","
    million = any(cell.count(",") > 1 and _THOUSANDS_BY_COMMA.fullmatch(cell) for cell in cells)
    return "," if commas and delimiter == ";" and not million else "."


def with_point(text: str) -> str:
    """A number that is written with a decimal comma as with a point; any other text as it is."""
    found = _WITH_COMMA.fullmatch(text)
    if found is None:
        return text
    fraction = "" if found["fraction"] is None else f".{found['fraction']}"
    return found["whole"].replace(".", "") + fraction + found["after"]
