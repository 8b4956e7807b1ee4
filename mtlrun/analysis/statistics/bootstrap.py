"""Intervals by resampling seeds, and of the change against a baseline that has seeds of its own.

A bootstrap cannot say more than its seeds show: it never leaves their range. Its "95 %" intervals
for the mean of normal values hold it in 75 % of cases with three seeds, 84 % with five, 90 % with
ten and 92 % with twenty, and BCa's corrections (Efron, JASA 1987) do not help there; Student's
intervals hold it in 95 % with any number. So for few seeds print
:func:`mtlrun.analysis.statistics.seeds.t_interval` and :func:`jackknife_change`.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from mtlrun.analysis.statistics.seeds import (
    NO_INTERVAL,
    Array,
    Interval,
    around,
    as_vector,
    welch_freedom,
)

Rows = NDArray[np.intp]

MOST_ENUMERATED = 50_000
"""Up to how many different resamples there are, all of them are computed instead of drawn."""


@dataclass(frozen=True)
class ChangeIntervals:
    """Intervals of the change against a baseline, in percent, positive where better.

    Attributes:
        tasks: for each task, in the order in which ``groups`` names them first.
        over_metrics: for the mean over all metrics.
        over_tasks: for the mean over tasks of the means over each task's metrics.
    """

    tasks: tuple[Interval, ...]
    over_metrics: Interval
    over_tasks: Interval

    @classmethod
    def of(cls, intervals: Sequence[Interval]) -> "ChangeIntervals":
        """From the intervals of the tasks and, last, of both definitions of delta_m."""
        *tasks, over_metrics, over_tasks = intervals
        return cls(tuple(tasks), over_metrics, over_tasks)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., Array] = np.mean,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The bootstrap's percentile interval (Efron and Tibshirani, 1993, chapter 13).

    Too short for few values: see the module.

    Args:
        values: one a seed, shape [S].
        statistic: takes resamples, shape [R, S], and ``axis=1``, and gives shape [R].
        level: the share of the resamples that the interval holds.
        draws: resamples that are drawn where there are too many to compute all; up to nine
            values all are computed, and nothing is random.
        seed: of the draws.

    Returns:
        The ends, which are values of the statistic; NaN with fewer than two values, or where one
        is not finite.
    """
    sample = as_vector(values)
    if sample.size < 2 or not np.isfinite(sample).all():
        return NO_INTERVAL
    rows, chances = _resamples(sample.size, draws, seed)
    return _percentiles(statistic(sample[rows], axis=1)[:, None], chances, level)[0]


