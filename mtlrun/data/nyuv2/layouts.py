"""What the layouts have in common in which people have NYUv2."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mtlrun.errors import UserError

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Frame:
    """One frame as its layout has it.

    Attributes:
        image: uint8 [H, W, 3].
        label: uint8 [H, W], 255 where void.
        depth: metres, float32 [H, W], 0 where unknown.
        normals: float32 [H, W, 3], 0 where unknown; None where the layout has none.
    """

    image: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32] | None


class Layout(ABC):
    """Frames on the disk.

    Attributes:
        kind: its name, in words.
        classes: how many classes its labels tell apart, 13 or 40.
        whole_frames: whether frames are the camera's whole ones, scaled, as the camera's
            intrinsics and its white border suppose.
        depth_rounding: half a step of its depth's units, in metres.
        split: for ``train`` and ``test`` the numbers of its frames.
    """

    kind: ClassVar[str]
    classes: ClassVar[int]
    whole_frames: ClassVar[bool]
    depth_rounding: ClassVar[float]
    split: Mapping[str, Sequence[int]]

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def frame(self, split: str, number: int) -> Frame:
        """Read one frame.

        Raises:
            UserError: a file is damaged, or has a value that cannot be; names the file.
        """

    @abstractmethod
    def files(self) -> Iterable[Path]:
        """The files that frames are read from."""

    def fingerprint(self) -> str:
        """Tells sources apart by the names and sizes of their files, whatever their dates."""
        root = self.path if self.path.is_dir() else self.path.parent
        digest = blake2b(digest_size=8)
        for file in sorted(self.files()):
            digest.update(f"{file.relative_to(root)}:{file.stat().st_size}\n".encode())
        return digest.hexdigest()

    def close(self) -> None:  # noqa: B027 most layouts hold nothing open
        """Let go of open files."""


def numbered(folder: Path, suffix: str) -> set[int]:
    """The numbers of the files ``<number><suffix>`` in ``folder``.

    Raises:
        UserError: there is no such folder.
    """
    try:
        names = [entry.name for entry in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} is missing: NYUv2 at {folder.parent} is incomplete. Copy it again."
        ) from error
    stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
    return {int(stem) for stem in stems if stem.isdecimal()}


def require_all(folder: Path, wanted: Iterable[int], name: str) -> None:
    """Check that a folder has the files that other files say it must have.

    Args:
        folder: where they should be.
        wanted: their numbers.
        name: a file's name, with a place for its number: ``"{:04d}.png"``.

    Raises:
        UserError: one is missing; names it.
    """
    wanted = set(wanted)
    missing = sorted(wanted - numbered(folder, name.partition("}")[2]))
    if missing:
        raise UserError(
            f"{folder / name.format(missing[0])} is missing, and {len(missing) - 1} more of "
            f"{len(wanted)} in that folder: NYUv2 is incomplete. Copy it again."
        )


def check_labels(label: npt.NDArray[np.integer], highest: int, void: int, where: str) -> None:
    """Check that labels are classes.

    Args:
        label: [H, W].
        highest: the highest class; the lowest is 0.
        void: what marks a pixel without one.
        where: the file, in words.

    Raises:
        UserError: one is not.
    """
    wrong = label[((label < 0) | (label > highest)) & (label != void)]
    if wrong.size:
        raise UserError(
            f"{where} has the label {wrong[0]}: classes are 0 to {highest}, and {void} is void."
        )
