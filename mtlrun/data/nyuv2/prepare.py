"""Converting NYUv2 from any layout into memory-mapped arrays, once."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtlrun.data.nyuv2.detect import detect
from mtlrun.data.nyuv2.layouts import SPLITS, TITLE, Layout
from mtlrun.data.nyuv2.normals import FULL_HEIGHT, FULL_WIDTH, camera_of, fit_normals
from mtlrun.data.nyuv2.tables import VOID, official_split
from mtlrun.data.originals import nearest, scaled
from mtlrun.data.prepared import ArraySpec
from mtlrun.data.preparing import Array, Preparation, Size

NORMAL_STEPS = 127
TASKS = ("segmentation", "depth", "normals")

# The raw camera's white border in pixels of its whole frame; the same in every frame.
BORDER_TOP, BORDER_BOTTOM, BORDER_LEFT, BORDER_RIGHT = 6, 6, 7, 8
WHITE = 230
WHITE_SHARE = 0.95


class NYUv2Preparation(Preparation[Layout]):
    """Rows are the training frames and then the test frames. Per row:

    - ``image`` uint8 [3, H, W];
    - ``segmentation`` uint8 [H, W], the source's classes (40, or 13 where it has no more), 255 is
      void;
    - ``depth`` float16 [H, W], metres, 0 where unknown. Its rounding, at most 1 part in 2048
      (0.5 mm at 1 m, 4 mm at 8 m), is below a fifth of the sensor's own steps, which are some 3 mm
      at 1 m and grow with the square of the distance (Khoshelham and Elberink, Sensors 2012);
    - ``normals`` int8 [3, H, W], a unit vector times 127, 0 where unknown: within 0.4 degrees, 0.2
      in the mean, where planes fitted to this sensor's depth are some degrees off, and no coarser
      than the 8-bit images in which normals of NYUv2 are published. Axes: see
      :mod:`mtlrun.data.nyuv2.normals`; a layout that brings normals of its own keeps its axes;
    - ``<task>_labelled`` bool, whether any pixel has a label for the task; ``frame`` int32, the
      number of the frame in its source.

    Images are scaled with a filter, everything else by its nearest neighbour. The raw camera's
    white border is void in all targets.
    """

    dataset = "nyuv2"
    title = TITLE
    version = 1

    def detect(self, path: Path) -> Layout:
        """See :func:`mtlrun.data.nyuv2.detect.detect`."""
        return detect(path)

    def arrays(self, layout: Layout, size: Size) -> Mapping[str, ArraySpec]:
        """See :meth:`Preparation.arrays`."""
        del layout
        return {
            "image": ArraySpec((3, *size), "uint8"),
            "segmentation": ArraySpec(size, "uint8"),
            "depth": ArraySpec(size, "float16"),
            "normals": ArraySpec((3, *size), "int8"),
            **{f"{task}_labelled": ArraySpec((), "bool") for task in TASKS},
            "frame": ArraySpec((), "int32"),
        }

    def facts(self, layout: Layout) -> Mapping[str, int]:
        """How many classes are stored."""
        return {"classes": layout.classes}

    def row(self, layout: Layout, part: str, key: int, size: Size) -> Mapping[str, Array]:
        """See :meth:`Preparation.row`."""
        return _encode(layout, part, key, size)

    def remark(self, layout: Layout) -> str | None:
        """That these are not the official frames, where they are not."""
        counts = {split: len(layout.split[split]) for split in SPLITS}
        official = {split: len(official_split()[split]) for split in SPLITS}
        if counts == official:
            return None
        return (
            f"Note: {layout.path} has {counts['train']} training and {counts['test']} test frames; "
            f"the official split has {official['train']} and {official['test']}."
        )


NYUV2 = NYUv2Preparation()


def _encode(layout: Layout, split: str, number: int, size: Size) -> Mapping[str, Array]:
    """One frame as the arrays of one row; see :class:`NYUv2Preparation`."""
    frame = layout.frame(split, number)
    height, width = frame.label.shape
    rows, columns = nearest(height, size[0]), nearest(width, size[1])
    picked = np.ix_(rows, columns)
    label, depth = frame.label[picked], frame.depth[picked]
    if frame.normals is None:
        camera = camera_of(height, width)
        normals = fit_normals(frame.depth, camera, rows, columns, layout.depth_rounding)
    else:
        normals = frame.normals[picked]
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        normals = normals / np.maximum(length, np.finfo(np.float32).tiny)
    if layout.whole_frames:
        hidden = white_border(frame.image, size)
        label[hidden], depth[hidden], normals[hidden] = VOID, 0, 0
    known = (normals != 0).any(-1)
    return {
        "image": scaled(frame.image, size).transpose(2, 0, 1),
        "segmentation": label,
        "depth": depth,
        "normals": np.round(normals * NORMAL_STEPS).transpose(2, 0, 1),
        "segmentation_labelled": np.array((label != VOID).any()),
        "depth_labelled": np.array((depth > 0).any()),
        "normals_labelled": np.array(known.any()),
        "frame": np.array(number),
    }


def white_border(image: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.bool_]:
    """Where a scaled frame shows the raw camera's white border: bool [H, W].

    Args:
        image: the whole frame, uint8 [H0, W0, 3], at any scale. A side whose outermost line is not
            white has no border.
        size: (H, W) of the mask.
    """
    height, width = size
    hidden = np.zeros(size, dtype=np.bool_)
    white = image.min(-1) >= WHITE
    # A pixel is hidden if any of the camera's pixels that it covers is.
    top, bottom = (-(-pixels * height // FULL_HEIGHT) for pixels in (BORDER_TOP, BORDER_BOTTOM))
    left, right = (-(-pixels * width // FULL_WIDTH) for pixels in (BORDER_LEFT, BORDER_RIGHT))
    if white[0].mean() > WHITE_SHARE:
        hidden[:top] = True
    if white[-1].mean() > WHITE_SHARE:
        hidden[height - bottom :] = True
    if white[:, 0].mean() > WHITE_SHARE:
        hidden[:, :left] = True
    if white[:, -1].mean() > WHITE_SHARE:
        hidden[:, width - right :] = True
    return hidden
