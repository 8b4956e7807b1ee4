"""Writes small NYUv2 sources in each layout."""

from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from mtlrun.data.nyuv2.tables import VOID

SIZE = (24, 32)


def smooth_image(number: int, size=SIZE) -> np.ndarray:
    """An image without edges, which JPEG keeps to within a few grey levels."""
    rows, columns = np.indices(size)
    planes = (rows * 4 + number * 10, columns * 4, (rows + columns) * 2 + number)
    return np.stack(planes, axis=-1).astype(np.uint8)


def labels(number: int, classes: int = 40, size=SIZE) -> np.ndarray:
    draws = np.random.default_rng(number)
    label = draws.integers(0, classes, size).astype(np.uint8)
    label[draws.random(size) < 0.2] = VOID
    return label


def write_image_folders(root: Path, train=(3, 4, 5), test=(1, 2), size=SIZE) -> Path:
    for folder in ("image", "depth", "label40"):
        (root / folder).mkdir(parents=True)
    for number in (*train, *test):
        name = f"{number:04d}"
        Image.fromarray(smooth_image(number, size)).save(root / "image" / f"{name}.jpg", quality=95)
        depth = (np.indices(size)[0] * 48 // size[0] + 40 + number).astype(np.uint8)
        Image.fromarray(depth).save(root / "depth" / f"{name}.png")
        Image.fromarray(labels(number, size=size)).save(root / "label40" / f"{name}.png")
    (root / "train.txt").write_text("\n".join(f"{number:04d}" for number in train))
    (root / "test.txt").write_text("\n".join(f"{number:04d}" for number in test))
    return root


def write_mtan(root: Path, train: int = 3, test: int = 2, size=SIZE) -> Path:
    for split, count in (("train", train), ("val", test)):
        for kind in ("image", "label", "depth", "normal"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            label = labels(number, classes=13, size=size).astype(np.float32)
            label[label == VOID] = -1
            depth = np.random.default_rng(number).uniform(0.5, 9, (*size, 1)).astype(np.float32)
            depth[0] = 0
            normal = np.random.default_rng(number).normal(size=(*size, 3)).astype(np.float32)
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            normal[0] = 0
            for kind, values in (
                ("image", smooth_image(number, size).astype(np.float32) / 255),
                ("label", label),
                ("depth", depth),
                ("normal", normal),
            ):
                np.save(root / split / kind / f"{number}.npy", values)
    return root


def write_mat(path: Path, frames: int = 6, size=SIZE, highest_label: int = 894) -> Path:
    """The official file's format: MATLAB's axes, in reverse as HDF5 shows them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    draws = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        images = np.stack([smooth_image(number, size) for number in range(1, frames + 1)])
        file.create_dataset("images", data=images.transpose(0, 3, 2, 1), compression="gzip")
        depths = draws.uniform(0.7, 9.9, (frames, width, height)).astype(np.float32)
        file.create_dataset("depths", data=depths, compression="gzip")
        stored = draws.integers(0, highest_label + 1, (frames, width, height)).astype(np.uint16)
        stored[0, 0, 0] = highest_label
        file.create_dataset("labels", data=stored, compression="gzip")
    return path
