"""Snips: what a voice command wants, and which of its words fill which slot."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mtlrun.data.encoded_texts import TextSettings
from mtlrun.data.files import find_root, plain_or_gzip, read_lines
from mtlrun.data.text import Ragged, spaced
from mtlrun.data.text_dataset import TextDataset, TextStream
from mtlrun.errors import UserError

STREAM = "snips"
PARTS = {"train": "train", "val": "valid", "test": "test"}
FILES = ("seq.in", "seq.out", "label")
OUTSIDE = "O"


class Snips(TextDataset):
    """Voice commands with two tasks (Coucke et al., arXiv 1805.10190, 2018).

    - ``intent``: which of seven things the command is for, such as ``PlayMusic``;
    - ``slots``: for each word whether it begins (``B-artist``) or goes on with (``I-artist``) the
      value of one of 39 slots, or is outside of all (``O``): 72 tags.

    The split is the one that Goo et al. (NAACL 2018) published and the literature uses: 13,084
    commands to train, 700 to validate and 700 to test. The validation rows are official, so nothing
    is carved; where the run selects on the test split they are left out, not trained on.

    Words stand between spaces, in lower case. Intents and tags get their numbers from all three
    splits, as they belong to the annotation scheme: a tag that no training command has still counts
    as missed where the test split has it.

    Args:
        root: folder with ``train``, ``valid`` and ``test``, each with the files ``seq.in``,
            ``seq.out`` and ``label``; None is ``$MTLRUN_DATA/snips``, else ``data/snips``.
        min_count: words that occur less often in the training rows are unknown; above 1 the network
            learns what to make of an unknown word.
        max_words: the vocabulary has so many words at most, the most frequent; None is all.
        carve_validation: whether to keep the validation rows.

    Raises:
        UserError: a file is missing or damaged, or files do not belong together.
    """

    def __init__(
        self,
        root: str | None = None,
        min_count: int = 2,
        max_words: int | None = None,
        *,
        carve_validation: bool = True,
    ) -> None:
        settings = TextSettings(min_count=min_count, max_words=max_words)
        folder = find_root("snips", root)
        parts = {part: _read(folder, name) for part, name in PARTS.items()}
        every_intent = {intent for _, _, intents in parts.values() for intent in intents}
        every_tag = {tag for _, rows, _ in parts.values() for row in rows for tag in row}
        intents = sorted(every_intent)
        tags = sorted(every_tag, key=lambda tag: (tag != OUTSIDE, tag))
        if len(intents) < 2 or len(tags) < 2:
            raise UserError(f"{folder}: there is one intent only, or no slot. Copy it again.")

        texts: list[str] = []
        slots: list[list[int]] = []
        labels: list[int] = []
        splits = {}
        tag_numbers = {tag: number for number, tag in enumerate(tags)}
        for part, (part_texts, part_tags, part_intents) in parts.items():
            splits[part] = torch.arange(len(texts), len(texts) + len(part_texts))
            texts += part_texts
            slots += [[tag_numbers[tag] for tag in row] for row in part_tags]
            labels += [intents.index(intent) for intent in part_intents]
        if not carve_validation:
            del splits["val"]
        targets: dict[str, Tensor | Ragged] = {
            "intent": torch.tensor(labels),
            "slots": Ragged.of(slots),
        }
        super().__init__({STREAM: TextStream(texts, targets, splits)}, settings, spaced)
        self.facts = {
            "intent": {"classes": len(intents), "class_names": intents},
            "slots": {"classes": len(tags), "class_names": tags},
        }


def _read(folder: Path, name: str) -> tuple[list[str], list[list[str]], list[str]]:
    """Texts of one part, the tags of each one's words, and its intent."""
    paths = [plain_or_gzip(folder / name, file) for file in FILES]
    text_file, tag_file, intent_file = paths
    if text_file is None or tag_file is None or intent_file is None:
        raise UserError(_missing(folder))
    texts, tag_lines, intents = (read_lines(path) for path in paths if path is not None)
    for path, lines in ((tag_file, tag_lines), (intent_file, intents)):
        if len(lines) != len(texts):
            raise UserError(
                f"{text_file} has {len(texts)} lines and {path} {len(lines)}: they do not belong "
                "together. Copy or download them again."
            )
    if not texts:
        raise UserError(f"{text_file} is empty. Copy or download it again.")
    tags = [spaced(line) for line in tag_lines]
    for number, (text, row) in enumerate(zip(texts, tags, strict=True), 1):
        if not row or len(row) != len(spaced(text)):
            raise UserError(
                f"{text_file}, line {number} has {len(spaced(text))} words, and {tag_file} "
                f"{len(row)} tags for them; both must be the same, and at least 1."
            )
        _check_tags(tag_file, number, row)
    intents = [intent.strip() for intent in intents]
    if "" in intents:
        raise UserError(f"{intent_file}, line {intents.index('') + 1} is empty.")
    return texts, tags, intents


def _check_tags(path: Path, line: int, tags: Sequence[str]) -> None:
    for column, tag in enumerate(tags, 1):
        if tag != OUTSIDE and (tag[:2] not in ("B-", "I-") or len(tag) == 2):
            raise UserError(
                f"{path}, line {line}, word {column}: expected O, B-NAME or I-NAME, and found "
                f"{tag!r}."
            )


def _missing(folder: Path) -> str:
    names = [f"{part}/{file}" for part in PARTS.values() for file in FILES]
    absent = [name for name in names if plain_or_gzip(folder, name) is None]
    state = "does not exist" if not folder.is_dir() else f"lacks {', '.join(absent)}"
    return (
        f"Snips is read from the folders train, valid and test, and the folder {folder} {state}. "
        "Get data/snips of github.com/MiuLab/SlotGated-SLU, whose three folders have the files "
        "seq.in, seq.out and label, and put them there; or name the folder that has them by "
        "dataset.root=FOLDER, or its parent by the environment variable MTLRUN_DATA (which then "
        "needs a folder snips). They are read as they are: nothing has to be prepared."
    )
