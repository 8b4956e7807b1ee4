"""What the layouts have in common in which people have Cityscapes."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mtlrun.data import originals

TITLE = "Cityscapes"
FOLDERS = {"train": "train", "test": "val"}
"""The folder of each split: the official test split has no public labels, so val is tested on."""

FULL_SCALE = 65535
"""The disparity images' value at which inverse depth is 1."""

BASELINE, FOCAL = 0.209313, 2262.52
"""Metres between the cameras, and pixels of focal length: of most cities."""


@dataclass(frozen=True)
class Frame:
    """One frame as its layout has it.

    Attributes:
        image: uint8 [H, W, 3].
        labels: for 7 and 19 classes, or one of them, uint8 [H, W], 255 where void.
        inverse: inverse depth as MTAN has it, the 16-bit value of the disparity image over 65535;
            float32 [H, W], 0 where unknown.
        camera: metres between the cameras times pixels of focal length.
    """

    image: npt.NDArray[np.uint8]
    labels: Mapping[int, npt.NDArray[np.uint8]]
    inverse: npt.NDArray[np.float32]
    camera: float


class Layout(originals.Layout):
    """Frames on the disk.

    Attributes:
        classes: how many classes its labels tell apart: 7, 19, or both.
        split: for ``train`` and ``test`` what names its frames.
    """

    classes: Sequence[int]

    @abstractmethod
    def frame(self, split: str, key: Any) -> Frame:
        """Read one frame.

        Raises:
            UserError: a file is damaged, or has a value that cannot be; names the file.
        """
