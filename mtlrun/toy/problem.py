"""The two losses of a point in the plane that papers of the field draw.

Liu, Liu, Jin, Stone and Liu (CAGrad, NeurIPS 2021) defined them; Navon et al. (Nash-MTL, ICML 2022)
and those after them scale the first loss by 0.1. With s = -1 for the first loss and 1 for the
second, at the point (x, y),

    valley = log(max(|(7 s - x) / 2 - s tanh y|, 5e-6)) + 6
    bowl   = ((x + 7 s)^2 + (y + 8)^2 / 10) / 10 - 20
    L      = valley max(tanh(y / 2), 0) + bowl max(-tanh(y / 2), 0).

Above y = 0 there are two narrow valleys where gradients conflict and differ by orders of magnitude;
below, two bowls whose compromises are the Pareto set, a nearly straight line from (-7, -8.43) to
(7, -8.43). A method succeeds where it gets there from every start.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]

SIDES = (-1.0, 1.0)
LEAST_INSIDE = 5e-6
FRONT_ENDS = (-7.0, 7.0)
"""The x of the Pareto set's ends: the lowest points of the bowls."""

FRONT_BRACKET = (-9.5, -7.5)
"""Where y lies on the Pareto set."""

NEAR = 0.05


def loss_and_slopes(side: float, x: float, y: float) -> tuple[float, float, float]:
    """One of the losses, unscaled, and its derivatives by x and y.

    Plain numbers, for a walk asks for one point at a time, and arrays of one cost twenty times as
    much. At y = 0 both halves count, with the slopes that torch's clamp gives them.
    """
    half = math.tanh(y / 2)
    half_slope = 0.5 * (1 - half * half)
    loss = by_x = by_y = 0.0
    if y >= 0:
        tanh = math.tanh(y)
        inside = 0.5 * (7 * side - x) - side * tanh
        clear = abs(inside) >= LEAST_INSIDE
        valley = math.log(abs(inside) if clear else LEAST_INSIDE) + 6
        by_inside = half / inside if clear else 0.0
        loss += valley * half
        by_x -= 0.5 * by_inside
        by_y += valley * half_slope - side * (1 - tanh * tanh) * by_inside
    if y <= 0:
        bowl = ((x + 7 * side) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20
        loss -= bowl * half
        by_x -= 0.2 * (x + 7 * side) * half
        by_y -= 0.02 * (y + 8) * half + bowl * half_slope
    return loss, by_x, by_y


@dataclass(frozen=True)
class Problem:
    """The two losses.

    Attributes:
        scale: factor of the first loss.
    """

    scale: float

    @property
    def factors(self) -> tuple[float, float]:
        """Factor of each loss."""
        return self.scale, 1.0

    def losses(self, points: ArrayLike) -> Floats:
        """Both losses, [..., 2], at points, [..., 2]."""
        return self._of_both(points)[..., 0]

    def gradients(self, points: ArrayLike) -> Floats:
        """Their gradients, [..., 2 losses, 2], at points, [..., 2]."""
        return self._of_both(points)[..., 1:]

    def _of_both(self, points: ArrayLike) -> Floats:
        """Loss and slopes of both, [..., 2 losses, 3]."""
        points = np.asarray(points, dtype=np.float64)
        unscaled = [
            [loss_and_slopes(side, x, y) for side in SIDES]
            for x, y in points.reshape(-1, 2).tolist()
        ]
        values: Floats = np.array(unscaled) * np.array(self.factors)[:, None]
        return values.reshape(*points.shape[:-1], 2, 3)

    def front(self, x: ArrayLike) -> Floats:
        """The y of the Pareto set at each x from -7 to 7: there the gradients are opposed."""

        def turn(y: float, at: float) -> float:
            first, second = self.gradients([at, y])
            return float(first[0] * second[1] - first[1] * second[0])

        return np.array([brentq(turn, *FRONT_BRACKET, args=(at,)) for at in np.ravel(x)])

    def at_front(self, point: tuple[float, float]) -> bool:
        """Whether a point is within :data:`NEAR` of the Pareto set."""
        x, y = point
        low, high = FRONT_ENDS
        inside = min(max(x, low), high)
        return abs(x - inside) < NEAR and abs(y - float(self.front(inside)[0])) < NEAR
