"""Bringing numbers to mean 0 and standard deviation 1."""

import torch
from torch import Tensor


def center_and_scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of the population) of each column, float64.

    Missing values (NaN) do not count. The deviation of a column whose values are all the same, or
    all missing, is 1, so that dividing by it is harmless.

    Args:
        rows: [rows, columns], usually the training rows.

    Returns:
        two tensors of shape [columns].
    """
    values = rows.double()
    center = values.nanmean(0).nan_to_num()
    squares = (values - center).square().nanmean(0).nan_to_num()
    # What is left of equal values is rounding.
    constant = squares <= 1e-24 * center.square()
    return center, torch.where(constant, 1.0, squares.sqrt())
