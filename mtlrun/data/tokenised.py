"""A dataset's texts as rows of numbers: tokenised once, kept in the user's cache."""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from inspect import getmodule, getsource
from pathlib import Path
from unicodedata import unidata_version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlrun.data.files import user_cache
from mtlrun.data.text import UNKNOWN, Ragged, Vocabulary, words
from mtlrun.durable import replace_file

FORMAT = 2
"""Raised when the same texts would be tokenised or kept otherwise than before."""

CACHED_FROM = 2**20
"""Characters of all texts from which on their tokens are kept on disk."""


@dataclass(frozen=True)
class Corpus:
    """Texts, each a row of tokens.

    Attributes:
        lexicon: the distinct tokens.
        tokens: for each text the places of its tokens in ``lexicon``.
        single: how many of ``lexicon``, from the first on, are tokens of the text; what follows are
            pairs of them.
    """

    lexicon: tuple[str, ...]
    tokens: Ragged
    single: int

    @classmethod
    def of(cls, texts: Sequence[str], split: Callable[[str], Sequence[str]] = words) -> "Corpus":
        """The texts, tokenised by ``split``, or read from the user's cache.

        Args:
            texts: one a row.
            split: a function of a module that gives a text's tokens, none with a space in it.
        """
        settings = {
            "split": f"{split.__module__}.{split.__qualname__}",
            "source": _source(split),
            "unicode": unidata_version,  # of this Python: what a letter is
        }
        found = cached(settings, texts, len(texts), lambda: _tokenised(texts, split))
        lexicon = tuple(found["lexicon"].tobytes().decode("utf-8", "surrogatepass").split("\n"))
        tokens = Ragged(torch.from_numpy(found["values"]), torch.from_numpy(found["offsets"]))
        return cls(lexicon, tokens, len(lexicon))

    def truncated(self, length: int | None) -> "Corpus":
        """The first ``length`` tokens of each text; None for all."""
        return replace(self, tokens=self.tokens.truncated(length))

    def with_bigrams(self, training: Tensor, min_count: int) -> "Corpus":
        """The same texts with the pairs of neighbouring tokens behind the tokens of each.

        Args:
            training: int64, the rows that decide which pairs there are.
            min_count: leave out pairs that occur less often in them.
        """
        values, offsets = self.tokens.values.long(), self.tokens.offsets
        paired = torch.ones(len(values), dtype=torch.bool)
        paired[offsets[1:][self.tokens.lengths > 0] - 1] = False  # the last of its row
        codes = (values * self.single + values.roll(-1))[paired]
        distinct, place = codes.unique(return_inverse=True)
        before = torch.cat([offsets.new_zeros(1), paired.cumsum(0)])
        pairs = Ragged(place.int(), before[offsets])
        counts = pairs.subset(training).values.bincount(minlength=len(distinct))
        kept = counts >= min_count
        names = [
            f"{self.lexicon[code // self.single]} {self.lexicon[code % self.single]}"
            for code in distinct[kept].tolist()
        ]
        numbers = (self.single - 1 + kept.cumsum(0)).int()
        pairs = Ragged(numbers[place], pairs.offsets).keep(kept[place])
        return Corpus((*self.lexicon, *names), _side_by_side(self.tokens, pairs), self.single)

    def numbered(
        self, training: Tensor, min_count: int = 1, max_size: int | None = None
    ) -> tuple[Ragged, Vocabulary]:
        """The texts in the numbers of a vocabulary that is made from some of them.

        Pairs that are not in the vocabulary are left out; a text without tokens becomes one unknown
        word.

        Args:
            training: int64, the rows that the vocabulary is made from.
            min_count: see :meth:`Vocabulary.of`; likewise ``max_size``.
        """
        counts = self.tokens.subset(training).values.bincount(minlength=len(self.lexicon))
        occurring = zip(self.lexicon, counts.tolist(), strict=True)
        vocabulary = Vocabulary.counted(dict(occurring), min_count, max_size)
        return self.in_numbers_of(vocabulary), vocabulary

    def in_numbers_of(self, vocabulary: Vocabulary) -> Ragged:
        """The texts in the numbers of a vocabulary, see :meth:`numbered`."""
        numbers = torch.from_numpy(vocabulary.encode(self.lexicon))[self.tokens.values]
        unknown_pair = (self.tokens.values >= self.single) & (numbers == UNKNOWN)
        rows = Ragged(numbers, self.tokens.offsets).keep(~unknown_pair)
        return rows.filled(UNKNOWN)


