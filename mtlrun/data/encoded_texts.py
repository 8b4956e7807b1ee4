"""What all datasets of texts do alike: from texts to rows of numbers and a dataset's facts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlrun.data.text import UNKNOWN, Ragged, Vocabulary, check_limits, words
from mtlrun.data.tokenised import Corpus, cached
from mtlrun.errors import UserError

TEXTS_AT_ONCE = 4096
NO_LIMIT = 10**6
"""Tokenizers without a limit of length give one above this."""


@dataclass(frozen=True)
class EncodedTexts:
    """A dataset's texts, as a network reads them.

    Attributes:
        rows: the tokens of each text, see :data:`mtlrun.types.InputKind`.
        vocabulary: count of numbers, the fact of that name.
        remark: a line on what was found.
        words: that have a number; None where a pretrained tokenizer gives the numbers.
    """

    rows: Ragged
    vocabulary: int
    remark: str
    words: Vocabulary | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.rows.lengths.max())


@dataclass(frozen=True)
class TextSettings:
    """The settings that datasets of texts have in common.

    Args:
        tokenizer: ``words``, or the folder of a pretrained tokenizer of transformers; then the
            numbers are the tokenizer's plus 1, as 0 is padding, with its special tokens. Which of a
            pair's texts a token is of is told by these alone, not by segments as BERT has them.
        min_count: words that occur less often in the training rows are unknown; of words only.
        max_words: the vocabulary has so many words at most, the most frequent; None is all.
        max_length: tokens of a text that are kept; None is all, or as many as the pretrained
            tokenizer's network reads.
        ngrams: 2 has the pairs of neighbouring words behind the words of a text, for networks that
            do not look at the order.

    Raises:
        ValueError: a setting is outside its range, or does not go with a pretrained tokenizer.
    """

    tokenizer: str = "words"
    min_count: int = 1
    max_words: int | None = None
    max_length: int | None = None
    ngrams: int = 1

    def __post_init__(self) -> None:
        if self.max_words is not None and self.max_words < 1:
            raise ValueError(f"max_words={self.max_words}: must be at least 1, or null for all")
        check_limits(self.min_count, self.max_words)
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length={self.max_length}: must be at least 1, or null for all")
        if self.ngrams not in (1, 2):
            raise ValueError(f"ngrams={self.ngrams}: 1 for words, or 2 for words and pairs of them")
        for name, value, plain in (("max_words", self.max_words, None), ("ngrams", self.ngrams, 1)):
            if self.tokenizer != "words" and value != plain:
                use = "null" if plain is None else plain
                raise ValueError(f"{name}={value} goes with tokenizer=words only: use {name}={use}")

    def encode(
        self,
        texts: Sequence[str],
        training: Tensor,
        split: Callable[[str], Sequence[str]] = words,
        seconds: Sequence[str] | None = None,
    ) -> EncodedTexts:
        """The texts as numbers.

        Args:
            texts: one a row.
            training: int64, the rows that the vocabulary is made from.
            split: gives the tokens of a text where ``tokenizer`` is ``words``, see
                :meth:`Corpus.of`; of a text, a line feed and its second text where there are pairs.
            seconds: for each text the one that it is read together with; None where there are no
                pairs.

        Raises:
            UserError: the pretrained tokenizer cannot be read.
        """
        if self.tokenizer != "words":
            rows, vocabulary = pretrained(self.tokenizer, texts, seconds, self.max_length)
            remark = f"{vocabulary - 1:,} tokens of {self.tokenizer}"
            return EncodedTexts(rows, vocabulary, remark)
        if seconds is not None:
            texts = [f"{text}\n{second}" for text, second in zip(texts, seconds, strict=True)]
        corpus = Corpus.of(texts, split).truncated(self.max_length)
        if self.ngrams == 2:
            corpus = corpus.with_bigrams(training, self.min_count)
        rows, found = corpus.numbered(training, self.min_count, self.max_words)
        other = torch.ones(len(rows), dtype=torch.bool)
        other[training] = False
        others = other.nonzero().squeeze(1)
        count = int((corpus.tokens.subset(others).values < corpus.single).sum())
        unknown = int((rows.subset(others).values == UNKNOWN).sum())  # unknown pairs are not there
        kind = "words and pairs" if self.ngrams == 2 else "words"
        remark = f"{len(found.words):,} {kind} of the training rows; {_unknown(unknown, count)}"
        return EncodedTexts(rows, len(found), f"{remark} in other rows are unknown", found)

    def encode_new(
        self,
        texts: Sequence[str],
        known: Vocabulary | None,
        split: Callable[[str], Sequence[str]] = words,
    ) -> EncodedTexts:
        """Further texts in the numbers that :meth:`encode` gave to the dataset's own.

        Args:
            texts: one a row.
            known: the words that have a number, see :class:`EncodedTexts`.
            split: as the dataset's own texts were split.

        Returns:
            them, with a remark on unknown words; no remark with a pretrained tokenizer.

        Raises:
            UserError: the pretrained tokenizer cannot be read.
        """
        if known is None:
            rows, vocabulary = pretrained(self.tokenizer, texts, None, self.max_length)
            return EncodedTexts(rows, vocabulary, "")
        corpus = Corpus.of(texts, split).truncated(self.max_length)
        count = len(corpus.tokens.values)
        if self.ngrams == 2:
            corpus = corpus.with_bigrams(torch.arange(len(texts)), min_count=1)
        rows = corpus.in_numbers_of(known)
        unknown = min(count, int((rows.values == UNKNOWN).sum()))  # one stands for an empty text
        remark = f"{_unknown(unknown, count)} are unknown to the network" if unknown else ""
        return EncodedTexts(rows, len(known), remark, known)


def _unknown(unknown: int, count: int) -> str:
    return f"{unknown / max(count, 1):.1%} of the words"


def pretrained(
    folder: str, texts: Sequence[str], seconds: Sequence[str] | None, max_length: int | None
) -> tuple[Ragged, int]:
    """Texts in the numbers of a pretrained tokenizer, plus 1; and the count of numbers.

    Args:
        folder: of the tokenizer's files, as ``save_pretrained`` writes them.
        texts: one a row.
        seconds: see :meth:`TextSettings.encode`.
        max_length: tokens of a row, special ones among them, that are kept; None is as many as the
            tokenizer says that its network reads.

    Raises:
        UserError: transformers is not installed, the folder holds no tokenizer, or ``max_length``
            is more than its network reads, or too little for any word.
    """
    tokenizer = _tokenizer(Path(folder).expanduser())
    most = tokenizer.model_max_length
    if max_length is not None and max_length > most:
        raise UserError(
            f"dataset.max_length={max_length}, and the tokenizer in {folder} says that its network "
            f"reads at most {most} tokens: use dataset.max_length=null for that, or less."
        )
    limit = most if max_length is None else max_length
    special = tokenizer.num_special_tokens_to_add(pair=seconds is not None)
    if limit <= special:
        raise UserError(
            f"dataset.max_length={limit} leaves no place for words beside the {special} special "
            f"tokens that the tokenizer in {folder} adds."
        )
    settings = {
        "tokenizer": str(_files(Path(folder).expanduser())),
        "transformers": import_module("transformers").__version__,
        "limit": str(limit),
        "pairs": str(seconds is not None),
    }

    def make() -> dict[str, Any]:
        rows: list[list[int]] = []
        options = {"truncation": True, "max_length": limit} if limit < NO_LIMIT else {}
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = slice(start, start + TEXTS_AT_ONCE)
            second = None if seconds is None else list(seconds[part])
            rows += tokenizer(list(texts[part]), second, verbose=False, **options)["input_ids"]
        ragged = Ragged.of(rows)
        return {"values": ragged.values.numpy() + np.int32(1), "offsets": ragged.offsets.numpy()}

    keys = texts if seconds is None else [*texts, *seconds]
    found = cached(settings, keys, len(texts), make)
    rows = Ragged(torch.from_numpy(found["values"]), torch.from_numpy(found["offsets"]))
    return rows.filled(UNKNOWN), len(tokenizer) + 1


def _tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder."""
    try:
        loader = import_module("transformers").AutoTokenizer
    except ImportError as error:
        raise UserError(
            f"dataset.tokenizer={folder} needs the package transformers, which cannot be imported "
            f"({error}). Install it with pip install 'mtlrun[text]', or use "
            "dataset.tokenizer=words."
        ) from error
    if not folder.is_dir():
        raise UserError(
            f"dataset.tokenizer={folder}: there is no such folder. Name one that holds a "
            "tokenizer's files (tokenizer.json, vocab.txt), which you have from a model's page or "
            "from save_pretrained, or use dataset.tokenizer=words. Nothing is downloaded."
        )
    try:
        return loader.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"dataset.tokenizer={folder} holds no tokenizer that transformers can read: {error}"
        ) from error


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of the files that a tokenizer may be made of."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
