"""Ranking methods over blocks (data sets, tasks, seeds) and over metrics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc, fdtrc, ndtr

from mtlrun.analysis.comparison.table import CriticalDifference
from mtlrun.analysis.statistics.seeds import Array, ascending_ranks


@dataclass(frozen=True)
class FriedmanTest:
    """Friedman's test that all methods do equally well.

    Attributes:
        chi2: Friedman's statistic, corrected for ties.
        p: its p-value from the chi-squared distribution; somewhat too large for few blocks.
        f: Iman and Davenport's statistic; infinite where all blocks rank alike.
        f_p: its p-value, less conservative; 0, and not to be believed, where all blocks of a few
            rank alike.
    """

    chi2: float
    p: float
    f: float
    f_p: float


def mean_ranks(scores: ArrayLike) -> Array:
    """Each method's rank over the blocks, 1 for the best; ties share their mean rank.

    Args:
        scores: higher is better, no NaN, shape [blocks, methods].

    Returns:
        Shape [methods].
    """
    ranks: Array = ascending_ranks(-_as_scores(scores)).mean(axis=0)
    return ranks


def friedman(scores: ArrayLike) -> FriedmanTest:
    """Friedman's test (JASA, 1937), and Iman and Davenport's (1980) better use of it.

    As in Demsar (JMLR 2006, section 3.2.2), and corrected for ties, which his formula leaves out.
    The blocks have to be independent of each other, as data sets are; metrics of the same runs
    are not.

    Args:
        scores: higher is better, no NaN, shape [blocks, methods], at least two of each.
    """
    table = _as_scores(scores)
    blocks, methods = table.shape
    if blocks < 2 or methods < 2:
        raise ValueError(f"friedman needs two blocks and two methods, and got {table.shape}")
    ranks = ascending_ranks(-table)
    between = blocks * float(((ranks.mean(axis=0) - (methods + 1) / 2) ** 2).sum())
    # Mean square of the ranks within blocks, methods (methods + 1) / 12 without ties.
    within = float(((ranks - (methods + 1) / 2) ** 2).sum()) / (blocks * (methods - 1))
    if within == 0:  # every block is one tie
        return FriedmanTest(chi2=0.0, p=1.0, f=0.0, f_p=1.0)
    most = blocks * (methods - 1)
    chi2 = min(between / within, float(most))
    left = most - chi2
    f = (blocks - 1) * chi2 / left if left > 1e-9 * most else math.inf
    f_p = float(fdtrc(methods - 1, (methods - 1) * (blocks - 1), f)) if math.isfinite(f) else 0.0
    return FriedmanTest(chi2, float(chdtrc(methods - 1, chi2)), f, f_p)


def nemenyi_distance(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """How far apart mean ranks must be to differ: CD = q sqrt(k (k + 1) / (6 N)).

    Nemenyi (PhD thesis, Princeton, 1963), as in Demsar (JMLR 2006, section 3.2.2).

    Args:
        methods: k, at least 2.
        blocks: N.
        alpha: the chance that any two of equal methods are called different.
    """
    if methods < 2 or blocks < 1:
        raise ValueError(f"two methods and a block are needed, and got {methods} and {blocks}")
    return _range_quantile(methods, alpha) * math.sqrt(methods * (methods + 1) / (6 * blocks))


def _range_quantile(methods: int, alpha: float) -> float:
    """Upper quantile of the range of ``methods`` standard normal values, over sqrt(2).

    The studentized range with infinite degrees of freedom: Demsar's table 5 (a).
    """
    smallest, step = np.linspace(-9, 9, 721, retstep=True)  # the trapezoid rule is exact here
    density = np.exp(-(smallest**2) / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, 40.0
    while high - low > 1e-12:
        width = (low + high) / 2
        # The smallest value is anywhere, and all the others are less than width above it.
        others = (ndtr(smallest + width) - ndtr(smallest)) ** (methods - 1)
        within = methods * step * float((density * others).sum())
        low, high = (width, high) if within < 1 - alpha else (low, width)
    return high / math.sqrt(2)


def cliques(ranks: Sequence[float], distance: float) -> tuple[tuple[int, int], ...]:
    """The largest groups of neighbours that do not differ, none inside another.

    Args:
        ranks: mean ranks, ascending.
        distance: ranks that are further apart than this differ.

    Returns:
        First and last index of each group of two and more: the bars of Demsar's diagram.
    """
    if list(ranks) != sorted(ranks):
        raise ValueError(f"cliques needs ascending ranks, and got {list(ranks)}")
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(at for at, other in enumerate(ranks) if other - rank <= distance)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(found)


def critical_difference(
    labels: Sequence[str], scores: ArrayLike, of: str, alpha: float = 0.05
) -> CriticalDifference | None:
    """What Demsar's critical difference diagram shows (JMLR 2006, section 3.2.4).

    Args:
        labels: of the methods.
        scores: higher is better, shape [blocks, methods]. A method with a NaN is left out.
        of: what a block is, in words.
        alpha: level of Nemenyi's test.

    Returns:
        None where fewer than two methods or two blocks are left.
    """
    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or table.shape[1] != len(labels):
        raise ValueError(f"{len(labels)} labels need scores of shape [blocks, {len(labels)}]")
    (whole,) = np.nonzero(~np.isnan(table).any(axis=0))
    if whole.size < 2 or len(table) < 2:
        return None
    table = table[:, whole]
    ranks = mean_ranks(table)
    order = np.argsort(ranks, kind="stable")
    ordered = tuple(float(ranks[at]) for at in order)
    distance = nemenyi_distance(whole.size, len(table), alpha)
    return CriticalDifference(
        labels=tuple(labels[whole[at]] for at in order),
        ranks=ordered,
        blocks=len(table),
        of=of,
        p=friedman(table).p,
        distance=distance,
        cliques=cliques(ordered, distance),
    )


def wins(values: ArrayLike, signs: ArrayLike) -> list[int]:
    """In how many metrics each method is the best, or as good as it.

    Args:
        values: shape [methods, metrics]; NaN is never best, nor is a figure without a rival.
        signs: 1 for a metric where higher is better, -1 where lower is, shape [metrics].
    """
    table = _with_signs(values, signs)
    known = ~np.isnan(table)
    best = np.where(known, table, -math.inf).max(axis=0, initial=-math.inf)
    rivals = known.sum(axis=0) > 1
    return [int(count) for count in (known & rivals & (table == best)).sum(axis=1)]


def mean_rank_over_metrics(values: ArrayLike, signs: ArrayLike) -> list[float]:
    """MR of Nash-MTL (Navon et al., ICML 2022) and its followers: mean rank over the metrics.

    It depends on which methods stand in the table.

    Args:
        values: shape [methods, metrics]. A method with a NaN is left out of the ranking.
        signs: 1 for a metric where higher is better, -1 where lower is, shape [metrics].

    Returns:
        For each method, 1 for one that is best in everything; NaN for those left out.
    """
    table = _with_signs(values, signs)
    whole = ~np.isnan(table).any(axis=1)
    ranks = np.full(len(table), math.nan)
    if whole.any() and table.shape[1]:
        ranks[whole] = mean_ranks(table[whole].T)
    return [float(rank) for rank in ranks]


def _as_scores(scores: ArrayLike) -> Array:
    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or np.isnan(table).any():
        raise ValueError("a ranking needs scores of shape [blocks, methods] without NaN")
    return table


def _with_signs(values: ArrayLike, signs: ArrayLike) -> Array:
    """``values``, shape [methods, metrics], turned so that higher is better."""
    table: Array = np.asarray(values, np.float64) * np.asarray(signs, np.float64)
    if table.ndim != 2:
        raise ValueError(f"expected values of shape [methods, metrics], got {list(table.shape)}")
    return table
