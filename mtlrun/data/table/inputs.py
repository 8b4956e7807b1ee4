"""Input columns as one tensor: standardised numbers, codes of categories, tokens of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlrun.data.table.columns import Roles
from mtlrun.data.table.reading import ABSENT, Array, Bools, Sheet
from mtlrun.data.table.targets import moments, ordered
from mtlrun.data.text import Ragged, Vocabulary, words
from mtlrun.types import InputKind

MIN_COUNT = 2
"""Occurrences in training rows from which a word has a number: so the network also meets words
that have none."""


@dataclass(frozen=True)
class OneHot:
    """How rows of numbers and codes become rows of numbers only.

    Attributes:
        numeric: columns that stay as they are, at the front.
        cardinalities: of each column of codes.
    """

    numeric: int
    cardinalities: Sequence[int]

    @property
    def width(self) -> int:
        """Columns afterwards: code 0, missing or unseen, is a row of zeros and takes none."""
        return self.numeric + sum(self.cardinalities) - len(self.cardinalities)

    def expand(self, rows: Tensor) -> Tensor:
        """float32 [N, numeric + codes] to float32 [N, width]."""
        codes = rows[:, self.numeric :].long()
        before = _columns_before(self.numeric, tuple(self.cardinalities), rows.device)
        # One column more takes the ones of code 0, and is cut off.
        places = torch.where(codes > 0, before + codes, self.width)
        expanded = rows.new_zeros(len(rows), self.width + 1)
        expanded[:, : self.numeric] = rows[:, : self.numeric]
        return expanded.scatter_(1, places, 1.0)[:, :-1].contiguous()


@cache
def _columns_before(numeric: int, cardinalities: tuple[int, ...], device: torch.device) -> Tensor:
    """The column before that of code 1 of each column of codes, int64; kept on the device."""
    sizes = torch.tensor(cardinalities) - 1
    return (numeric + sizes.cumsum(0) - sizes - 1).to(device)


@dataclass(frozen=True)
class Inputs:
    """The inputs of all rows.

    Attributes:
        values: float32 [rows, columns], laid out as :data:`~mtlrun.types.InputKind` says.
        kind: of the inputs as the backbone sees them.
        facts: see :data:`~mtlrun.types.InputKind`.
        one_hot: what is still to be done to a batch, or None.
    """

    values: Tensor
    kind: InputKind
    facts: Mapping[str, Any]
    one_hot: OneHot | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input as the backbone sees it."""
        return (self.one_hot.width if self.one_hot else self.values.shape[1],)


def encoded(
    sheet: Sheet, roles: Roles, training: Bools, *, onehot: bool, text_length: int, vocabulary: int
) -> Inputs:
    """All input columns as numbers; what is learnt from the data comes from training rows.

    Numbers are standardised by mean and standard deviation; a missing one is the mean, 0, and where
    a training row misses one, a further column says of each row whether it is missing. Categories
    that no training row has, and missing ones, have code 0. Texts of one row follow one another.

    Args:
        sheet: the table.
        roles: what the columns are.
        training: which rows are for training, bool [rows].
        onehot: whether categories become columns of zeros and ones.
        text_length: tokens of a row that are kept at most.
        vocabulary: words that have a number at most.
    """
    numeric = _standardised(roles, training)
    codes = [_codes(sheet, column, training) for column in roles.categorical]
    cardinalities = [1 + size for _, size in codes]
    blocks = [*numeric, *(code for code, _ in codes)]
    values = np.empty((len(sheet), len(blocks)), dtype=np.float32)
    for place, block in enumerate(blocks):
        values[:, place] = block
    rows = torch.from_numpy(values)
    if not roles.text and not roles.categorical:
        return Inputs(rows, "values", {}, None)
    if onehot:
        return Inputs(rows, "values", {}, OneHot(len(numeric), cardinalities))
    facts = {"numeric": len(numeric), "cardinalities": cardinalities}
    facts |= {"text_length": 0, "vocabulary": 0}
    if roles.text:
        tokens, size = _tokens(sheet, roles.text, training, text_length, vocabulary)
        rows = torch.cat([rows, tokens.float()], dim=1)
        facts |= {"text_length": tokens.shape[1], "vocabulary": size}
    return Inputs(rows, "columns", facts, None)


def _standardised(roles: Roles, training: Bools) -> list[Array]:
    """The numeric columns, and after them those that say what is missing; float64 [rows] each."""
    columns, indicators = [], []
    for numbers in roles.numeric.values():
        mean, deviation = moments(numbers[training])
        absent = np.isnan(numbers)
        columns.append(np.where(absent, 0.0, (numbers - mean) / (deviation or 1.0)))
        if absent[training].any():
            indicators.append(absent.astype(np.float64))
    return columns + indicators


def _codes(sheet: Sheet, column: str, training: Bools) -> tuple[Array, int]:
    """A code for each row, from 1, or 0 where it is missing or unseen; and the largest one."""
    levels = sheet.levels(column)
    seen = {levels.names[code] for code in np.unique(levels.codes[training]) if code != ABSENT}
    numbers = {name: number for number, name in enumerate(ordered(seen), start=1)}
    table = np.array([*(numbers.get(name, 0) for name in levels.names), 0])
    return table[levels.codes], len(numbers)


def _tokens(
    sheet: Sheet, columns: Sequence[str], training: Bools, length: int, largest: int
) -> tuple[Tensor, int]:
    """The words of each row, int64 [rows, tokens], 0 after its last; and how many numbers there
    are."""
    texts: list[list[str]] = [[] for _ in range(len(sheet))]
    for column in columns:
        levels = sheet.levels(column)
        split = [words(name) for name in levels.names] + [[]]
        for text, code in zip(texts, levels.codes.tolist(), strict=True):
            text += split[code]
    known = Vocabulary.of(
        [texts[row] for row in np.flatnonzero(training)], min_count=MIN_COUNT, max_size=largest
    )
    rows = Ragged.of([known.encode(text[:length]) for text in texts])
    return rows.padded(torch.arange(len(sheet))), len(known)
