"""In how many steps the gradients of two tasks were in conflict."""

from collections.abc import Mapping, Sequence
from typing import Any

Pair = tuple[int, int]
"""Indices of two tasks, in their order."""


class Conflicts:
    """Counts, for each pair of tasks, steps in which the cosine of their gradients was below 0.

    A pair counts where both gradients were taken and neither is zero. Over the run, and over the
    epoch.
    """

    def __init__(self) -> None:
        self._run: dict[Pair, list[int]] = {}
        self._epoch: dict[Pair, list[int]] = {}

    def add(self, pair: Pair, cosine: float) -> None:
        """Take a step in.

        Args:
            pair: the tasks.
            cosine: of their gradients.
        """
        for counts in (self._run, self._epoch):
            held = counts.setdefault(pair, [0, 0])
            held[0] += cosine < 0
            held[1] += 1

    def shares(self) -> dict[Pair, float]:
        """The share of the steps in conflict over the run, for the pairs that ever counted."""
        return _shares(self._run)

    def close_epoch(self) -> dict[Pair, float]:
        """Likewise over the epoch; starts the next."""
        found, self._epoch = _shares(self._epoch), {}
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {"run": _plain(self._run), "epoch": _plain(self._epoch)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        self._run = _counts(state["run"])
        self._epoch = _counts(state["epoch"])


def _shares(counts: Mapping[Pair, Sequence[int]]) -> dict[Pair, float]:
    return {pair: below / steps for pair, (below, steps) in sorted(counts.items())}


def _plain(counts: Mapping[Pair, Sequence[int]]) -> list[list[int]]:
    return [[*pair, *held] for pair, held in counts.items()]


def _counts(rows: Sequence[Sequence[int]]) -> dict[Pair, list[int]]:
    return {(a, b): list(held) for a, b, *held in rows}
