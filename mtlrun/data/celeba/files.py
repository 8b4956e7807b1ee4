"""CelebA's files, as its publisher lays them out."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtlrun.data.files import read_bytes
from mtlrun.data.images import decode
from mtlrun.data.originals import Layout
from mtlrun.data.preparing import Size
from mtlrun.errors import UserError

TITLE = "CelebA"
ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)
SPLITS = ("train", "val", "test")
"""In the numbers of list_eval_partition.txt: 0, 1, 2."""

ATTRIBUTE_LIST = "list_attr_celeba.txt"
PARTITION_LIST = "list_eval_partition.txt"
IMAGE_FOLDER = "img_align_celeba"
PLACES = {ATTRIBUTE_LIST: "Anno", PARTITION_LIST: "Eval", IMAGE_FOLDER: "Img"}
"""Each part's folder in the publisher's own arrangement; all may also lie side by side."""


@dataclass(frozen=True)
class Faces:
    """What the lists say, split after split.

    Attributes:
        names: of the image files.
        attributes: uint8 [rows, 40], 1 where the face has the attribute.
        counts: rows of each split.
    """

    names: list[str]
    attributes: npt.NDArray[np.uint8]
    counts: dict[str, int]


class CelebAFiles(Layout):
    """``list_attr_celeba.txt``, ``list_eval_partition.txt`` and ``img_align_celeba/NNNNNN.jpg``.

    They lie side by side, or in the publisher's folders ``Anno``, ``Eval`` and ``Img``. The keys
    of examples are rows: those of the training split, then validation, then test.

    Args:
        path: the folder.

    Raises:
        UserError: one of the three is not there.
    """

    kind = "original files"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        places = {name: _place(path, name) for name in PLACES}
        absent = [name for name, place in places.items() if not place.exists()]
        if absent:
            raise UserError(_missing(path, absent))
        self.lists = (places[ATTRIBUTE_LIST], places[PARTITION_LIST])
        self.images = places[IMAGE_FOLDER]

    @cached_property
    def faces(self) -> Faces:
        """The lists, read and checked against each other and the images on first use.

        Raises:
            UserError: a list is damaged, they do not fit together, or images are missing.
        """
        names, attributes = read_attributes(self.lists[0])
        partition = read_partition(self.lists[1], names, self.lists[0])
        there = {entry.name for entry in self.images.iterdir()}
        missing = [name for name in names if name not in there]
        if missing:
            raise UserError(
                f"{self.images / missing[0]} is missing, and {len(missing) - 1} more of "
                f"{len(names)} images in that folder: {TITLE} is incomplete. Unpack "
                f"{IMAGE_FOLDER}.zip again."
            )
        order = np.argsort(partition, kind="stable")
        counts = np.bincount(partition, minlength=len(SPLITS)).tolist()
        return Faces(
            [names[row] for row in order],
            attributes[order],
            dict(zip(SPLITS, counts, strict=True)),
        )

    @cached_property
    def split(self) -> dict[str, range]:  # type: ignore[override]  # read on first use
        """See :class:`Layout`."""
        counts, rows, start = self.faces.counts, {}, 0
        for split in SPLITS:
            rows[split] = range(start, start + counts[split])
            start += counts[split]
        return rows

    def files(self) -> Iterable[Path]:
        """See :meth:`Layout.files`."""
        yield from self.lists
        for name in self.faces.names:
            yield self.images / name

    def fingerprint(self) -> str:
        """Tells sources apart by the content of their lists.

        The 202,599 images are named in them, and asking for the size of each would take longer than
        all else that a run does before it starts.
        """
        digest = blake2b(digest_size=8)
        for path in self.lists:
            digest.update(read_bytes(path))
        return digest.hexdigest()

    def image(self, row: int, size: Size) -> npt.NDArray[np.uint8]:
        """A face, stretched to ``size``: uint8 [3, H, W].

        Raises:
            UserError: the image is damaged.
        """
        path = self.images / self.faces.names[row]
        pixels: npt.NDArray[np.uint8] = decode(path, str(path), size).numpy()
        return pixels


def read_attributes(path: Path) -> tuple[list[str], npt.NDArray[np.uint8]]:
    """Names of images and their attributes, uint8 [rows, 40], 1 where present.

    The first line says how many rows there are, the second names the attributes, and each other has
    an image's name and 40 values, 1 or -1.

    Raises:
        UserError: the file is not of this form; names the line.
    """
    lines = _lines(path)
    if len(lines) < 3 or not lines[0].strip().isdecimal():
        raise UserError(f"{path} does not begin with the number of its rows. {_again()}")
    _check_names(path, lines[1].split())
    rows = lines[2:]
    if int(lines[0]) != len(rows):
        raise UserError(
            f"{path} says that it has {int(lines[0])} rows, and has {len(rows)}. {_again()}"
        )
    names: list[str] = []
    values: list[str] = []
    for row in rows:
        name, *fields = row.split()
        value = "".join(fields).replace("-1", "0")
        if len(fields) != len(ATTRIBUTES) or len(value) != len(ATTRIBUTES) or value.strip("01"):
            raise UserError(_wrong_row(path, len(names) + 3, row))
        names.append(name)
        values.append(value)
    digits = np.frombuffer("".join(values).encode(), dtype=np.uint8) - ord("0")
    _check_unique(path, names)
    return names, digits.reshape(len(rows), len(ATTRIBUTES))


def read_partition(path: Path, names: list[str], beside: Path) -> npt.NDArray[np.int64]:
    """The split of each image: 0 train, 1 validation, 2 test.

    Args:
        path: the list.
        names: of the images, in the order wanted.
        beside: the list that they come from, for errors.

    Raises:
        UserError: a line is not a name and such a number, images are not the same in both lists, or
            a split is empty.
    """
    splits = {}
    for line, row in enumerate(_lines(path), start=1):
        name, _, split = row.strip().partition(" ")
        if split.strip() not in ("0", "1", "2"):
            raise UserError(
                f"{path}, line {line}, is {row.strip()!r}: each is an image's name and 0, 1 or 2. "
                f"{_again()}"
            )
        splits[name] = int(split)
    strange = set(names).symmetric_difference(splits)
    if strange:
        raise UserError(
            f"{min(strange)} is in one of {beside} and {path}, and not in the other. {_again()}"
        )
    numbers = np.array([splits[name] for name in names], dtype=np.int64)
    for number, title in enumerate(SPLITS):
        if not (numbers == number).any():
            raise UserError(f"{path} has no image of the {title} split ({number}). {_again()}")
    return numbers


def _lines(path: Path) -> list[str]:
    try:
        return read_bytes(path).decode("ascii").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not plain text: byte {error.start} is {error.object[error.start]:#04x}. "
            f"{_again()}"
        ) from error


def _check_names(path: Path, names: list[str]) -> None:
    """Check the attributes that a list's second line names."""
    if names == list(ATTRIBUTES):
        return
    pairs = list(zip(names, ATTRIBUTES, strict=False))
    wrong = next((pair for pair in pairs if pair[0] != pair[1]), None)
    said = f"{wrong[0]} where {wrong[1]} belongs" if wrong else f"{len(names)} names"
    raise UserError(
        f"{path}, line 2, has {said}: it names CelebA's {len(ATTRIBUTES)} attributes in their "
        f"order. {_again()}"
    )


