"""What new rows hold that no training row has: it counts as unknown, and the user is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.integer[Any]]


def unknown_categories(
    file: Path, column: str, new: Codes, training: Codes, names: Sequence[str]
) -> list[str]:
    """A line on the categories of a column that the network has not met, or none.

    Args:
        file: where the new rows are.
        column: its name.
        new: for each new row the number of its value, below 0 where it is missing.
        training: likewise for each training row.
        names: the values by number.
    """
    unknown = new[(new >= 0) & ~np.isin(new, training)]
    if not len(unknown):
        return []
    return [
        f"{file}: {column} is unknown to the network in {len(unknown)} of {len(new)} rows: no "
        f"training row has '{names[unknown[0]]}'."
    ]
