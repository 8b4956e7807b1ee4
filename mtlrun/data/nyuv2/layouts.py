"""What the layouts have in common in which people have NYUv2."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mtlrun.data import originals

SPLITS = ("train", "test")
TITLE = "NYUv2"


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


class Layout(originals.Layout):
    """Frames on the disk.

    Attributes:
        classes: how many classes its labels tell apart, 13 or 40.
        whole_frames: whether frames are the camera's whole ones, scaled, as the camera's
            intrinsics and its white border suppose.
        depth_rounding: half a step of its depth's units, in metres.
        split: for ``train`` and ``test`` the numbers of its frames.
    """

    classes: ClassVar[int]
    whole_frames: ClassVar[bool]
    depth_rounding: ClassVar[float]
    split: Mapping[str, Sequence[int]]

    @abstractmethod
    def frame(self, split: str, number: int) -> Frame:
        """Read one frame.

        Raises:
            UserError: a file is damaged, or has a value that cannot be; names the file.
        """
