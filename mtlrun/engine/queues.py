"""The order in which rows are read: shuffled passes, cut into batches."""

import torch
from torch import Tensor

from mtlrun.randomness import generator

POOL = 64
"""Batches within which ragged rows are sorted by length: enough that hardly anything is padded, and
few enough that batches differ from pass to pass."""


class Queue:
    """Rows in shuffled batches, pass after pass.

    A pass has whole batches; rows left over have their turn in another pass' order. Ragged rows
    share batches with rows of like length: each pass is cut into pools, a pool sorted by length and
    cut into batches, and the batches of all pools shuffled.

    Args:
        name: what the order is addressed by, beside the seed and the pass.
        stream: the stream that the rows are of.
        rows: numbers of the rows, int64; None for ``range(count)``.
        count: how many.
        size: rows of a batch.
        seed: the run's.
        lengths: of all rows of the stream, where they are ragged.
    """

    def __init__(
        self,
        name: str,
        stream: str,
        rows: Tensor | None,
        count: int,
        size: int,
        seed: int,
        lengths: Tensor | None = None,
    ) -> None:
        self.name = name
        self.stream = stream
        self.rows = rows
        self.count = count
        self.size = size
        self.seed = seed
        self.lengths = lengths
        self.batches = count // size
        self._order: tuple[int, Tensor] | None = None

    def indices(self, number: int) -> Tensor:
        """Rows of batch ``number``, counted over the whole run."""
        around, position = divmod(number, self.batches)
        if self._order is None or self._order[0] != around:
            self._order = (around, self._shuffled(around))
        return self._order[1][position * self.size : (position + 1) * self.size]

    def _shuffled(self, around: int) -> Tensor:
        draws = generator(self.seed, "shuffle", self.name, around)
        order = torch.randperm(self.count, generator=draws)
        if self.rows is not None:
            order = self.rows[order]
        if self.lengths is None:
            return order
        order = order[: self.batches * self.size]
        pools = [
            pool[self.lengths[pool].argsort(stable=True)] for pool in order.split(POOL * self.size)
        ]
        batches = torch.cat(pools).view(self.batches, self.size)
        return batches[torch.randperm(self.batches, generator=draws)].flatten()
