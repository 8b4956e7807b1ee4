"""Exact metrics of how well scores rank positives above negatives.

Both follow from all scores of a split; no threshold is sampled. A split without a class that a
metric needs gives NaN, and so does one with a NaN among its scores.
"""

import math

import torch
from torch import Tensor


def roc_auc(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half.

    It is the statistic of Mann and Whitney (1947) over the number of pairs. NaN where one class is
    absent.

    Args:
        scores: [N].
        positive: bool [N].
    """
    if scores.isnan().any():
        return math.nan
    positives, negatives = _tallies(scores, positive)
    below = negatives.cumsum(0) - negatives
    wins = (positives * (below + negatives / 2)).sum()
    return (wins / (positives.sum() * negatives.sum())).item()


def average_precision(scores: Tensor, positive: Tensor) -> float:
    """Precision at each distinct score, weighted by the recall gained there, not interpolated.

    NaN where there is no positive.

    Args:
        scores: [N].
        positive: bool [N].
    """
    if scores.isnan().any():
        return math.nan
    positives, negatives = (tally.flip(0) for tally in _tallies(scores, positive))
    found = positives.cumsum(0)
    precision = found / (found + negatives.cumsum(0))
    return ((positives * precision).sum() / positives.sum()).item()


def _tallies(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Positives and negatives at each distinct score, in rising order: float64."""
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    positives = torch.zeros(len(counts), dtype=torch.float64, device=scores.device)
    positives.scatter_add_(0, place, positive.double())
    return positives, counts - positives
