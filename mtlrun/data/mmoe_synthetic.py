"""MMoE's synthetic data: two regressions whose relatedness is a setting."""

import numpy as np
import numpy.typing as npt
import torch

from mtlrun.data.base import Dataset, TensorSource

Floats = npt.NDArray[np.float64]

DIMENSIONS = 100
SCALE = 0.3
SINES = 5
NOISE = 0.1
STREAM = "mmoe_synthetic"


class MMoESynthetic(Dataset):
    """Two regressions of a given relatedness (Ma et al., KDD 2018, section 3.2).

    With orthogonal unit vectors u1 and u2 of 100 dimensions and the correlation rho,

        w1 = 0.3 u1,    w2 = 0.3 (rho u1 + sqrt(1 - rho^2) u2)
        y_t = w_t x + sum over j = 1 ... 5 of sin(alpha_j w_t x + beta_j) + noise

    where x, alpha and beta are standard normal and the noise's standard deviation is 0.1. The
    Pearson correlation of the labels grows with rho, but is not it: -0.02 at rho = 0, 0.46 at 0.5,
    0.76 at 0.8, 0.97 at 1 with seed 1.

    - ``y1``, ``y2``: the two labels, as they are (with seed 1 of mean -2.6, deviation 0.58).

    Numbers are drawn from NumPy's legacy generator in the order of drawbridge/keras-mmoe
    (``synthetic_demo.py``), so ``seed=1`` gives that script's very rows. The paper gives neither
    alpha, beta nor rows; there u1 is any unit vector, and here one of mean 0, as in the script.

    Args:
        correlation: rho, the cosine of w1 and w2, from -1 to 1.
        train_rows: rows to train on. They are drawn first, then those for validation and test.
        validation_rows: rows to validate on.
        test_rows: rows to test on.
        seed: of all draws; not the run's, so that all runs see the same data.
        carve_validation: whether there is a validation split. It takes no rows from training.
    """

    def __init__(
        self,
        correlation: float = 0.8,
        train_rows: int = 10000,
        validation_rows: int = 1000,
        test_rows: int = 1000,
        seed: int = 1,
        *,
        carve_validation: bool = True,
    ) -> None:
        if not -1 <= correlation <= 1:
            raise ValueError(f"correlation={correlation}: must be from -1 to 1")
        rows = {"train": train_rows, "val": validation_rows, "test": test_rows}
        for name, count in zip(
            ("train_rows", "validation_rows", "test_rows"), rows.values(), strict=True
        ):
            if count < 1:
                raise ValueError(f"{name}={count}: must be 1 or more")
        inputs, labels = draw(correlation, sum(rows.values()), seed)
        everything = TensorSource(
            torch.from_numpy(inputs).float(),
            {
                "y1": torch.from_numpy(labels[0]).float(),
                "y2": torch.from_numpy(labels[1]).float(),
            },
        )
        parts = torch.arange(len(inputs)).split(list(rows.values()))
        self.splits = {
            split: {STREAM: everything.subset(part)}
            for split, part in zip(rows, parts, strict=True)
            if carve_validation or split != "val"
        }
        self.streams = {STREAM: ("y1", "y2")}
        self.input_shape = {STREAM: (DIMENSIONS,)}
        self.facts = {task: {"kind": "regression"} for task in ("y1", "y2")}


def draw(correlation: float, rows: int, seed: int) -> tuple[Floats, Floats]:
    """Inputs, [rows, 100], and labels, [2, rows], in the published order of draws."""
    draws = np.random.RandomState(seed)
    u1 = draws.normal(size=DIMENSIONS)
    u1 = (u1 - u1.mean()) / (u1.std() * np.sqrt(DIMENSIONS))
    u2 = draws.normal(size=DIMENSIONS)
    u2 -= (u2 @ u1) * u1
    u2 /= np.linalg.norm(u2)
    w2 = correlation * u1 + np.sqrt(1 - correlation**2) * u2
    alpha, beta = draws.normal(size=SINES), draws.normal(size=SINES)
    # A row's draws are its 100 inputs, then the noise of each task.
    table = draws.normal(size=(rows, DIMENSIONS + 2))
    inputs, noise = table[:, :DIMENSIONS], NOISE * table[:, DIMENSIONS:]
    projected = SCALE * (inputs @ np.stack([u1, w2], axis=1))  # [rows, 2]
    waves = np.sin(projected[..., None] * alpha + beta).sum(-1)
    return inputs, (projected + waves + noise).T
