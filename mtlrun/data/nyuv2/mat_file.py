"""NYUv2 as its authors publish it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtlrun.data.nyuv2.layouts import SPLITS, Frame, Layout
from mtlrun.data.nyuv2.tables import official_split, table_894_to_40
from mtlrun.errors import UserError

ARRAYS = ("images", "depths", "labels")


class MatFile(Layout):
    """``nyu_depth_v2_labeled.mat``: MATLAB 7.3, which is HDF5 (Silberman et al., ECCV 2012).

    ``images`` uint8 [frames, 3, 640, 480], ``depths`` float32 metres [frames, 640, 480] and
    ``labels`` uint16 [frames, 640, 480], 1 to 894 and 0 for none: HDF5 shows MATLAB's axes in
    reverse. Split and classes come from the tables of this package. Frames are read one by one. A
    file with fewer frames than the official one has the part of the split that it has frames for.
    """

    kind = "official .mat file"
    classes = 40
    whole_frames = True
    depth_rounding = 0.0

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import h5py
        except ImportError as error:
            raise UserError(
                f"{path} is an HDF5 file, and h5py, which reads it, is not installed. "
                "Install it: pip install mtlrun[data]."
            ) from error
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            raise UserError(
                f"{path} is damaged, only partly copied, or no HDF5 file ({error}). Download it "
                "again."
            ) from error
        missing = [name for name in ARRAYS if name not in self.file]
        if missing:
            self.close()
            raise UserError(f"{path} has no array named {missing[0]}: it is not NYUv2's.")
        self._check_shapes()
        frames = len(self.file["images"])
        self.split = {
            split: [number for number in official_split()[split] if number <= frames]
            for split in SPLITS
        }

    def files(self) -> Iterable[Path]:
        """See :meth:`Layout.files`."""
        yield self.path

    def frame(self, split: str, number: int) -> Frame:
        """See :meth:`Layout.frame`."""
        del split
        image, depth, label = (self._read(name, number) for name in ARRAYS)
        table = table_894_to_40()
        if label.max() >= len(table):
            raise UserError(
                f"{self.path}, frame {number}, has the label {label.max()}: labels are 1 to "
                f"{len(table) - 1}, and 0 is void."
            )
        return Frame(
            image=np.ascontiguousarray(image.transpose(2, 1, 0)),
            label=np.ascontiguousarray(table[label].T),
            depth=np.where(np.isfinite(depth), depth, 0).astype(np.float32).T,
            normals=None,
        )

    def close(self) -> None:
        """See :meth:`Layout.close`."""
        self.file.close()

    def _check_shapes(self) -> None:
        shapes = {name: tuple(self.file[name].shape) for name in ARRAYS}
        images = shapes["images"]
        plane = (*images[:1], *images[2:])
        if len(images) != 4 or images[1] != 3 or {shapes["depths"], shapes["labels"]} != {plane}:
            self.close()
            raise UserError(
                f"{self.path} has arrays of shapes {shapes}: expected images [frames, 3, width, "
                "height], depths and labels [frames, width, height]."
            )

    def _read(self, name: str, number: int) -> npt.NDArray[Any]:
        """One frame of an array, axes as stored."""
        try:
            values: npt.NDArray[Any] = self.file[name][number - 1]
        except OSError as error:
            raise UserError(
                f"{self.path}, {name} of frame {number}, cannot be read ({error}): the file is "
                "damaged. Download it again."
            ) from error
        return values
