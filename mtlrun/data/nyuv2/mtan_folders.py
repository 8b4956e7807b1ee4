"""NYUv2 as MTAN prepared it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtlrun.data.nyuv2.layouts import SPLITS, TITLE, Frame, Layout
from mtlrun.data.nyuv2.tables import VOID
from mtlrun.data.originals import (
    numbered_parts,
    read_float_image,
    read_float_label,
    read_frame_array,
)

KINDS = ("image", "label", "depth", "normal")
FOLDERS = {"train": "train", "test": "val"}


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
        self.split = numbered_parts(path, FOLDERS, KINDS, TITLE)

    def files(self) -> Iterable[Path]:
        """See :meth:`Layout.files`."""
        for split in SPLITS:
            for number in self.split[split]:
                for kind in KINDS:
                    yield self._path(split, kind, number)

    def frame(self, split: str, number: int) -> Frame:
        """See :meth:`Layout.frame`."""
        image, label, depth, normal = (self._path(split, kind, number) for kind in KINDS)
        return Frame(
            image=read_float_image(image),
            label=read_float_label(label, self.classes, VOID),
            depth=_finite(read_frame_array(depth, "depth", None)),
            normals=_finite(read_frame_array(normal, "normal", 3)),
        )

    def _path(self, split: str, kind: str, number: int) -> Path:
        return self.path / FOLDERS[split] / kind / f"{number}.npy"


def _finite(values: npt.NDArray[np.number]) -> npt.NDArray[np.float32]:
    return np.where(np.isfinite(values), values, 0).astype(np.float32)
