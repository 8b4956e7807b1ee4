"""Cityscapes as its authors publish it."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mtlrun.data.cityscapes.layouts import (
    BASELINE,
    FOCAL,
    FOLDERS,
    FULL_SCALE,
    TITLE,
    Frame,
    Layout,
)
from mtlrun.data.cityscapes.tables import CLASSES, VOID, highest_label, table
from mtlrun.data.originals import check_labels, check_sizes, read_map
from mtlrun.errors import UserError

IMAGES = "leftImg8bit"
CAMERA = "camera"
KINDS = {
    IMAGES: "_leftImg8bit.png",
    "gtFine": "_gtFine_labelIds.png",
    "disparity": "_disparity.png",
    CAMERA: "_camera.json",
}
"""The folders of the official archives, and how the names of their files end."""


class OfficialFolders(Layout):
    """``<kind>/{train,val}/<city>/<city>_<sequence>_<frame>_<kind>`` (Cordts et al., CVPR 2016).

    From leftImg8bit, gtFine (label ids), disparity (16 bits; 0 is unknown, and v stands for
    (v - 1) / 256 pixels) and, where its folder is there, camera (calibration of each frame).
    """

    kind = "official folders"
    classes = CLASSES

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.kinds = [kind for kind in KINDS if kind != CAMERA or (path / CAMERA).is_dir()]
        # Of each frame its folder, its city, and the beginning of its files' names.
        self.split = {split: self._frames(folder) for split, folder in FOLDERS.items()}

    def files(self) -> Iterable[Path]:
        """See :meth:`Layout.files`."""
        for keys in self.split.values():
            for key in keys:
                for kind in self.kinds:
                    yield self._file(kind, key)

    def frame(self, split: str, key: str) -> Frame:
        """See :meth:`Layout.frame`."""
        del split
        paths = [self._file(kind, key) for kind in (IMAGES, "gtFine", "disparity")]
        image_path, label_path, disparity_path = paths
        image = read_map(image_path, ("RGB",), "mode RGB (8 bits)")
        label = read_map(label_path, ("L",), "mode L (8 bits)")
        disparity = read_map(disparity_path, ("I;16", "I"), "mode I;16 (16 bits, grey)")
        check_labels(label, highest_label(), VOID, str(label_path))
        check_sizes(image_path, image, {label_path: label, disparity_path: disparity})
        return Frame(
            image=image,
            labels={classes: table(classes)[label] for classes in CLASSES},
            inverse=disparity.astype(np.float32) / np.float32(FULL_SCALE),
            camera=self._camera(key),
        )

    def _file(self, kind: str, key: str) -> Path:
        return self.path / kind / (key + KINDS[kind])

    def _frames(self, folder: str) -> Sequence[str]:
        """The frames of one split, each of which has all its files."""
        ending = KINDS[IMAGES]
        images = sorted((self.path / IMAGES / folder).glob(f"*/*{ending}"))
        if not images:
            raise UserError(
                f"{self.path / IMAGES / folder} holds no CITY/*{ending}: {TITLE} is incomplete."
            )
        keys = [
            f"{folder}/{image.parent.name}/{image.name.removesuffix(ending)}" for image in images
        ]
        for kind in self.kinds:
            there = {str(path) for path in (self.path / kind / folder).glob(f"*/*{KINDS[kind]}")}
            missing = [key for key in keys if str(self._file(kind, key)) not in there]
            if missing:
                raise UserError(
                    f"{self._file(kind, missing[0])} is missing, and {len(missing) - 1} more of "
                    f"{len(keys)} below that folder: {TITLE} is incomplete. Copy it again."
                )
        return keys

    def _camera(self, key: str) -> float:
        """Baseline times focal length of a frame."""
        if CAMERA not in self.kinds:
            return BASELINE * FOCAL
        path = self._file(CAMERA, key)
        try:
            camera = json.loads(path.read_text(encoding="utf-8"))
            product = float(camera["extrinsic"]["baseline"]) * float(camera["intrinsic"]["fx"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} has no numbers extrinsic.baseline and intrinsic.fx ({error!r}). Copy it "
                "again."
            ) from error
        if not (math.isfinite(product) and product > 0):
            raise UserError(f"{path}: baseline times fx is {product}, which no camera has.")
        return product
