"""Small tables of numbers as pictures: a shade and the number in each cell."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CELL = (52, 26)
"""Width and height of a cell, in pixels."""

MARGIN = 6
LONGEST_LABEL = 24
FONT_SIZE = 13
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
LOW, MIDDLE, HIGH = (178, 58, 46), (247, 247, 247), (33, 84, 143)
"""Colours of the most negative value, of 0, and of the largest value."""


def heatmap(
    rows: Sequence[str], columns: Sequence[str], values: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """A picture of a table, uint8 [height, width, 3]; the darkest shade is the largest size.

    NaN and infinite values get no shade.

    Args:
        rows: their names.
        columns: their names.
        values: [rows, columns].
    """
    font = ImageFont.load_default(FONT_SIZE)
    left = MARGIN + max(_width(font, _short(name)) for name in rows) + MARGIN
    numbers = [[f"{value:.3g}" for value in line] for line in values.tolist()]
    shown = [_short(name) for name in columns] + [text for line in numbers for text in line]
    widest = max(_width(font, text) for text in shown)
    cell = max(CELL[0], min(widest, 3 * CELL[0]) + MARGIN), CELL[1]
    size = (left + cell[0] * len(columns) + MARGIN, CELL[1] * (len(rows) + 1) + MARGIN)
    picture = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(picture)
    for number, name in enumerate(columns):
        middle = left + cell[0] * (number + 0.5)
        draw.text((middle, CELL[1] / 2), _short(name), BLACK, font, anchor="mm")
    shares = np.where(np.isfinite(values), values, 0.0)
    shares = shares / (np.abs(shares).max() or 1.0)
    for line, name in enumerate(rows):
        top = CELL[1] * (line + 1)
        draw.text((left - MARGIN, top + CELL[1] / 2), _short(name), BLACK, font, anchor="rm")
        for number in range(len(columns)):
            share = float(shares[line, number])
            corner = left + cell[0] * number
            shade = _shade(share)
            draw.rectangle((corner, top, corner + cell[0] - 2, top + CELL[1] - 2), fill=shade)
            ink = WHITE if abs(share) > 0.6 else BLACK
            centre = (corner + cell[0] / 2, top + CELL[1] / 2)
            draw.text(centre, numbers[line][number], ink, font, anchor="mm")
    return np.asarray(picture)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"


def _width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    return int(font.getlength(text)) + 1


def _shade(value: float) -> tuple[int, int, int]:
    """The colour of a value between -1 and 1."""
    end = HIGH if value >= 0 else LOW
    share = abs(value)
    red, green, blue = (round(m + (e - m) * share) for m, e in zip(MIDDLE, end, strict=True))
    return red, green, blue
