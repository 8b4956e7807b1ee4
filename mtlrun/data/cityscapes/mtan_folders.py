"""Cityscapes as MTAN prepared it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mtlrun.data.cityscapes.layouts import BASELINE, FOCAL, FOLDERS, TITLE, Frame, Layout
from mtlrun.data.cityscapes.tables import VOID
from mtlrun.data.originals import (
    check_sizes,
    numbered_parts,
    read_float_image,
    read_float_label,
    read_frame_array,
)
from mtlrun.errors import UserError

LABELS = {"label_7": 7, "label": 7, "label_19": 19}
"""The folders of labels that there may be, and their classes; LibMTL's code reads ``label``."""


class MtanFolders(Layout):
    """``{train,val}/{image,label_7,label_19,depth}/N.npy`` of MTAN (Liu et al., CVPR 2019).

    128 x 256 or 256 x 512: images [H, W, 3] from 0 to 1; labels [H, W] of 7 classes (``label_7``,
    or ``label`` as LibMTL's code has it), of 19 (``label_19``), or both, -1 for void; ``depth``
    [H, W, 1], which is the 16-bit value of the official disparity image over 65535, 0 where
    unknown: inverse depth. There is no calibration: depth in metres supposes most cities' camera.
    """

    kind = "MTAN folders"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.labels = {
            classes: name
            for name, classes in reversed(LABELS.items())
            if (path / "train" / name).is_dir()
        }
        if not self.labels:
            raise UserError(
                f"{path / 'train'} has none of the folders {', '.join(LABELS)}: {TITLE} is "
                "incomplete. Copy it again."
            )
        self.classes = sorted(self.labels)
        self.kinds = ("image", *self.labels.values(), "depth")
        self.split = numbered_parts(path, FOLDERS, self.kinds, TITLE)

    def files(self) -> Iterable[Path]:
        """See :meth:`Layout.files`."""
        for split, numbers in self.split.items():
            for number in numbers:
                for kind in self.kinds:
                    yield self._file(split, kind, number)

    def frame(self, split: str, key: int) -> Frame:
        """See :meth:`Layout.frame`."""
        image_path = self._file(split, "image", key)
        label_paths = {c: self._file(split, name, key) for c, name in self.labels.items()}
        depth_path = self._file(split, "depth", key)
        image = read_float_image(image_path)
        labels = {c: read_float_label(path, c, VOID) for c, path in label_paths.items()}
        inverse = np.nan_to_num(read_frame_array(depth_path, "depth", None)).clip(min=0)
        if inverse.max() > 1:
            raise UserError(
                f"{depth_path} has the value {inverse.max()}: MTAN's inverse depth is from 0 to 1."
            )
        maps = {label_paths[c]: label for c, label in labels.items()}
        check_sizes(image_path, image, {**maps, depth_path: inverse})
        return Frame(image, labels, inverse.astype(np.float32), BASELINE * FOCAL)

    def _file(self, split: str, kind: str, number: int) -> Path:
        return self.path / FOLDERS[split] / kind / f"{number}.npy"