def _check_unique(path: Path, names: list[str]) -> None:
    if len(set(names)) == len(names):
        return
    seen: set[str] = set()
    for line, name in enumerate(names, start=3):
        if name in seen:
            raise UserError(f"{path}, line {line}, has {name} a second time. {_again()}")
        seen.add(name)


def _wrong_row(path: Path, line: int, row: str) -> str:
    values = row.split()[1:]
    for name, value in zip(ATTRIBUTES, values, strict=False):
        if value not in ("1", "-1"):
            return f"{path}, line {line}, column {name}, is {value!r}, and not 1 or -1. {_again()}"
    return (
        f"{path}, line {line}, has {len(values)} values, and there are {len(ATTRIBUTES)} "
        f"attributes. {_again()}"
    )


def _again() -> str:
    return "Copy or download it again."


def _place(root: Path, name: str) -> Path:
    """Where a part lies: in ``root``, or in the publisher's folder in it."""
    inside = root / PLACES[name] / name
    return inside if inside.exists() else root / name


def _missing(root: Path, absent: list[str]) -> str:
    state = f"lacks {', '.join(absent)}" if root.is_dir() else "does not exist"
    return (
        f"CelebA is not there: the folder {root} {state}. Get {ATTRIBUTE_LIST}, {PARTITION_LIST} "
        f"and {IMAGE_FOLDER}.zip (Align&Cropped Images) from "
        "mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpack the images to a folder "
        f"{IMAGE_FOLDER}, and put all three there, side by side or in the publisher's folders "
        "Anno, Eval and Img; or name the folder that has them by dataset.root=FOLDER, or its "
        "parent by the environment variable MTLRUN_DATA (which then needs a folder celeba)."
    )
