"""PAWS-X: whether two sentences mean the same, in seven languages."""

from pathlib import Path
from typing import ClassVar

import torch

from mtlrun.data.base import NewKind
from mtlrun.data.encoded_texts import TextSettings
from mtlrun.data.files import find_root, plain_or_gzip, read_lines
from mtlrun.data.text import paired
from mtlrun.data.text_dataset import TextDataset, TextStream
from mtlrun.errors import UserError

LANGUAGES = ("de", "en", "es", "fr", "ja", "ko", "zh")
COLUMNS = ("id", "sentence1", "sentence2", "label")
FAILED = ("", "NS")
"""What stands where a translation failed."""

Pairs = tuple[list[str], list[str], list[int]]


class PawsX(TextDataset):
    """Pairs of sentences with many words in common (Yang et al., EMNLP 2019).

    Each language is a stream of its own, with a task of its name: whether the second sentence is a
    paraphrase of the first. There are 49,401 pairs to train (translated by machine from English),
    and some 2000 each to validate and to test (translated by people). The validation rows are
    official, so nothing is carved; where the run selects on the test split they are left out.

    A pair is one row: the words of the first sentence, a separator, and those of the second;
    Chinese and Japanese are cut into characters. A pretrained tokenizer joins pairs in its own way.
    The vocabulary is made from the training rows of all languages, whichever the run trains on.

    Pairs where a sentence is empty or is ``NS``, which is where the translation failed, are left
    out of all splits, and counted in ``remarks``.

    Args:
        root: folder with a folder for each language, or the folder above ``x-final``, which is
            that; None is ``$MTLRUN_DATA/paws_x``, else ``data/paws_x``.
        train_rows: only the first so many training pairs of each language, for quick trials; None
            is all.
        tokenizer: see :class:`~mtlrun.data.encoded_texts.TextSettings`; likewise ``min_count``,
            ``max_words``, and ``max_length``, which counts the tokens of both sentences.
        carve_validation: whether to keep the validation rows.

    Raises:
        UserError: a file is missing or damaged.
    """

    new_inputs: ClassVar[NewKind | None] = None  # a row is a pair of texts

    def __init__(
        self,
        root: str | None = None,
        train_rows: int | None = None,
        tokenizer: str = "words",
        min_count: int = 2,
        max_words: int | None = 50_000,
        max_length: int | None = None,
        *,
        carve_validation: bool = True,
    ) -> None:
        if train_rows is not None and train_rows < 2:
            raise ValueError(f"train_rows={train_rows}: must be at least 2, or null for all rows")
        settings = TextSettings(tokenizer, min_count, max_words, max_length)
        given = find_root("paws_x", root)
        folder = given / "x-final" if (given / "x-final").is_dir() else given
        streams: dict[str, TextStream] = {}
        seconds: list[str] = []
        left_out = 0
        for language in LANGUAGES:
            stream, stream_seconds, failed = _stream(folder, language, train_rows, carve_validation)
            streams[language] = stream
            seconds += stream_seconds
            left_out += failed
        super().__init__(streams, settings, paired, seconds)
        if left_out:
            self.remarks = (*self.remarks, f"{left_out:,} pairs without a translation are left out")
        names = ["different", "paraphrase"]
        self.facts = {language: {"classes": 2, "class_names": names} for language in LANGUAGES}


def _stream(
    folder: Path, language: str, train_rows: int | None, carve_validation: bool
) -> tuple[TextStream, list[str], int]:
    """A language's first sentences, its second ones, and the number of pairs left out."""
    firsts: list[str] = []
    seconds: list[str] = []
    labels: list[int] = []
    splits = {}
    left_out = 0
    for part, name in _files(language).items():
        if part == "val" and not carve_validation:
            continue
        path = plain_or_gzip(folder / language, name)
        if path is None:
            raise UserError(_missing(folder))
        (part_firsts, part_seconds, part_labels), failed = _read(path)
        kept = slice(train_rows if part == "train" else None)
        splits[part] = torch.arange(len(firsts), len(firsts) + len(part_firsts[kept]))
        firsts += part_firsts[kept]
        seconds += part_seconds[kept]
        labels += part_labels[kept]
        left_out += failed
    return TextStream(firsts, {language: torch.tensor(labels)}, splits), seconds, left_out


def _files(language: str) -> dict[str, str]:
    train = "train.tsv" if language == "en" else "translated_train.tsv"
    return {"train": train, "val": "dev_2k.tsv", "test": "test_2k.tsv"}


def _read(path: Path) -> tuple[Pairs, int]:
    """First and second sentences, labels, and how many rows have no translation.

    The table has tabs between columns, and quotes mean nothing.
    """
    header, *lines = read_lines(path) or [""]
    if tuple(header.split("\t")) != COLUMNS:
        raise UserError(
            f"{path}, line 1: expected the columns {', '.join(COLUMNS)}, with tabs between them, "
            f"and found {header[:80]!r}."
        )
    firsts, seconds, labels = [], [], []
    left_out = 0
    for number, line in enumerate(lines, 2):
        cells = line.split("\t")
        if len(cells) != len(COLUMNS):
            raise UserError(
                f"{path}, line {number} has {len(cells)} columns, and the first line "
                f"{len(COLUMNS)}. Copy or download it again."
            )
        _, first, second, label = (cell.strip() for cell in cells)
        if label not in ("0", "1"):
            raise UserError(f"{path}, line {number}, column label: expected 0 or 1, not {label!r}.")
        if first in FAILED or second in FAILED:
            left_out += 1
            continue
        firsts.append(first)
        seconds.append(second)
        labels.append(int(label))
    if not labels:
        raise UserError(f"{path} has no pairs. Copy or download it again.")
    return (firsts, seconds, labels), left_out


def _missing(folder: Path) -> str:
    names = [f"{language}/{name}" for language in LANGUAGES for name in _files(language).values()]
    absent = [name for name in names if plain_or_gzip(folder, name) is None]
    some = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
    state = "does not exist" if not folder.is_dir() else f"lacks {some}"
    return (
        f"PAWS-X is read from a folder for each of {', '.join(LANGUAGES)}, and the folder {folder} "
        f"{state}. Get x-final.tar.gz from github.com/google-research-datasets/paws (pawsx), and "
        "unpack it there; or name the folder that has x-final by dataset.root=FOLDER, or its "
        "parent by the environment variable MTLRUN_DATA (which then needs a folder paws_x). Each "
        "folder has translated_train.tsv (en: train.tsv), dev_2k.tsv and test_2k.tsv. They are "
        "read as they are: nothing has to be prepared."
    )
