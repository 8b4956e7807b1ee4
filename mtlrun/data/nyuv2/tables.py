"""NYUv2's classes and official split, as small tables beside this file.

``classes_894_to_40.csv`` groups the names that annotators gave into 40 classes (Gupta et al., CVPR
2013), ``classes_40_to_13.csv`` these into 13 (Couprie et al., ICLR 2013). ``official_split.csv``
says for each frame, counted from 1, whether it is for training or testing (Silberman et al., ECCV
2012). Classes are counted from 0 here.
"""

import csv
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]

VOID = 255
"""The label of a pixel without a class."""

FRAMES = 1449


def _rows(name: str) -> list[dict[str, str]]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def class_names(classes: int) -> tuple[str, ...]:
    """The names of the 13 or 40 classes, in order."""
    rows = _rows("classes_40_to_13.csv")
    named = {int(row[f"id{classes}"]): row[f"name{classes}"] for row in rows}
    return tuple(named[index] for index in range(classes))


@cache
def table_894_to_40() -> Labels:
    """For each annotated label 0 (none) to 894 its class of 40, or VOID: uint8 [895]."""
    table = np.full(895, VOID, dtype=np.uint8)
    for row in _rows("classes_894_to_40.csv"):
        table[int(row["id894"])] = int(row["id40"])
    return table


@cache
def table_40_to_13() -> Labels:
    """For each class of 40 its class of 13, VOID for VOID: uint8 [256]."""
    table = np.full(256, VOID, dtype=np.uint8)
    for row in _rows("classes_40_to_13.csv"):
        table[int(row["id40"])] = int(row["id13"])
    return table


@cache
def official_split() -> dict[str, tuple[int, ...]]:
    """The frames, counted from 1, of ``train`` (795) and ``test`` (654)."""
    rows = _rows("official_split.csv")
    return {
        split: tuple(int(row["frame"]) for row in rows if row["split"] == split)
        for split in ("train", "test")
    }
