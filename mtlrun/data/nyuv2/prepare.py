"""Converting NYUv2 from any layout into memory-mapped arrays, once."""

import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtlrun.data.nyuv2.detect import detect
from mtlrun.data.nyuv2.layouts import SPLITS, Frame, Layout
from mtlrun.data.nyuv2.normals import FULL_HEIGHT, FULL_WIDTH, camera_of, fit_normals
from mtlrun.data.nyuv2.tables import VOID, official_split
from mtlrun.data.prepared import ArraySpec, Plan, read_plan, write_prepared
from mtlrun.errors import UserError

VERSION = 1
"""Raised when the same source would be prepared otherwise than before."""

NORMAL_STEPS = 127
TASKS = ("segmentation", "depth", "normals")

# The raw camera's white border in pixels of its whole frame; the same in every frame.
BORDER_TOP, BORDER_BOTTOM, BORDER_LEFT, BORDER_RIGHT = 6, 6, 7, 8
WHITE = 230
WHITE_SHARE = 0.95

Size = tuple[int, int]
Array = npt.NDArray[Any]


def prepare(source: Path, destination: Path, size: Size) -> Plan:
    """Convert NYUv2 into a folder of .npy arrays, with a progress bar.

    Killed midway and called again, it goes on where it was. Rows are the training frames and then
    the test frames. Per row:

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

    Args:
        source: a folder or file in one of the layouts.
        destination: the folder to write; not in the way of anything else.
        size: (H, W) of the frames in it.

    Raises:
        UserError: see :func:`mtlrun.data.nyuv2.detect.detect` and
            :func:`mtlrun.data.prepared.write_prepared`.
    """
    layout = detect(source)
    try:
        plan = plan_of(layout, size)
        frames = [(split, number) for split in SPLITS for number in layout.split[split]]
        console = Console(stderr=True)
        _say_if_not_official(layout, console)
        with Progress(
            TextColumn(f"Preparing NYUv2 ({layout.kind}, {size[0]} x {size[1]})"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        ) as progress:
            bar = progress.add_task("", total=plan.rows)
            write_prepared(
                destination,
                plan,
                read_row=lambda row: _encode(layout, *frames[row], size),
                on_row=lambda done: progress.update(bar, completed=done),
            )
    finally:
        layout.close()
    return plan


def plan_of(layout: Layout, size: Size) -> Plan:
    """What a source will be prepared to."""
    height, width = size
    arrays = {
        "image": ArraySpec((3, height, width), "uint8"),
        "segmentation": ArraySpec((height, width), "uint8"),
        "depth": ArraySpec((height, width), "float16"),
        "normals": ArraySpec((3, height, width), "int8"),
        **{f"{task}_labelled": ArraySpec((), "bool") for task in TASKS},
        "frame": ArraySpec((), "int32"),
    }
    facts = {
        "dataset": "nyuv2",
        "version": VERSION,
        "layout": layout.kind,
        "size": [height, width],
        "classes": layout.classes,
        **{split: len(layout.split[split]) for split in SPLITS},
        "fingerprint": layout.fingerprint(),
    }
    return Plan(sum(len(layout.split[split]) for split in SPLITS), arrays, facts)


def find_or_prepare(root: Path, size: Size, prepared: Path | None) -> Path:
    """The prepared folder to read; prepared now where it is not.

    It is ``prepared`` where the user named one, else ``<root>/prepared_HxW``, or, where that cannot
    be written, a folder of the user's cache.

    Args:
        root: the folder or file that NYUv2 is read from; not needed where a prepared folder is.
        size: (H, W).
        prepared: the folder that the user named, or None.

    Raises:
        UserError: see :func:`prepare`; or the folder was made from other files, at another size,
            or by another version.
    """
    if prepared is not None:
        if read_plan(prepared) is None:
            prepare(root, prepared, size)
        _check_plan(prepared, size)
        return prepared
    for folder in (beside(root, size), in_cache(root, size)):
        if read_plan(folder) is not None:
            _check_plan(folder, size)
            _check_source(folder, root)
            return folder
    folder = destination_of(root, size)
    prepare(root, folder, size)
    return folder


def destination_of(root: Path, size: Size) -> Path:
    """Where NYUv2 of ``root`` is prepared to, where nobody says otherwise."""
    folder = beside(root, size)
    return folder if _writable(folder.parent) else in_cache(root, size)


def beside(root: Path, size: Size) -> Path:
    """The prepared folder in ``root``, or beside it where it is a file."""
    return (root.parent if root.is_file() else root) / f"prepared_{size[0]}x{size[1]}"


def in_cache(root: Path, size: Size) -> Path:
    """The prepared folder for ``root`` in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    path = blake2b(str(root.resolve()).encode(), digest_size=4).hexdigest()
    return cache / "mtlrun" / f"nyuv2_{size[0]}x{size[1]}_{path}"


def _writable(folder: Path) -> bool:
    """Whether one may and should write here: a folder that nobody may write is left alone by the
    superuser as well.
    """
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def _check_plan(folder: Path, size: Size) -> None:
    """Check that a finished folder holds NYUv2 at the size wanted."""
    plan = read_plan(folder)
    assert plan is not None
    facts = plan.facts
    if facts.get("dataset") != "nyuv2":
        raise UserError(f"{folder} holds other data than NYUv2 ({facts.get('dataset')}).")
    if facts.get("version") != VERSION:
        raise UserError(
            f"{folder} was prepared by another version of mtlrun. Remove it to have NYUv2 prepared "
            "again."
        )
    if tuple(facts["size"]) != size:
        raise UserError(
            f"{folder} holds frames of size {facts['size']}, and dataset.size is {list(size)}. "
            "Change one of dataset.size and dataset.prepared."
        )


def _check_source(folder: Path, root: Path) -> None:
    """Check that a folder was made from what is at ``root`` now, where that still is there."""
    try:
        layout = detect(root)
    except UserError:
        return
    fingerprint = layout.fingerprint()
    layout.close()
    plan = read_plan(folder)
    if plan is not None and plan.facts["fingerprint"] != fingerprint:
        raise UserError(
            f"The files at {root} are not those that {folder} was prepared from. Remove that "
            "folder to have them prepared again."
        )


def _say_if_not_official(layout: Layout, console: Console) -> None:
    counts = {split: len(layout.split[split]) for split in SPLITS}
    official = {split: len(official_split()[split]) for split in SPLITS}
    if counts != official:
        console.print(
            f"Note: {layout.path} has {counts['train']} training and {counts['test']} test frames; "
            f"the official split has {official['train']} and {official['test']}."
        )


def _encode(layout: Layout, split: str, number: int, size: Size) -> Mapping[str, Array]:
    """One frame as the arrays of one row; see :func:`prepare`."""
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
        "image": _scaled(frame, size).transpose(2, 0, 1),
        "segmentation": label,
        "depth": depth,
        "normals": np.round(normals * NORMAL_STEPS).transpose(2, 0, 1),
        "segmentation_labelled": np.array((label != VOID).any()),
        "depth_labelled": np.array((depth > 0).any()),
        "normals_labelled": np.array(known.any()),
        "frame": np.array(number),
    }


def nearest(length: int, wanted: int) -> npt.NDArray[np.int64]:
    """The ``wanted`` places of ``length`` whose middles are nearest to evenly spread ones."""
    return (2 * np.arange(wanted, dtype=np.int64) + 1) * length // (2 * wanted)


def _scaled(frame: Frame, size: Size) -> npt.NDArray[np.uint8]:
    height, width = size
    if frame.image.shape[:2] == size:
        return frame.image
    image = Image.fromarray(frame.image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


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
