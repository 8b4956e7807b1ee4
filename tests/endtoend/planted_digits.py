"""Digits with tasks of a known kinship: two pairs of related tasks, and one of coin tosses."""

import torch
from sklearn.datasets import load_digits

from mtlrun.data.base import Dataset, TensorSource

PAIRS = (("odd", "odd_below_nine"), ("large", "very_large"))
"""Two tasks of a pair ask nearly the same of a digit: they differ for one of the ten. Tasks of
different pairs ask different things of it."""

CHANCE = "coin"


class PlantedDigits(Dataset):
    """scikit-learn's digits; every other row trains."""

    def __init__(self) -> None:
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().div_(16).unsqueeze(1)
        digit = torch.from_numpy(digits.target).long()
        draws = torch.Generator().manual_seed(0)
        odd = digit % 2
        targets = {
            "odd": odd,
            "large": (digit >= 5).long(),
            CHANCE: torch.randint(2, digit.shape, generator=draws),
            "very_large": (digit >= 6).long(),
            "odd_below_nine": odd * (digit < 9),
        }
        rows = TensorSource(images, targets)
        numbers = torch.arange(len(digit))
        self.streams = {"digits": tuple(targets)}
        self.splits = {
            split: {"digits": rows.subset(numbers[start::step])}
            for split, start, step in (("train", 0, 2), ("val", 1, 8), ("test", 3, 8))
        }
        self.input_shape = {"digits": (1, 8, 8)}
        self.facts = {task: {"classes": 2} for task in targets}
