"""Converting Cityscapes from any layout into memory-mapped arrays, once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtlrun.data.cityscapes.detect import detect
from mtlrun.data.cityscapes.layouts import FULL_SCALE, TITLE, Layout
from mtlrun.data.cityscapes.tables import VOID
from mtlrun.data.originals import nearest, scaled
from mtlrun.data.prepared import ArraySpec
from mtlrun.data.preparing import Array, Preparation, Size

OFFICIAL = {"train": 2975, "test": 500}
DEPTHS = ("inverse", "metres")
FARTHEST = 80.0
"""Metres beyond which a pixel has no depth in metres."""


class CityscapesPreparation(Preparation[Layout]):
    """Rows are the training frames and then those of ``val``. Per row:

    - ``image`` uint8 [3, H, W];
    - ``segmentation_7`` and ``segmentation_19`` uint8 [H, W], or one of them where the source has
      no more, 255 is void;
    - ``depth_inverse`` float16 [H, W], the disparity image's value over 65535, 0 where unknown;
    - ``depth_metres`` float16 [H, W], 0 where unknown, infinite or beyond 80 m. The rounding of
      both is at most 1 part in 2048 (4 cm at 80 m), far below what stereo matching gets wrong;
    - for each of these ``<name>_labelled`` bool, whether any pixel has a label.

    Images are scaled with a filter, everything else by its nearest neighbour. Disparities stay
    those of the full frame, whatever the size, so that targets do not depend on it.
    """

    dataset = "cityscapes"
    title = TITLE
    version = 1

    def detect(self, path: Path) -> Layout:
        """See :func:`mtlrun.data.cityscapes.detect.detect`."""
        return detect(path)

    def arrays(self, layout: Layout, size: Size) -> Mapping[str, ArraySpec]:
        """See :meth:`Preparation.arrays`."""
        targets = {
            **{f"segmentation_{classes}": ArraySpec(size, "uint8") for classes in layout.classes},
            **{f"depth_{unit}": ArraySpec(size, "float16") for unit in DEPTHS},
        }
        masks = {f"{name}_labelled": ArraySpec((), "bool") for name in targets}
        return {"image": ArraySpec((3, *size), "uint8"), **targets, **masks}

    def facts(self, layout: Layout) -> Mapping[str, Sequence[int]]:
        """How many classes are stored."""
        return {"classes": list(layout.classes)}

    def row(self, layout: Layout, part: str, key: Any, size: Size) -> Mapping[str, Array]:
        """See :meth:`Preparation.row`."""
        frame = layout.frame(part, key)
        height, width = frame.inverse.shape
        picked = np.ix_(nearest(height, size[0]), nearest(width, size[1]))
        inverse = frame.inverse[picked]
        depths: dict[str, Array] = {"inverse": inverse, "metres": metres(inverse, frame.camera)}
        row: dict[str, Array] = {"image": scaled(frame.image, size).transpose(2, 0, 1)}
        for classes, label in frame.labels.items():
            name = f"segmentation_{classes}"
            row[name] = label[picked]
            row[f"{name}_labelled"] = np.array((row[name] != VOID).any())
        for unit, depth in depths.items():
            row[f"depth_{unit}"] = depth
            row[f"depth_{unit}_labelled"] = np.array((depth > 0).any())
        return row

    def remark(self, layout: Layout) -> str | None:
        """That these are not the official frames, where they are not."""
        counts = {split: len(layout.split[split]) for split in OFFICIAL}
        if counts == OFFICIAL:
            return None
        return (
            f"Note: {layout.path} has {counts['train']} training and {counts['test']} test frames; "
            f"the official train and val have {OFFICIAL['train']} and {OFFICIAL['test']}."
        )


CITYSCAPES = CityscapesPreparation()


def metres(inverse: npt.NDArray[np.float32], camera: float) -> npt.NDArray[np.float64]:
    """Depth from inverse depth: 0 where unknown, infinite or beyond 80 m.

    Args:
        inverse: value v of the disparity image over 65535: a disparity of (v - 1) / 256 pixels.
        camera: metres between the cameras times pixels of focal length.
    """
    disparity = (inverse.astype(np.float64) * FULL_SCALE - 1) / 256
    near = disparity >= camera / FARTHEST
    return np.where(near, camera / np.where(near, disparity, 1), 0)
