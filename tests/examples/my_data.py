"""Two half moons: which moon (2 classes), and how far from the origin (a number)."""

import torch
from sklearn.datasets import make_moons

from mtlrun.data.base import Dataset, TensorSource


class Moons(Dataset):
    """One stream with two tasks; every second row has no label for ``distance``."""

    def __init__(self, rows: int = 2000, noise: float = 0.2) -> None:
        points, moon = make_moons(rows, noise=noise, random_state=0)
        inputs = torch.tensor(points, dtype=torch.float32)  # [rows, 2]
        distance = inputs.norm(dim=1)
        distance[::2] = torch.nan  # a missing label
        source = TensorSource(inputs, {"moon": torch.tensor(moon), "distance": distance})

        train, val, test = torch.arange(rows).split([rows // 2, rows // 4, rows // 4])
        parts = {"train": train, "val": val, "test": test}
        self.splits = {split: {"moons": source.subset(part)} for split, part in parts.items()}
        self.streams = {"moons": ("moon", "distance")}
        self.input_shape = {"moons": (2,)}
        self.facts = {"moon": {"classes": 2}}
