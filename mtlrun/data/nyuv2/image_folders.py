"""NYUv2 as image files."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mtlrun.data.nyuv2.layouts import SPLITS, TITLE, Frame, Layout
from mtlrun.data.nyuv2.tables import VOID, class_names, table_40_to_13
from mtlrun.data.originals import check_labels, check_sizes, read_map, require_all
from mtlrun.errors import UserError

STEPS_A_METRE = 25.5


class ImageFolders(Layout):
    """``image/NNNN.jpg``, ``depth/NNNN.png``, ``label40/NNNN.png``, ``train.txt``, ``test.txt``.

    NNNN is the official number of the frame, counted from 1. Depth is 8 bits, (v + 0.5) / 25.5
    metres; labels are 0 to 39 and 255 for void. ``classes.csv``, where it is there, must number
    classes as the official tables do.
    """

    kind = "image folders"
    classes = 40
    whole_frames = True
    depth_rounding = 0.5 / STEPS_A_METRE

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.split = {split: _read_list(path / f"{split}.txt") for split in SPLITS}
        both = set(self.split["train"]) & set(self.split["test"])
        if both:
            raise UserError(f"{path / 'train.txt'} and test.txt both list the frame {min(both)}.")
        frames = [number for split in SPLITS for number in self.split[split]]
        for folder, name in (
            ("image", "{:04d}.jpg"),
            ("depth", "{:04d}.png"),
            ("label40", "{:04d}.png"),
        ):
            require_all(path / folder, frames, name, TITLE)
        if (path / "classes.csv").exists():
            _check_classes(path / "classes.csv")

    def files(self) -> Iterable[Path]:
        """See :meth:`Layout.files`."""
        for split in SPLITS:
            yield self.path / f"{split}.txt"
            for number in self.split[split]:
                yield from self._paths(number)

    def frame(self, split: str, number: int) -> Frame:
        """See :meth:`Layout.frame`."""
        del split
        image_path, depth_path, label_path = self._paths(number)
        image = read_map(image_path, ("RGB",), "mode RGB (8 bits)")
        depth = read_map(depth_path, ("L",), "mode L (8 bits)")
        label = read_map(label_path, ("L",), "mode L (8 bits)")
        check_labels(label, self.classes - 1, VOID, str(label_path))
        check_sizes(image_path, image, {depth_path: depth, label_path: label})
        metres = (depth.astype(np.float32) + np.float32(0.5)) / np.float32(STEPS_A_METRE)
        return Frame(image, label, metres, None)

    def _paths(self, number: int) -> tuple[Path, Path, Path]:
        return (
            self.path / "image" / f"{number:04d}.jpg",
            self.path / "depth" / f"{number:04d}.png",
            self.path / "label40" / f"{number:04d}.png",
        )


def _read_list(path: Path) -> list[int]:
    """Frame numbers, one a line."""
    try:
        lines = path.read_text().split()
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: it lists the frames of its split, one number a line, as "
            "official_split.csv in this package does."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    wrong = [line for line in lines if not line.isdecimal()]
    if wrong:
        raise UserError(f"{path} has {wrong[0]!r} where the number of a frame should be.")
    if not lines:
        raise UserError(f"{path} is empty: it lists the frames of its split, one number a line.")
    return [int(line) for line in lines]


def _check_classes(path: Path) -> None:
    """Refuse labels that are numbered otherwise than in the official tables."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        found = {int(row["id40"]): (row["name40"], int(row["id13"])) for row in rows}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as a table of id40,name40,id13,name13 ({error!r})."
        ) from error
    for index, name in enumerate(class_names(40)):
        official = (name, int(table_40_to_13()[index]))
        if found.get(index) != official:
            raise UserError(
                f"{path} says that class {index} of 40 is {found.get(index)} (name, class of 13), "
                f"and officially it is {official}. Number labels as the official tables do."
            )
