"""Text as numbers: words, vocabularies, and rows of unequal length.

Numbers are those of :data:`mtlrun.types.InputKind`: 0 is padding, 1 a word that is not in the
vocabulary, and words start at 2.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlrun.data.base import Source, Targets

PADDING = 0
UNKNOWN = 1
FIRST_WORD = 2
MISSING = -1

SEPARATOR = "[SEP]"
"""Stands between two texts; no text has this token, as words are in lower case."""

# Ideographs and Japanese syllables, which are written without spaces between words.
_UNSPACED = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_LETTER = rf"[^\W{_UNSPACED}]"
_WORD = re.compile(rf"[{_UNSPACED}]|{_LETTER}+(?:'{_LETTER}+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """The tokens of a text, in lower case.

    A token is, by the regular expression ``_WORD``,

    - a run of letters, digits and underscores, with the apostrophes inside it (``don't``);
    - a single Chinese ideograph or Japanese kana, as these are written without spaces;
    - any other single character that is no space (``,``, ``!``, an emoji).

    A typographic apostrophe counts as the plain one.
    """
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def spaced(text: str) -> list[str]:
    """The tokens of a text that was tokenised before: what stands between white space."""
    return text.split()


def paired(text: str) -> list[str]:
    """The tokens of a text, a separator, and those of the text on its second line."""
    first, second = text.split("\n")
    return [*words(first), SEPARATOR, *words(second)]


class Vocabulary:
    """The words that have a number, in its order; the first has the number 2.

    Args:
        words: each once.

    Attributes:
        words: as given.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._numbers = {word: number for number, word in enumerate(self.words, FIRST_WORD)}
        if len(self._numbers) != len(self.words):
            raise ValueError("a vocabulary names each word once")

    @classmethod
    def of(
        cls, token_lists: Iterable[Sequence[str]], min_count: int = 1, max_size: int | None = None
    ) -> "Vocabulary":
        """The words of some texts, the most frequent first, and by the word where they tie.

        Args:
            token_lists: the tokens of each text; of training rows only.
            min_count: leave out words that occur less often.
            max_size: keep so many words at most; None for all.
        """
        return cls.counted(Counter(chain.from_iterable(token_lists)), min_count, max_size)

    @classmethod
    def counted(
        cls, counts: Mapping[str, int], min_count: int = 1, max_size: int | None = None
    ) -> "Vocabulary":
        """:meth:`of` words whose numbers of occurrences are known."""
        check_limits(min_count, max_size)
        kept = [(-count, word) for word, count in counts.items() if count >= min_count]
        return cls([word for _, word in sorted(kept)[:max_size]])

    def __len__(self) -> int:
        """Count of numbers, padding and unknown among them: the fact ``vocabulary``."""
        return FIRST_WORD + len(self.words)

    def encode(self, tokens: Sequence[str]) -> NDArray[np.int32]:
        """The number of each token, 1 where it is not in the vocabulary."""
        numbers = (self._numbers.get(token, UNKNOWN) for token in tokens)
        return np.fromiter(numbers, np.int32, len(tokens))


def check_limits(min_count: int, max_size: int | None) -> None:
    """Refuse limits of a vocabulary that leave no sense.

    Raises:
        ValueError: either is below 1.
    """
    if min_count < 1:
        raise ValueError(f"min_count={min_count}: must be at least 1, which keeps every word")
    if max_size is not None and max_size < 1:
        raise ValueError(f"max_size={max_size}: must be at least 1, or null for all words")


@dataclass(frozen=True)
class Ragged:
    """Rows of numbers of unequal length, one after the other in one tensor.

    Attributes:
        values: int32, [numbers of all rows].
        offsets: int64, [rows + 1]: where each row starts in ``values``, and where the last ends.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | NDArray[np.integer]]) -> "Ragged":
        """The rows given."""
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        flat = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
        return cls.split(torch.from_numpy(flat), lengths)

    @classmethod
    def split(cls, values: Tensor, lengths: Tensor) -> "Ragged":
        """Rows of the lengths given (int64, [rows]), taken one after the other from ``values``."""
        return cls(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Numbers of each row, int64 [rows]."""
        return self.offsets.diff()

    def row(self, index: int) -> Tensor:
        """One row, int32 [its length]."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def padded(self, indices: Tensor, fill: int = PADDING) -> Tensor:
        """The rows named, filled up at their ends.

        Args:
            indices: int64, [N].
            fill: what stands behind a row's end.

        Returns:
            int64 [N, L], L the longest of these rows, and at least 1.
        """
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        longest = max(int(lengths.max()), 1) if len(indices) else 1
        if not len(self.values):
            return torch.full((len(indices), longest), fill)
        columns = torch.arange(longest)
        places = (starts.unsqueeze(1) + columns).clamp_(max=len(self.values) - 1)
        return torch.where(columns < lengths.unsqueeze(1), self.values[places].long(), fill)

    def subset(self, indices: Tensor) -> "Ragged":
        """The rows named, in the order named."""
        lengths = self.lengths[indices]
        ends = lengths.cumsum(0)
        shift = (self.offsets[indices] - (ends - lengths)).repeat_interleave(lengths)
        return Ragged.split(self.values[torch.arange(len(shift)) + shift], lengths)

    def keep(self, kept: Tensor) -> "Ragged":
        """The same rows without some of their numbers.

        Args:
            kept: bool, of the shape of ``values``.
        """
        before = torch.cat([self.offsets.new_zeros(1), kept.cumsum(0)])
        return Ragged(self.values[kept], before[self.offsets])

    def truncated(self, length: int | None) -> "Ragged":
        """The first ``length`` numbers of each row; None for all."""
        if length is None or not len(self) or int(self.lengths.max()) <= length:
            return self
        places = torch.arange(len(self.values))
        return self.keep(places - self.offsets[:-1].repeat_interleave(self.lengths) < length)

    def filled(self, value: int) -> "Ragged":
        """The same rows, and ``value`` as the one number of each row that was empty."""
        empty = self.lengths == 0
        if not bool(empty.any()):
            return self
        lengths = self.lengths + empty
        values = self.values.new_full((int(lengths.sum()),), value)
        values[(~empty).repeat_interleave(lengths)] = self.values
        return Ragged.split(values, lengths)


class TokenSource(Source):
    """Rows of tokens that are held in memory; each batch is as wide as its longest row.

    Args:
        inputs: numbers of words, no row empty.
        targets: for each task a tensor [rows, ...], missing labels NaN or -1; or, where a task has
            a target for each token, :class:`Ragged` of the lengths of ``inputs``, -1 where missing.

    Raises:
        ValueError: numbers of rows or lengths differ, or a row is empty.
    """

    def __init__(self, inputs: Ragged, targets: Mapping[str, Tensor | Ragged]) -> None:
        if bool((inputs.lengths == 0).any()):
            raise ValueError("a row without tokens; fill it with the unknown word")
        for task, target in targets.items():
            if len(target) != len(inputs):
                raise ValueError(f"{task}: {len(target)} targets for {len(inputs)} inputs")
            if isinstance(target, Ragged) and not torch.equal(target.offsets, inputs.offsets):
                raise ValueError(f"{task}: rows of targets and of tokens differ in length")
        self.inputs = inputs
        self.by_task = dict(targets)
        self.lengths = inputs.lengths
        masks = {task: _labelled(target) for task, target in self.by_task.items()}
        self.labelled = {task: mask for task, mask in masks.items() if not bool(mask.all())}

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, indices: Tensor) -> tuple[Tensor, Targets]:
        """Tokens, int64 [N, L], and targets; those for each token are int64 [N, L], padded by -1.

        See :meth:`Source.rows`.
        """
        targets = {
            task: target.padded(indices, MISSING)
            if isinstance(target, Ragged)
            else target.index_select(0, indices)
            for task, target in self.by_task.items()
        }
        return self.inputs.padded(indices), targets

    def select(self, tasks: Sequence[str]) -> "TokenSource":
        """See :meth:`Source.select`."""
        return TokenSource(self.inputs, {task: self.by_task[task] for task in tasks})

    def subset(self, indices: Tensor) -> "TokenSource":
        """The rows named, as a source of its own."""
        targets = {
            task: target.subset(indices) if isinstance(target, Ragged) else target[indices]
            for task, target in self.by_task.items()
        }
        return TokenSource(self.inputs.subset(indices), targets)


def _labelled(target: Tensor | Ragged) -> Tensor:
    """Which rows carry at least one label: bool [rows]."""
    if isinstance(target, Ragged):
        return target.keep(target.values != MISSING).lengths > 0
    known = ~target.isnan() if target.is_floating_point() else target != MISSING
    return known if known.dim() == 1 else known.flatten(1).any(1)