def cached(
    settings: Mapping[str, str],
    texts: Sequence[str],
    rows: int,
    make: Callable[[], Mapping[str, NDArray[np.generic]]],
) -> dict[str, NDArray[np.generic]]:
    """The arrays that ``make`` gives for some texts, from the user's cache where they are there.

    A cache file is named by a digest of the texts and settings, so none can be out of date. One
    that is damaged is made again, and where none can be written the arrays are made each time.

    Args:
        settings: what else than the texts decides the result.
        texts: all that are read.
        rows: how many rows are made of them.
        make: gives ``values`` and ``offsets`` of a :class:`Ragged`, and ``lexicon``, the bytes of
            the tokens, joined by line feeds, that the values are places in; or without it the
            values are numbers of another vocabulary.
    """
    if sum(map(len, texts)) < CACHED_FROM:
        return dict(make())
    path = user_cache() / "text" / f"{_digest(settings, texts)}.npz"
    found = _read(path, rows)
    if found is None:
        found = dict(make())
        _write(path, found)
    return found


def _digest(settings: Mapping[str, str], texts: Sequence[str]) -> str:
    digest = blake2b(f"{FORMAT} {sorted(settings.items())}".encode(), digest_size=12)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\xff")  # never a byte of UTF-8
    return digest.hexdigest()


def _read(path: Path, rows: int) -> dict[str, NDArray[np.generic]] | None:
    """The arrays in a cache file; None where there is none, or what is there is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        values, offsets = found["values"], found["offsets"]
        lexicon = found.get("lexicon")
        size = np.iinfo(np.int32).max if lexicon is None else lexicon.tobytes().count(b"\n") + 1
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    except RuntimeError:  # where a flipped bit says encrypted, or packed in some other way
        return None
    whole = (
        values.dtype == np.int32
        and offsets.dtype == np.int64
        and offsets.shape == (rows + 1,)
        and offsets[0] == 0
        and offsets[-1] == len(values)
        and bool((np.diff(offsets) >= 0).all())
        and (not len(values) or (values.min() >= 0 and values.max() < size))
    )
    return found if whole else None


def _write(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Keep arrays for the next time, where the disk lets us."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes the names for settings
    try:
        replace_file(path, buffer.getbuffer())
    except OSError:
        return


def _source(split: Callable[[str], Sequence[str]]) -> str:
    """The text of the module that a function is of, so that an edited one is another."""
    module = getmodule(split)
    try:
        return "" if module is None else getsource(module)
    except (OSError, TypeError):  # typed into a shell, or built in
        return ""


def _tokenised(
    texts: Sequence[str], split: Callable[[str], Sequence[str]]
) -> dict[str, NDArray[np.generic]]:
    """See :func:`cached`."""
    places: dict[str, int] = {}
    lengths = []
    flat: list[int] = []
    for text in texts:
        tokens = split(text)
        lengths.append(len(tokens))
        flat += [places.setdefault(token, len(places)) for token in tokens]
    return {
        "lexicon": np.frombuffer("\n".join(places).encode("utf-8", "surrogatepass"), np.uint8),
        "values": np.array(flat, np.int32),
        "offsets": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
    }


def _side_by_side(first: Ragged, second: Ragged) -> Ragged:
    """Rows that start with a row of ``first`` and go on with that of ``second``."""
    lengths = first.lengths + second.lengths
    from_first = torch.arange(len(first)).repeat_interleave(lengths)
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    within = torch.arange(len(from_first)) - offsets[from_first]
    is_first = within < first.lengths[from_first]
    values = first.values.new_empty(len(from_first))
    values[is_first], values[~is_first] = first.values, second.values
    return Ragged(values, offsets)
