"""Pictures of tables."""

import numpy as np

from mtlrun.tracking.heatmap import CELL, HIGH, LOW, MARGIN, MIDDLE, heatmap


def shades(values: list[list[float]]) -> list[list[tuple[int, ...]]]:
    """The colour of each cell, near its upper left corner, where no number stands."""
    table = np.array(values)
    rows, columns = ([str(number) for number in range(count)] for count in table.shape)
    picture = heatmap(rows, columns, table)
    assert picture.dtype == np.uint8
    left = picture.shape[1] - MARGIN - CELL[0] * table.shape[1]
    assert picture.shape == (CELL[1] * (len(table) + 1) + MARGIN, picture.shape[1], 3)
    return [
        [
            tuple(picture[CELL[1] * (row + 1) + 2, left + CELL[0] * column + 2].tolist())
            for column in range(table.shape[1])
        ]
        for row in range(len(table))
    ]


def test_shades_go_by_size_and_sign() -> None:
    assert shades([[2.0, 0.0, -2.0]]) == [[HIGH, MIDDLE, LOW]]
    ((half, _),) = shades([[-1.0, 2.0]])
    assert half == tuple(round((a + b) / 2) for a, b in zip(MIDDLE, LOW, strict=True))
    assert shades([[0.0], [0.0]]) == [[MIDDLE], [MIDDLE]]


def test_values_that_are_not_finite_have_no_shade() -> None:
    nothing = [float("nan"), float("inf"), -float("inf")]
    assert shades([[*nothing, 0.5]]) == [[MIDDLE, MIDDLE, MIDDLE, HIGH]]
