"""Axes that one method which went astray does not stretch."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

MARGIN = 0.06
FEW = 6
"""Among fewer values none is far out."""

FAR_OUT = 3.0
"""Quartile distances outside the quartiles from which a value is far out (Tukey, Exploratory Data
Analysis, 1977)."""

STRETCHED = 3.0
"""Far values are held, too, where the axis becomes at most so many times longer by them."""


class Limits(NamedTuple):
    """The ends of an axis, ``low`` < ``high``."""

    low: float
    high: float

    def hold(self, value: float) -> bool:
        """Whether the value lies between them."""
        return self.low <= value <= self.high

    def nearest(self, value: float) -> float:
        """The value, or the end that it lies beyond."""
        return min(max(value, self.low), self.high)


def robust_limits(values: Iterable[float], always: Iterable[float] = ()) -> Limits:
    """Limits around all values but those far out, with a margin.

    Args:
        values: any; NaN does not count.
        always: values to hold in any case.
    """
    given = np.array([value for value in values if np.isfinite(value)])
    kept = given
    if len(given) >= FEW:
        first, third = np.quantile(given, [0.25, 0.75])
        reach = FAR_OUT * (third - first)
        if reach > 0:
            near = given[(given >= first - reach) & (given <= third + reach)]
            if np.ptp(given) > STRETCHED * np.ptp(near):
                kept = near
    held = np.concatenate([kept, [value for value in always if np.isfinite(value)]])
    if not len(held):
        return Limits(0.0, 1.0)
    low, high = float(held.min()), float(held.max())
    margin = MARGIN * (high - low) or 0.05 * abs(high) or 1.0
    return Limits(low - margin, high + margin)
