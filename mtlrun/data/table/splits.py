"""Which rows train, validate and test."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mtlrun.data.base import carve, check_share
from mtlrun.data.table.reading import ABSENT, Array, Sheet
from mtlrun.errors import UserError
from mtlrun.randomness import generator

SPLIT_WORDS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class SplitSettings:
    """How rows are split where files do not say so.

    Attributes:
        split: a column that says it for each row; None to draw test rows.
        validation: share of the training rows to carve out, where no validation rows are named.
        test: share of all rows to test on, where none are named.
        group: a column whose rows of one value stay together; None for none.
        seed: of the draws.
    """

    split: str | None
    validation: float
    test: float
    group: str | None
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(
                f"validation={self.validation}: a share of the rows, 0 or more and less than 1"
            )
        check_share("test", self.test)


def split_rows(
    sheet: Sheet, settings: SplitSettings, strata: Array | None, carve_validation: bool
) -> tuple[dict[str, Array], str]:
    """The rows of each split, sorted; and a few words on where they come from.

    Args:
        sheet: the table.
        settings: how to split.
        strata: for each row the number of a part that is to be split by itself, int64 [rows].
        carve_validation: whether a validation split is wanted.

    Returns:
        ``train``, ``test`` and, where it is wanted, ``val``.

    Raises:
        UserError: a split is empty, or a cell of the split column names none.
    """
    draw = _Draw(sheet, settings, strata)
    if sheet.parts is not None:
        if settings.split is not None:
            raise UserError(
                "dataset.path names a file for each split, and dataset.split a column. Use one."
            )
        splits = _named(sheet.parts)
        source = "by file"
    elif settings.split is not None:
        splits = _by_column(sheet, settings.split)
        source = f"by column {settings.split}"
    else:
        training, testing = draw(np.arange(len(sheet)), settings.test, "test")
        splits = {"train": training, "test": testing}
        source = f"drawn by dataset.seed={settings.seed}"
    carved = carve_validation and "val" not in splits and settings.validation > 0
    if carved:
        splits["train"], splits["val"] = draw(splits["train"], settings.validation, "validation")
        source += ", val drawn from train" if "drawn" not in source else ""
    if not carve_validation:
        splits.pop("val", None)
    _check_full(sheet, splits, settings, drawn="drawn by" in source)
    if draw.groups is not None:
        _check_apart(sheet, splits, draw.groups, str(settings.group))
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}, source


class _Draw:
    """Draws some of the rows: whole groups, or from each stratum by itself."""

    def __init__(self, sheet: Sheet, settings: SplitSettings, strata: Array | None) -> None:
        self.seed = settings.seed
        self.strata = np.zeros(len(sheet), dtype=np.int64) if strata is None else strata
        self.groups: Array | None = None
        if settings.group is not None:
            self.groups = sheet.levels(settings.group).codes
            alone = np.flatnonzero(self.groups == ABSENT)
            if len(alone):
                raise UserError(
                    f"{sheet.place(int(alone[0]), settings.group)}: the cell is missing, and "
                    "dataset.group needs a value in every row."
                )

    def __call__(self, rows: Array, share: float, purpose: str) -> tuple[Array, Array]:
        """``rows`` without those drawn, and those drawn, each sorted."""
        if self.groups is not None:
            return self._whole_groups(rows, self.groups[rows], share, purpose)
        kept, drawn = [], []
        for stratum in np.unique(self.strata[rows]):
            own = rows[self.strata[rows] == stratum]
            if round(len(own) * share) < len(own):
                stay, go = carve(len(own), share, self.seed)
                kept.append(own[stay.numpy()])
                drawn.append(own[go.numpy()])
            else:  # a row or two that a share close to 1 would leave nothing of
                kept.append(own)
        nothing = rows[:0]
        return np.sort(np.concatenate([nothing, *kept])), np.sort(np.concatenate([nothing, *drawn]))

    def _whole_groups(
        self, rows: Array, groups: Array, share: float, purpose: str
    ) -> tuple[Array, Array]:
        """As many groups, in a random order, as come closest to the share of the rows."""
        names, sizes = np.unique(groups, return_counts=True)
        draws = generator(self.seed, "groups", purpose, len(names))
        order = torch.randperm(len(names), generator=draws).numpy()
        reached = np.cumsum(sizes[order])
        count = 1 + int(np.abs(reached - share * len(rows)).argmin())
        chosen = np.isin(groups, names[order[:count]])
        return rows[~chosen], rows[chosen]


def _named(parts: Mapping[str, Array]) -> dict[str, Array]:
    """Splits by the words that the user calls them."""
    splits: dict[str, Array] = {}
    for word, rows in parts.items():
        name = SPLIT_WORDS.get(str(word).lower())
        if name is None:
            raise UserError(f"dataset.path.{word}: there is no such split. Use train, val, test.")
        if name in splits:
            raise UserError(f"dataset.path names the split {name} twice, under different words.")
        splits[name] = rows
    return splits


def _by_column(sheet: Sheet, column: str) -> dict[str, Array]:
    levels = sheet.levels(column)
    words = [SPLIT_WORDS.get(name.lower(), "") for name in levels.names]
    of_row = np.array([*words, ""])[levels.codes]
    strange = np.flatnonzero(of_row == "")
    if len(strange):
        row = int(strange[0])
        word = levels.at(row)
        said = "is missing" if word is None else f"is '{word}'"
        raise UserError(
            f"{sheet.place(row, column)}: the cell {said}, and dataset.split={column} knows train, "
            "val (validation, valid, dev) and test."
        )
    return {name: np.flatnonzero(of_row == name) for name in dict.fromkeys(words)}


def _check_full(
    sheet: Sheet, splits: Mapping[str, Array], settings: SplitSettings, *, drawn: bool
) -> None:
    for name in ("train", "test", *(["val"] if "val" in splits else [])):
        if len(splits.get(name, ())):
            continue
        said = "row" if len(sheet) == 1 else "rows"
        if drawn:
            cure = "Use other shares dataset.test and dataset.validation, or add rows."
        elif sheet.parts is not None:
            cure = (
                f"Name its file: dataset.path={{train: a.csv, {'test' if name == 'test' else name}"
                ": b.csv}, or a single file, of which dataset.test then draws test rows."
            )
        else:
            cure = f"Write {name} into some cells of dataset.split={settings.split}, or leave it "
            cure += "out: test rows are then drawn by dataset.test."
        raise UserError(f"{sheet.title}: none of the {len(sheet):,} {said} is for {name}. {cure}")


def _check_apart(sheet: Sheet, splits: Mapping[str, Array], groups: Array, column: str) -> None:
    """No group may have rows in two splits, where the user names these."""
    owner = np.full(len(sheet), "", dtype=object)
    for name, rows in splits.items():
        both = np.flatnonzero((owner[groups[rows]] != "") & (owner[groups[rows]] != name))
        if len(both):
            row = int(rows[both[0]])
            raise UserError(
                f"{sheet.place(row, column)}: this row is for {name}, and others of "
                f"{column}={sheet.levels(column).at(row)} are for {owner[groups[row]]}. Correct "
                "the split, or leave out dataset.group."
            )
        owner[groups[rows]] = name
