"""Datasets of texts: one or more streams that share a vocabulary."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from mtlrun.data.base import Dataset, NewInputs, NewKind
from mtlrun.data.encoded_texts import TextSettings
from mtlrun.data.files import read_lines
from mtlrun.data.text import Ragged, TokenSource, words
from mtlrun.errors import UserError

TABLES = (".csv", ".tsv", ".parquet", ".pq")
"""Endings of tables that have texts in a column; all other files have one a line."""

TEXT_COLUMN = "text"


@dataclass(frozen=True)
class TextStream:
    """Texts with their targets, and which of them are in which split.

    Attributes:
        texts: one a row.
        targets: for each task, see :class:`~mtlrun.data.text.TokenSource`.
        splits: for each split its rows, int64.
    """

    texts: Sequence[str]
    targets: Mapping[str, Tensor | Ragged]
    splits: Mapping[str, Tensor]


class TextDataset(Dataset):
    """A dataset whose streams are texts in the numbers of one vocabulary.

    Args:
        streams: by name.
        settings: how texts become numbers.
        split: see :meth:`TextSettings.encode`.
        seconds: for all streams' texts, in order, what they are read together with; None where
            there are no pairs.
    """

    new_inputs: ClassVar[NewKind | None] = "texts"

    def __init__(
        self,
        streams: Mapping[str, TextStream],
        settings: TextSettings,
        split: Callable[[str], Sequence[str]] = words,
        seconds: Sequence[str] | None = None,
    ) -> None:
        texts = [text for stream in streams.values() for text in stream.texts]
        starts, start = {}, 0
        for name, stream in streams.items():
            starts[name] = start
            start += len(stream.texts)
        training = torch.cat([s.splits["train"] + starts[name] for name, s in streams.items()])
        encoded = settings.encode(texts, training, split, seconds)
        self.settings, self.split_text, self.words = settings, split, encoded.words
        self.splits = {}
        for name, stream in streams.items():
            rows = torch.arange(len(stream.texts)) + starts[name]
            source = TokenSource(encoded.rows.subset(rows), stream.targets)
            for part, indices in stream.splits.items():
                if not len(indices):
                    raise UserError(
                        f"The {part} split of {name} has none of its {len(rows)} texts. It needs "
                        "more of them, or a larger share."
                    )
                self.splits.setdefault(part, {})[name] = source.subset(indices)
        self.streams = {name: tuple(stream.targets) for name, stream in streams.items()}
        self.input_shape = dict.fromkeys(streams, (encoded.longest,))
        self.input_kind = dict.fromkeys(streams, "tokens" if settings.ngrams == 1 else "bags")
        self.input_facts = {name: {"vocabulary": encoded.vocabulary} for name in streams}
        self.remarks = (encoded.remark,)

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """Texts in the numbers of the vocabulary: a line each, or a cell of a table's column each.

        See :meth:`Dataset.encode`.
        """
        del stream
        if file.suffix.lower() in TABLES:
            texts, places = _column_of(file, column)
        else:
            if column is not None:
                raise UserError(
                    f"{file} has a text a line, and column {column} is asked for, which goes with "
                    f"tables ({', '.join(TABLES)})."
                )
            texts = read_lines(file)
            places = list(range(1, len(texts) + 1))
        if not texts:
            raise UserError(f"{file} has no texts.")
        made = self.settings.encode_new(texts, self.words, self.split_text)
        remarks = [f"{file}: {made.remark}."] if made.remark else []
        return NewInputs(TokenSource(made.rows, {}), places, remarks)


def _column_of(file: Path, column: str | None) -> tuple[list[str], list[int]]:
    """The texts in a table's column, and the number of each one's row; empty cells are left out."""
    from mtlrun.data.table.reading import read_sheet  # pandas, which texts do not need else

    name = TEXT_COLUMN if column is None else column
    sheet = read_sheet(str(file), setting="--input", as_text=[name])
    sheet.require(name, "--column")
    levels = sheet.levels(name)
    found = [(levels.at(row), int(record) + 1) for row, record in enumerate(sheet.record_of)]
    texts = [(text, record) for text, record in found if text is not None]
    return [text for text, _ in texts], [record for _, record in texts]
