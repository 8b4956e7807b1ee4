"""Files as a dataset's publisher lays them out: what all layouts have in common, and readers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from mtlrun.data.images import DAMAGE
from mtlrun.errors import UserError

Array = npt.NDArray[Any]


class Layout(ABC):
    """Examples on the disk, in parts.

    Args:
        path: the folder or file.

    Attributes:
        kind: its name, in words.
        split: for each part (``train`` and ``test``, or a domain) the keys of its examples.
    """

    kind: ClassVar[str]
    split: Mapping[str, Sequence[Any]]

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def files(self) -> Iterable[Path]:
        """The files that examples are read from."""

    def fingerprint(self) -> str:
        """Tells sources apart by the names and sizes of their files, whatever their dates."""
        root = self.path if self.path.is_dir() else self.path.parent
        digest = blake2b(digest_size=8)
        for file in sorted(self.files()):
            digest.update(f"{file.relative_to(root)}:{file.stat().st_size}\n".encode())
        return digest.hexdigest()

    def close(self) -> None:  # noqa: B027 most layouts hold nothing open
        """Let go of open files."""


def listed(folder: Path) -> str:
    """What a folder holds, in words: ``holds a, b, c, ...`` or ``is empty``."""
    found = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    few = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
    return f"holds {few}" if found else "is empty"


def numbered(folder: Path, suffix: str, title: str) -> set[int]:
    """The numbers of the files ``<number><suffix>`` in ``folder``.

    Args:
        folder: where they should be.
        suffix: the rest of their names.
        title: the dataset's name, for errors.

    Raises:
        UserError: there is no such folder.
    """
    try:
        names = [entry.name for entry in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} is missing: {title} at {folder.parent} is incomplete. Copy it again."
        ) from error
    stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
    return {int(stem) for stem in stems if stem.isdecimal()}


def require_all(folder: Path, wanted: Iterable[int], name: str, title: str) -> None:
    """Check that a folder has the files that other files say it must have.

    Args:
        folder: where they should be.
        wanted: their numbers.
        name: a file's name, with a place for its number: ``"{:04d}.png"``.
        title: the dataset's name, for errors.

    Raises:
        UserError: one is missing; names it.
    """
    wanted = set(wanted)
    missing = sorted(wanted - numbered(folder, name.partition("}")[2], title))
    if missing:
        raise UserError(
            f"{folder / name.format(missing[0])} is missing, and {len(missing) - 1} more of "
            f"{len(wanted)} in that folder: {title} is incomplete. Copy it again."
        )


def numbered_parts(
    path: Path, folders: Mapping[str, str], kinds: Sequence[str], title: str
) -> dict[str, list[int]]:
    """The numbers of the rows in ``<path>/<folder>/<kind>/N.npy``, part by part.

    Args:
        path: the folder of all.
        folders: for each part its folder.
        kinds: the arrays that each row has; the first counts.
        title: the dataset's name, for errors.

    Raises:
        UserError: a file is missing; names it.
    """
    parts = {}
    for part, name in folders.items():
        folder = path / name
        rows = numbered(folder / kinds[0], ".npy", title)
        if not rows:
            raise UserError(f"{folder / kinds[0]} holds no N.npy: {title} is incomplete.")
        # Numbers go up without a gap, so a gap is a file that was not copied.
        for kind in kinds:
            require_all(folder / kind, {*range(max(rows)), *rows}, "{}.npy", title)
        parts[part] = sorted(rows)
    return parts


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


def read_map(path: Path, modes: Sequence[str], wanted: str) -> Array:
    """The values of an image file as they are stored: [H, W], or [H, W, 3] for colours.

    Args:
        path: the file.
        modes: pillow's names for what it may be.
        wanted: the same in words, for errors.

    Raises:
        UserError: it is damaged, or an image of another mode; names it.
    """
    try:
        with Image.open(path) as image:
            found = image.mode
            if found in modes:
                return np.array(image)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Copy it again.") from error
    except DAMAGE as error:
        raise UserError(f"{path} is damaged or is no image ({error}). Copy it again.") from error
    raise UserError(f"{path} is an image of mode {found}, and {wanted} is needed.")


def read_frame_array(path: Path, kind: str, channels: int | None) -> Array:
    """One array of a frame: [H, W, channels], or [H, W] where ``channels`` is None.

    Args:
        path: a .npy file.
        kind: what it holds, for errors.
        channels: how many; a single channel of a plane, [H, W, 1], is taken away.

    Raises:
        UserError: it is damaged, or of another shape or type; names it.
    """
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}). Copy it again.") from error
    if channels is None and array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    fits = array.ndim == 2 if channels is None else array.shape[2:] == (channels,)
    if not fits or not np.issubdtype(array.dtype, np.number):
        raise UserError(f"{path} holds {array.dtype} {list(array.shape)}: not a {kind}.")
    return array


def read_float_image(path: Path) -> npt.NDArray[np.uint8]:
    """Colours stored as floats from 0 to 1: uint8 [H, W, 3].

    Raises:
        UserError: see :func:`read_frame_array`; or values are not from 0 to 1.
    """
    image = read_frame_array(path, "image", 3)
    if not 0 <= image.min() <= image.max() <= 1.01:  # false for NaN too
        raise UserError(f"{path} has values from {image.min()} to {image.max()}, not 0 to 1.")
    return np.round(image.clip(0, 1) * 255).astype(np.uint8)


def read_float_label(path: Path, classes: int, void: int) -> npt.NDArray[np.uint8]:
    """Classes stored as floats, -1 or NaN where there is none: uint8 [H, W], with ``void`` there.

    Raises:
        UserError: see :func:`read_frame_array`; or a value is no class.
    """
    label = read_frame_array(path, "label", None)
    label = np.nan_to_num(label, nan=-1)
    whole = label.astype(np.int64)
    if (whole != label).any():
        raise UserError(f"{path} has the label {label[whole != label][0]}: not a whole number.")
    check_labels(whole, classes - 1, -1, str(path))
    return np.where(whole == -1, void, whole).astype(np.uint8)


def pixels(values: Array) -> str:
    """Width and height of a map, in words."""
    return f"{values.shape[1]} x {values.shape[0]}"


def check_sizes(image_path: Path, image: Array, maps: Mapping[Path, Array]) -> None:
    """Check that a frame's maps have the size of its image.

    Args:
        image_path: the image's file.
        image: [H, W, 3].
        maps: for each file what it holds, [H, W].

    Raises:
        UserError: one has not; names both files.
    """
    for path, values in maps.items():
        if values.shape[:2] != image.shape[:2]:
            raise UserError(
                f"{path} has {pixels(values)} pixels, and {image_path} has {pixels(image)}."
            )


def nearest(length: int, wanted: int) -> npt.NDArray[np.int64]:
    """The ``wanted`` places of ``length`` whose middles are nearest to evenly spread ones."""
    return (2 * np.arange(wanted, dtype=np.int64) + 1) * length // (2 * wanted)


def scaled(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """An image [H, W, 3] brought to ``size`` with a filter (bilinear, antialiased)."""
    if image.shape[:2] == size:
        return image
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)
