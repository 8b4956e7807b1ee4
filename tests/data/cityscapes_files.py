"""Writes small Cityscapes sources in each layout."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (16, 32)
CITIES = {"train": ("aachen", "ulm"), "val": ("lindau",)}


def image(number: int, size=SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def label_ids(number: int, size=SIZE) -> np.ndarray:
    """Every annotated label, 0 to 33, in turn."""
    return ((np.arange(size[0] * size[1]) + number) % 34).astype(np.uint8).reshape(size)


def disparity(number: int, size=SIZE) -> np.ndarray:
    """Values as they occur: 0 is unknown, 1 infinitely far, 32257 the largest in the real data."""
    values = np.random.default_rng(number).integers(2, 32257, size).astype(np.uint16)
    values[0], values[1], values[2] = 0, 1, 32257
    return values


def write_official(root: Path, frames: int = 3, camera: bool = False, size=SIZE) -> Path:
    """``frames`` in each city; frames are numbered through, train first, cities in order."""
    number = 0
    for split, cities in CITIES.items():
        for city in cities:
            for frame in range(frames):
                stem = f"{split}/{city}/{city}_000000_{frame:06d}"
                for kind, values, ending in (
                    ("leftImg8bit", image(number, size), "leftImg8bit.png"),
                    ("gtFine", label_ids(number, size), "gtFine_labelIds.png"),
                    ("disparity", disparity(number, size), "disparity.png"),
                ):
                    path = root / kind / f"{stem}_{ending}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(values).save(path)
                if camera:
                    path = root / "camera" / f"{stem}_camera.json"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(
                        json.dumps(
                            {
                                "extrinsic": {"baseline": 0.2 + number / 100, "pitch": 0.05},
                                "intrinsic": {"fx": 2000.0, "fy": 2265.3, "u0": 1096.98},
                            }
                        )
                    )
                number += 1
    return root


def write_mtan(root: Path, train: int = 3, test: int = 2, labels=("label_7",), size=SIZE) -> Path:
    for split, count in (("train", train), ("val", test)):
        for number in range(count):
            arrays = {
                "image": image(number, size).astype(np.float64) / 255,
                "depth": (disparity(number, size) / 65535).astype(np.float32)[..., None],
            }
            for name in labels:
                classes = 19 if name == "label_19" else 7
                turns = (np.arange(size[0] * size[1]) + number) % (classes + 1)
                arrays[name] = (turns - 1).astype(np.float64).reshape(size)
            for kind, values in arrays.items():
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                np.save(root / split / kind / f"{number}.npy", values)
    return root
