"""How sure a comparison of a few seeds is: intervals, tests, and corrections for many of them.

Everything is computed in float64 on plain numbers. What there is too little data for is NaN: an
interval from one seed, a test of one pair.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]
Interval = tuple[float, float]
"""Lower and upper end."""

NO_INTERVAL: Interval = (math.nan, math.nan)


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval for the mean: mean ± t(level, n - 1) s / sqrt(n).

    Exact for normal values. With three seeds it is ± 2.48 standard deviations wide, because that
    is how little three seeds say.

    Args:
        values: one a seed, shape [S].
        level: the share of such intervals that hold the mean.

    Returns:
        The ends; NaN with fewer than two values, or where one is not finite.
    """
    sample = as_vector(values)
    if sample.size < 2 or not np.isfinite(sample).all():
        return NO_INTERVAL
    error = sample.std(ddof=1) / math.sqrt(sample.size)
    return around(float(sample.mean()), float(error), sample.size - 1, level)


def around(centre: float, error: float, freedom: float, level: float) -> Interval:
    """``centre ± t(level, freedom) error``."""
    reach = float(stdtrit(freedom, (1 + level) / 2)) * error
    return centre - reach, centre + reach


def paired_test(first: ArrayLike, second: ArrayLike, kind: Literal["t", "wilcoxon"] = "t") -> float:
    """Two-sided p-value that two methods do equally well, seed by seed or task by task.

    Args:
        first: figures of one method, shape [N].
        second: figures of the other one for the same seeds in the same order, shape [N].
        kind: ``t`` is Student's test of the differences. ``wilcoxon`` is the signed-rank test
            (Wilcoxon, 1945; Demsar, JMLR 2006, section 3.1.3) with its exact distribution, ties
            by mean ranks, pairs that do not differ left out. Its smallest p-value is 2 / 2**N:
            with fewer than six pairs it cannot get below 0.05.

    Returns:
        1 where all pairs are equal; 0 from ``t`` where all differ by the same amount; NaN with
        fewer than two pairs, or where a figure is not finite.

    Raises:
        ValueError: the two are not of one length.
    """
    one, other = as_vector(first), as_vector(second)
    if one.size != other.size:
        raise ValueError(f"paired_test needs pairs, and got {one.size} and {other.size} values")
    differences = one - other
    if differences.size < 2 or not np.isfinite(differences).all():
        return math.nan
    if not differences.any():
        return 1.0
    if kind == "wilcoxon":
        return _signed_rank_p(differences)
    error = differences.std(ddof=1) / math.sqrt(differences.size)
    return _student_p(float(differences.mean()), float(error), differences.size - 1)


def unpaired_test(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided p-value that two methods do equally well, where they share no seeds.

    Welch's t-test (Biometrika, 1947), which does not assume that both scatter alike.

    Args:
        first: figures of one method, shape [N].
        second: figures of the other one, shape [M].

    Returns:
        Where neither scatters 1 for equal means, else 0. NaN with fewer than two values on
        either side, or where a figure is not finite.
    """
    samples = as_vector(first), as_vector(second)
    if any(sample.size < 2 or not np.isfinite(sample).all() for sample in samples):
        return math.nan
    variances = [float(sample.var(ddof=1)) / sample.size for sample in samples]
    freedom = welch_freedom(variances, [sample.size - 1 for sample in samples])
    difference = float(samples[0].mean() - samples[1].mean())
    return _student_p(difference, math.sqrt(sum(variances)), freedom)


def welch_freedom(variances: Sequence[float], freedoms: Sequence[int]) -> float:
    """Degrees of freedom of a sum of independent estimates (Satterthwaite, 1946).

    Args:
        variances: squared standard error of each estimate.
        freedoms: degrees of freedom of each of these.
    """
    # Shares of the largest, so that tiny variances do not vanish when they are squared.
    largest = max(variances)
    if largest == 0:
        return float(sum(freedoms))
    shares = [variance / largest for variance in variances]
    parts = sum(share**2 / freedom for share, freedom in zip(shares, freedoms, strict=True))
    return sum(shares) ** 2 / parts


def bonferroni(p_values: ArrayLike) -> list[float]:
    """P-values times their number, at most 1 (Dunn, JASA 1961).

    Args:
        p_values: shape [N]. NaN, a test that could not be made, stays NaN and is not counted.
    """
    return _adjust(p_values, lambda ordered: ordered * ordered.size)


def holm(p_values: ArrayLike) -> list[float]:
    """P-values adjusted by Holm's step-down procedure (Scand. J. Statistics, 1979).

    The i-th smallest of N times N + 1 - i, at least the one before it, at most 1. Rejecting what
    is below 0.05 keeps the chance of any false rejection at 5 %, whatever the tests have to do
    with each other, and never rejects less than Bonferroni's correction.

    Args:
        p_values: shape [N]. NaN, a test that could not be made, stays NaN and is not counted.

    Returns:
        The adjusted p-values, in the order given.
    """
    return _adjust(
        p_values,
        lambda ordered: np.maximum.accumulate(ordered * np.arange(ordered.size, 0, -1)),
    )


def _adjust(p_values: ArrayLike, rule: Callable[[Array], Array]) -> list[float]:
    """Apply ``rule``, from ascending p-values to adjusted ones, to those that are numbers."""
    p = as_vector(p_values)
    (known,) = np.nonzero(~np.isnan(p))
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise ValueError(f"p-values lie between 0 and 1, and these are {p.tolist()}")
    ascending = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(p.shape, math.nan)
    adjusted[ascending] = np.minimum(rule(p[ascending]), 1)
    return [float(value) for value in adjusted]


def _student_p(difference: float, error: float, freedom: float) -> float:
    """Two-sided p-value of ``difference`` in units of its standard error."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(difference) / error))


def _signed_rank_p(differences: Array) -> float:
    """Exact two-sided p-value of Wilcoxon's signed-rank statistic.

    Under the null hypothesis each rank is positive or negative with the same chance, so the
    distribution of the sum of the positive ones is a convolution. Ranks are doubled, which makes
    the half ones of ties whole.
    """
    differences = differences[differences != 0]
    doubled = np.rint(2 * ascending_ranks(np.abs(differences))).astype(np.int64)
    chances = np.ones(1)
    for rank in doubled:
        grown = np.zeros(chances.size + rank)
        grown[: chances.size] += chances / 2
        grown[rank:] += chances / 2
        chances = grown
    positive = int(doubled[differences > 0].sum())
    smaller = min(positive, int(doubled.sum()) - positive)
    return min(1.0, 2 * float(chances[: smaller + 1].sum()))


def ascending_ranks(values: ArrayLike) -> Array:
    """Ranks along the last axis, 1 for the smallest; equal values share their mean rank.

    Args:
        values: shape [..., N]; a NaN gets rank 1/2 and moves no other one.
    """
    array = np.asarray(values, np.float64)
    mine, others = array[..., :, None], array[..., None, :]
    ranks: Array = (others < mine).sum(-1) + ((others == mine).sum(-1) + 1) / 2
    return ranks


def as_vector(values: ArrayLike) -> Array:
    """``values`` as a float64 array of shape [N]."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected values of shape [N], and got shape {list(array.shape)}")
    return array
