"""Which of several points are not dominated."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def pareto_front(points: ArrayLike, higher_is_better: Sequence[bool]) -> list[int]:
    """Indices of the points that no other one dominates, from the worst first figure to the best.

    A point dominates another one that it is nowhere worse than, and somewhere better. Equal points
    do not dominate each other.

    Args:
        points: shape [N, M]; a point with a NaN is not on the front, and dominates none.
        higher_is_better: for each of the M figures.
    """
    table = np.asarray(points, np.float64).reshape(-1, len(higher_is_better))
    signed = table * np.where(np.asarray(higher_is_better), 1.0, -1.0)
    front = []
    for index, point in enumerate(signed):
        no_worse = (signed >= point).all(axis=1)  # False where there is a NaN
        better = (signed > point).any(axis=1)
        if not np.isnan(point).any() and not (no_worse & better).any():
            front.append(index)
    return sorted(front, key=lambda index: tuple(signed[index]))