def bootstrap_change(
    values: ArrayLike,
    baseline: ArrayLike,
    signs: ArrayLike,
    groups: Sequence[Hashable],
    *,
    paired: bool,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> ChangeIntervals:
    """Percentile intervals of the change against a baseline whose seeds are resampled too.

    Too short for few seeds: see the module.

    Args:
        values: a method's metrics, one row a seed, shape [S, M].
        baseline: the baseline's metrics, one row a seed, shape [B, M].
        signs: 1 for a metric where higher is better, -1 where lower is, shape [M].
        groups: the task of each metric, length M.
        paired: whether both have the same seeds in the same order; they are then drawn together,
            else on their own.
        level: the share of the resamples that an interval holds.
        draws: resamples that are drawn where there are too many to compute all; all are computed
            for up to nine seeds when paired, for up to five and five when not.
        seed: of the draws.

    Returns:
        NaN with fewer than two seeds on either side, and where a figure is missing or a change is
        not defined, since the baseline's figure is 0.

    Raises:
        ValueError: the shapes do not fit.
    """
    change = _Change.of(values, baseline, signs, groups, paired)
    sizes = len(change.values), len(change.baseline)
    if min(sizes) < 2:
        return ChangeIntervals.of([NO_INTERVAL] * change.figures)
    if paired:
        rows, chances = _resamples(sizes[0], draws, seed)
        both = rows, rows
    else:
        both, chances = _resamples_of_two(sizes, draws, seed)
    means = _means(change.values, both[0]), _means(change.baseline, both[1])
    return ChangeIntervals.of(_percentiles(change.between(*means), chances, level))


def jackknife_change(
    values: ArrayLike,
    baseline: ArrayLike,
    signs: ArrayLike,
    groups: Sequence[Hashable],
    *,
    paired: bool,
    level: float = 0.95,
) -> ChangeIntervals:
    """Student intervals of the change against a baseline, both of which vary over seeds.

    The standard error is the jackknife's (Tukey, 1958; Efron and Tibshirani, 1993, chapter 11):
    what the change becomes with each seed left out. Without pairs both sides' variances add, with
    Satterthwaite's degrees of freedom. Where the baseline does not vary this is Student's
    interval of the changes of the single seeds.

    Args:
        values: a method's metrics, one row a seed, shape [S, M].
        baseline: the baseline's metrics, one row a seed, shape [B, M].
        signs: 1 for a metric where higher is better, -1 where lower is, shape [M].
        groups: the task of each metric, length M.
        paired: whether both have the same seeds in the same order; they are then left out
            together.
        level: the share of such intervals that hold the change.

    Returns:
        Symmetric about the change between the means over seeds; NaN as in
        :func:`bootstrap_change`.

    Raises:
        ValueError: the shapes do not fit.
    """
    change = _Change.of(values, baseline, signs, groups, paired)
    sizes = len(change.values), len(change.baseline)
    if min(sizes) < 2:
        return ChangeIntervals.of([NO_INTERVAL] * change.figures)
    whole = change.values.mean(axis=0)[None], change.baseline.mean(axis=0)[None]
    centre = change.between(*whole)[0]
    less = _left_out(change.values), _left_out(change.baseline)
    if paired:
        parts = [change.between(*less)]
    else:
        parts = [change.between(less[0], whole[1]), change.between(whole[0], less[1])]
    freedoms = [len(part) - 1 for part in parts]
    # [parts, figures]
    variances = np.array([part.var(axis=0) * (len(part) - 1) for part in parts])
    intervals = [
        around(float(mean), math.sqrt(sum(variance)), welch_freedom(variance, freedoms), level)
        if math.isfinite(mean) and np.isfinite(variance).all()
        else NO_INTERVAL
        for mean, variance in zip(centre, variances.T.tolist(), strict=True)
    ]
    return ChangeIntervals.of(intervals)


@dataclass(frozen=True)
class _Change:
    """What is compared, and how changes of metrics become those of tasks and delta_m.

    Attributes:
        values: shape [S, M].
        baseline: shape [B, M].
        signs: shape [M].
        weights: of each metric in each task and in both definitions of delta_m, shape [M, F].
    """

    values: Array
    baseline: Array
    signs: Array
    weights: Array

    @classmethod
    def of(
        cls,
        values: ArrayLike,
        baseline: ArrayLike,
        signs: ArrayLike,
        groups: Sequence[Hashable],
        paired: bool,
    ) -> "_Change":
        """Check the shapes; raises ValueError."""
        table, against = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
        turned, metrics = as_vector(signs), len(groups)
        shapes = f"values {table.shape}, baseline {against.shape}, signs {turned.shape}"
        wide = all(array.ndim == 2 and array.shape[1] == metrics for array in (table, against))
        if not metrics or not wide or turned.size != metrics:
            raise ValueError(f"shapes do not fit: {shapes}, and {metrics} groups")
        if paired and len(table) != len(against):
            raise ValueError(f"pairs need as many seeds on both sides: {shapes}")
        tasks = list(dict.fromkeys(groups))
        members = np.array([[group == task for task in tasks] for group in groups], np.float64)
        of_tasks = members / members.sum(axis=0)  # [M, G]
        over_metrics, over_tasks = np.full(metrics, 1 / metrics), of_tasks.mean(axis=1)
        weights = np.column_stack([of_tasks, over_metrics, over_tasks])
        return cls(table, against, turned, weights)

    @property
    def figures(self) -> int:
        """F: the tasks and two."""
        return int(self.weights.shape[1])

    def between(self, means: Array, against: Array) -> Array:
        """Changes in percent, shape [R, F], from means over seeds, [R, M] or [1, M].

        See :func:`~mtlrun.analysis.statistics.delta_m.relative_change`; NaN where the baseline is 0
        or a figure is not finite.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            changes = 100 * self.signs * (means - against) / np.abs(against)
        changes[~np.isfinite(changes)] = math.nan
        # A sum, not a product of matrices: NaN stays with the figures that it belongs to.
        figures = [changes[:, used] @ column[used] for used, column in self._columns()]
        return np.stack(figures, axis=1)

    def _columns(self) -> list[tuple[Rows, Array]]:
        return [(np.nonzero(column)[0], column) for column in self.weights.T]


def _different(rows: int) -> int:
    """How many resamples of ``rows`` rows differ by more than their order."""
    return math.comb(2 * rows - 1, rows)


def _resamples(size: int, draws: int, seed: int) -> tuple[Rows, Array]:
    """Rows of resamples of ``size`` rows, shape [R, size], and the chance of each, shape [R]."""
    if _different(size) <= MOST_ENUMERATED:
        return _all_resamples(size)
    return _drawn(size, draws, (seed, 0)), np.full(draws, 1 / draws)


def _resamples_of_two(
    sizes: tuple[int, int], draws: int, seed: int
) -> tuple[tuple[Rows, Rows], Array]:
    """The same for two samples that are resampled on their own."""
    if _different(sizes[0]) * _different(sizes[1]) > MOST_ENUMERATED:
        drawn = _drawn(sizes[0], draws, (seed, 0)), _drawn(sizes[1], draws, (seed, 1))
        return drawn, np.full(draws, 1 / draws)
    (first, chances), (second, others) = _all_resamples(sizes[0]), _all_resamples(sizes[1])
    each = np.repeat(first, len(second), axis=0), np.tile(second, (len(first), 1))
    return each, np.outer(chances, others).ravel()


def _drawn(size: int, draws: int, seed: tuple[int, int]) -> Rows:
    """Rows of ``draws`` resamples; ``seed`` also says which sample they are for."""
    return np.random.default_rng(seed).integers(size, size=(draws, size))


@lru_cache(maxsize=16)
def _all_resamples(size: int) -> tuple[Rows, Array]:
    """Every resample once, whatever its order, with its chance among all size**size."""
    rows = np.array(list(combinations_with_replacement(range(size), size)), np.intp)
    orders = gammaln(size + 1) - gammaln(_counts(rows) + 1).sum(axis=1)
    return rows, np.exp(orders - size * math.log(size))


def _counts(rows: Rows) -> Array:
    """How often each row is in each resample, shape [R, S]."""
    size = rows.shape[1]
    return np.stack([(rows == row).sum(axis=1) for row in range(size)], axis=1).astype(np.float64)


def _means(table: Array, rows: Rows) -> Array:
    """Mean of each column of ``table``, shape [S, M], over each resample: [R, M]."""
    means: Array = _counts(rows) @ table / len(table)
    return means


def _left_out(table: Array) -> Array:
    """Mean over rows with each row left out in turn, shape [S, M]."""
    means: Array = (table.sum(axis=0) - table) / (len(table) - 1)
    return means


def _percentiles(figures: Array, chances: Array, level: float) -> list[Interval]:
    """For each column the interval that leaves at most (1 - level) / 2 out on either side.

    Args:
        figures: shape [R, F]; a column with a NaN has no interval.
        chances: of each row, shape [R].
        level: what the intervals hold.
    """
    tail = (1 - level) / 2 - 1e-12  # what sums to the tail but for rounding counts as the tail
    intervals = []
    for column in figures.T:
        if np.isnan(column).any():
            intervals.append(NO_INTERVAL)
            continue
        order = np.argsort(column, kind="stable")
        low = np.searchsorted(np.cumsum(chances[order]), tail)
        high = np.searchsorted(np.cumsum(chances[order[::-1]]), tail)
        intervals.append((float(column[order[low]]), float(column[order[-1 - high]])))
    return intervals
