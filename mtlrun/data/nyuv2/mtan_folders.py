"""NYUv2 as MTAN prepared it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtlrun.data.nyuv2.layouts import SPLITS, Frame, Layout, check_labels, numbered, require_all
from mtlrun.data.nyuv2.tables import VOID
from mtlrun.errors import UserError

KINDS = ("image", "label", "depth", "normal")
FOLDERS = {"train": "train", "test": "val"}
VOID_HERE = -1


class MtanFolders(Layout):
    """``{train,val}/{image,label,depth,normal}/N.npy`` of MTAN (Liu et al., CVPR 2019) and LibMTL.

    288 x 384: images [H, W, 3] from 0 to 1; 13 classes [H, W], -1 for void; depth in metres
    [H, W, 1], 0 where unknown; normals [H, W, 3], 0 where unknown. ``val`` is the official test
    split. Frames are cropped, so that no border is left; normals keep the axes that they have.
    """

    kind = "MTAN folders"
    classes = 13
    whole_frames = False
    depth_rounding = 0.0

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.split = {}
        for split in SPLITS:
            folder = path / FOLDERS[split]
            frames = numbered(folder / "image", ".npy")
            if not frames:
                raise UserError(f"{folder / 'image'} holds no N.npy: NYUv2 is incomplete.")
            # Numbers go up without a gap, so a gap is a file that was not copied.
            for kind in KINDS:
                require_all(folder / kind, {*range(max(frames)), *frames}, "{}.npy")
            self.split[split] = sorted(frames)

    def files(self) -> Iterable[Path]:
        """See :meth:`Layout.files`."""
        for split in SPLITS:
            for number in self.split[split]:
                for kind in KINDS:
                    yield self._path(split, kind, number)

    def frame(self, split: str, number: int) -> Frame:
        """See :meth:`Layout.frame`."""
        image, label, depth, normals = (self._read(split, kind, number) for kind in KINDS)
        label_path = str(self._path(split, "label", number))
        label = np.nan_to_num(label, nan=VOID_HERE).astype(np.int64)
        check_labels(label, self.classes - 1, VOID_HERE, label_path)
        return Frame(
            image=np.round(image.clip(0, 1) * 255).astype(np.uint8),
            label=np.where(label == VOID_HERE, VOID, label).astype(np.uint8),
            depth=np.where(np.isfinite(depth), depth, 0).astype(np.float32),
            normals=np.where(np.isfinite(normals), normals, 0).astype(np.float32),
        )

    def _path(self, split: str, kind: str, number: int) -> Path:
        return self.path / FOLDERS[split] / kind / f"{number}.npy"

    def _read(self, split: str, kind: str, number: int) -> npt.NDArray[Any]:
        """One array: [H, W, 3] for image and normal, [H, W] for label and depth."""
        path = self._path(split, kind, number)
        try:
            array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} is damaged ({error}). Copy it again.") from error
        if kind == "depth" and array.ndim == 3 and array.shape[2] == 1:
            array = array[..., 0]
        planes = array.shape[2:] == (3,) if kind in ("image", "normal") else array.ndim == 2
        if not planes or not np.issubdtype(array.dtype, np.number):
            raise UserError(f"{path} holds {array.dtype} {list(array.shape)}: not a {kind}.")
        if kind == "image" and not 0 <= array.min() <= array.max() <= 1.01:
            raise UserError(f"{path} has values from {array.min()} to {array.max()}, not 0 to 1.")
        return array
