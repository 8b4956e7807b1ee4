"""The order in which ragged rows are read."""

import torch
from torch import Tensor

from mtlrun.engine.queues import POOL, Queue

SIZE = 4


def ragged(pools: int, rows: Tensor | None = None) -> tuple[Queue, Tensor]:
    """A queue over whole pools of rows that are all of different length, and the lengths."""
    count = pools * POOL * SIZE
    lengths = torch.randperm(2 * count, generator=torch.Generator().manual_seed(0)) + 1
    return Queue("x", "x", rows, count, SIZE, 0, lengths), lengths


def batches(queue: Queue, around: int = 0) -> list[Tensor]:
    numbers = range(around * queue.batches, (around + 1) * queue.batches)
    return [queue.indices(number) for number in numbers]


def test_batches_of_a_pool_come_in_any_order() -> None:
    queue, lengths = ragged(1)
    found = batches(queue)
    longest = torch.stack([lengths[rows].max() for rows in found]).double()
    ranks = torch.arange(len(found)).double()
    assert abs(torch.corrcoef(torch.stack([ranks, longest]))[0, 1]) < 0.3
    assert torch.cat(sorted((lengths[rows] for rows in found), key=max)).diff().min() > 0


def test_a_row_meets_other_rows_in_another_pass() -> None:
    queue, _ = ragged(2)
    first, second = ({frozenset(rows.tolist()) for rows in batches(queue, n)} for n in (0, 1))
    assert len(first & second) < 0.1 * len(first)
    assert frozenset().union(*first) == frozenset().union(*second)


def test_some_rows_of_a_stream_are_sorted_by_their_own_lengths() -> None:
    chosen = torch.arange(POOL * SIZE) * 2 + 1
    queue, lengths = ragged(1, chosen)
    found = batches(queue)
    assert torch.equal(torch.cat(found).sort().values, chosen)
    assert torch.cat(sorted((lengths[rows] for rows in found), key=max)).diff().min() > 0
