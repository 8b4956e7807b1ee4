"""Datasets of texts: one or more streams that share a vocabulary."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlrun.data.base import Dataset
from mtlrun.data.encoded_texts import TextSettings
from mtlrun.data.text import Ragged, TokenSource, words
from mtlrun.errors import UserError


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
