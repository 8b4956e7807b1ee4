"""Further rows of a table that a network has learnt from, encoded as its own rows were."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlrun.data.base import NewInputs, TensorSource
from mtlrun.data.table.columns import input_roles, numbers_of
from mtlrun.data.table.inputs import encoded
from mtlrun.data.table.reading import ABSENT, Array, Bools, Paths, Sheet, read_sheet
from mtlrun.data.unknown import unknown_categories
from mtlrun.errors import UserError

SAME = 1e-4
"""How far training rows may move when they are encoded again, beside the new ones: by rounding."""


@dataclass(frozen=True)
class Recipe:
    """How a table was read and encoded.

    New rows are read behind the table's own, so that one and the same code decides on all of them
    how dates, decimal marks and categories are written. What is learnt (means, categories, words)
    comes from the rows that it came from before; that these still give the same inputs is checked.

    Attributes:
        path: of the table.
        reading: further arguments of :func:`~mtlrun.data.table.reading.read_sheet`.
        encoding: arguments of :func:`~mtlrun.data.table.inputs.encoded`.
        kinds: of each input column.
        training: which of the table's rows are for training, bool [rows].
        task_column: whose values are streams, or None.
    """

    path: Paths | None
    reading: Mapping[str, Any]
    encoding: Mapping[str, Any]
    kinds: Mapping[str, str]
    training: Bools
    task_column: str | None

    def encode(self, file: Path, stream: str, own: Tensor) -> NewInputs:
        """The rows of a file.

        Args:
            file: a table with the input columns.
            stream: whose rows are wanted, where there is a ``task_column``.
            own: the stream's training inputs, float32 [rows, columns].

        Returns:
            inputs, float32 [N, columns]; the number of each row in the file, from 1; and a remark
            on each column with categories that no training row has.

        Raises:
            UserError: the file is no such table, or is written in another way.
        """
        needed = [*self.kinds, *([self.task_column] if self.task_column else [])]
        try:
            sheet = read_sheet(self.path, **self.reading, further=file, needed=needed)
            new = sheet.file_of == len(sheet.files) - 1
            if int((~new).sum()) != len(self.training):
                raise UserError(f"{self.path} has changed while it was used.")
            training = np.append(self.training, np.zeros(int(new.sum()), dtype=bool))
            columns = [column for column in sheet.columns if column in self.kinds]
            self._check_numbers(sheet, new)
            roles = input_roles(sheet, columns, self.kinds, training)
        except UserError as error:
            raise UserError(f"{file} cannot be read beside the training table: {error}") from error
        made = encoded(sheet, roles, training, **self.encoding)
        values = made.values[:, : own.shape[1]]  # a longer text than any before is cut
        old = values[torch.from_numpy(self._rows_of(sheet, training, stream))]
        if old.shape != own.shape or not torch.allclose(old, own, rtol=SAME, atol=SAME):
            raise UserError(
                f"{file} is written in another way than the training table {sheet.files[0].path} "
                "(dates, decimal marks or units), or that table has changed. Write it in the same "
                "way."
            )
        rows = self._rows_of(sheet, new, stream)
        if not len(rows):
            where = f" with {self.task_column}={stream}" if self.task_column else ""
            raise UserError(f"{file} has no rows{where}.")
        remarks: list[str] = []
        for column in roles.categorical:
            levels = sheet.levels(column)
            seen = levels.codes[training]
            remarks += unknown_categories(file, column, levels.codes[rows], seen, levels.names)
        source = TensorSource(values[torch.from_numpy(rows)], {})
        return NewInputs(source, (sheet.record_of[rows] + 1).tolist(), remarks)

    def _check_numbers(self, sheet: Sheet, new: Bools) -> None:
        """Refuse numbers and dates that are written in another way than the table's own."""
        for column, kind in self.kinds.items():
            if kind != "numeric" or numbers_of(sheet, column)[0] is not None:
                continue
            levels = sheet.levels(column)
            there = levels.codes != ABSENT
            row = levels.first_text()
            if row is None or not new[row]:
                row = int((there & new).argmax())
            example = levels.at(int((there & ~new).argmax()))
            raise UserError(
                f"{sheet.place(row, column)}: '{levels.at(row)}' is not written as there "
                f"('{example}')."
            )

    def _rows_of(self, sheet: Sheet, wanted: Bools, stream: str) -> Array:
        """The numbers of the rows wanted that are of the stream."""
        if self.task_column is None:
            return np.flatnonzero(wanted)
        levels = sheet.levels(self.task_column)
        if stream not in levels.names:
            return np.flatnonzero(wanted)[:0]
        return np.flatnonzero(wanted & (levels.codes == levels.names.index(stream)))
