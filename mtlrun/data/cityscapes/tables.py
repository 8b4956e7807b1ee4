"""Cityscapes' classes, as a small table beside this file.

``labels.csv`` has the labels that annotators gave (``id``, 0 to 33), the category that each belongs
to, and its class among the 19 that are evaluated (``id19``, 255 where it is none of them), as the
authors' cityscapesScripts define them (Cordts et al., CVPR 2016).
"""

import csv
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]

VOID = 255
"""The label of a pixel without a class."""

CLASSES = (7, 19)
CATEGORIES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")


def _rows() -> list[dict[str, str]]:
    text = files(__package__).joinpath("labels.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def class_names(classes: int) -> tuple[str, ...]:
    """The names of the 7 categories or of the 19 classes, in order."""
    if classes == len(CATEGORIES):
        return CATEGORIES
    named = {int(row["id19"]): row["name"] for row in _rows()}
    return tuple(named[index] for index in range(classes))


@cache
def table(classes: int) -> Labels:
    """For each annotated label its class of 19 or its category of 7, or VOID: uint8 [256].

    Labels that the benchmark does not evaluate (parking, guard rail, caravan, ...) are void among
    the 7 categories too, as in the authors' evaluation by category.
    """
    classes_of = np.full(256, VOID, dtype=np.uint8)
    for row in _rows():
        evaluated = int(row["id19"])
        if evaluated != VOID:
            category = CATEGORIES.index(row["category"])
            classes_of[int(row["id"])] = evaluated if classes == 19 else category
    return classes_of


@cache
def highest_label() -> int:
    """The highest label that annotators gave."""
    return max(int(row["id"]) for row in _rows())
