"""Digits: the quick-start dataset."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits

from mtlrun.data.base import Dataset, NewInputs, TensorSource, carve, check_share
from mtlrun.data.images import decode, grey, one_image

BRIGHTEST = 16.0
SIDE = 8


class Digits(Dataset):
    """scikit-learn's handwritten digits (1797 real 8x8 images), with three tasks.

    - ``digit``: which of ten;
    - ``parity``: whether it is even or odd;
    - ``ink``: the image's mean intensity, a regression, standardised by the mean and standard
      deviation of the rows that are not in the test split. So its squared error starts near 1, the
      size of the other tasks' losses.

    Images are float32 [1, 8, 8] from 0 to 1. The data comes with scikit-learn (from the UCI
    repository's Optical Recognition of Handwritten Digits; Alpaydin & Kaynak 1998).

    Args:
        validation: share of the training rows to carve out for validation.
        test: share of all rows to test on.
        seed: of the splits. It is not the run's, so that all runs see the same rows.
        carve_validation: whether to carve at all.
    """

    new_inputs = "images"

    def __init__(
        self,
        validation: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
        *,
        carve_validation: bool = True,
    ) -> None:
        for name, share in (("validation", validation), ("test", test)):
            check_share(name, share)
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().div_(BRIGHTEST).unsqueeze(1)
        digit = torch.from_numpy(digits.target).long()
        training, testing = carve(len(images), test, seed)
        ink = images.mean((1, 2, 3), dtype=torch.float64)
        ink = ((ink - ink[training].mean()) / ink[training].std(correction=0)).float()
        rows = TensorSource(images, {"digit": digit, "parity": digit % 2, "ink": ink})

        self.splits = {"test": {"digits": rows.subset(testing)}}
        if carve_validation:
            kept, carved = carve(len(training), validation, seed)
            self.splits["val"] = {"digits": rows.subset(training[carved])}
            training = training[kept]
        self.splits["train"] = {"digits": rows.subset(training)}
        self.streams = {"digits": ("digit", "parity", "ink")}
        self.input_shape = {"digits": (1, SIDE, SIDE)}
        self.normalisation = {"mean": [0.0], "deviation": [1.0]}
        self.facts = {
            "digit": {"classes": 10, "class_names": [str(number) for number in range(10)]},
            "parity": {"classes": 2, "class_names": ["even", "odd"]},
            "ink": {},
        }

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """An image, scaled to 8x8, its brightness in the 17 steps that the data has.

        As there, writing is bright on black. See :meth:`Dataset.encode`.
        """
        del stream, column
        pixels = grey(decode(file, str(file), (SIDE, SIDE)))
        return one_image((pixels.float() * (BRIGHTEST / 255)).round_().div_(BRIGHTEST))
