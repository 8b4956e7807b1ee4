"""What teachers say of all training rows, asked once and kept."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from mtlrun.data.base import Dataset
from mtlrun.engine.distillation import Distillation
from mtlrun.engine.loader import Placement
from mtlrun.types import Lesson

Note = Callable[[str], None]

ROWS_TRIED = 8
NOTE_EVERY = 10.0
"""Seconds between two lines on how far it is."""


def keep_lessons(
    distillation: Distillation,
    dataset: Dataset,
    placement: Placement,
    *,
    batch_size: int,
    note: Note,
) -> None:
    """Have the teachers answer for all training rows, where these are always the same and it fits.

    Rows are asked about in their order, in batches of one size: so the answers are, bit for bit,
    those of any other attempt at the run.

    Args:
        distillation: the teachers; gets what is kept.
        dataset: its ``train`` split is read.
        placement: where batches go, and answers are kept.
        batch_size: rows of a batch.
        note: takes lines for the user.
    """
    memory = distillation.teaching.memory
    if not memory:
        return
    taught = {
        stream: tuple(name for name in names if name in distillation.taught)
        for stream, names in dataset.streams.items()
    }
    streams = [stream for stream, names in taught.items() if names and repeatable(dataset, stream)]
    if not streams:
        note(
            "Teachers are asked in each step: training rows are varied each time they are read, or "
            "are not of one shape."
        )
        return
    asking = _Asking(distillation, dataset, placement, batch_size, taught)
    size = sum(asking.size(stream) for stream in streams)
    if size > memory:
        note(
            f"What teachers say of the training rows takes {size / 2**30:.3g} GiB, more than "
            f"distill.cache_gb={memory / 2**30:g}: they are asked in each step."
        )
        return
    done, total = 0, sum(asking.rows(stream) for stream in streams)
    noted = time.monotonic()
    for stream in streams:
        kept: dict[str, Lesson] = {}
        for first in range(0, asking.rows(stream), batch_size):
            lessons = asking.block(stream, first)
            for name, lesson in lessons.items():
                if name not in kept:
                    kept[name] = _empty(lesson, asking.rows(stream))
                _write(kept[name], lesson, first)
            if time.monotonic() - noted > NOTE_EVERY:
                noted = time.monotonic()
                note(f"Teachers have answered for {done + first:,} of {total:,} training rows.")
        distillation.kept[stream] = kept
        done += asking.rows(stream)
    note(f"What teachers say of {total:,} training rows is kept: {size / 2**20:.3g} MiB.")


def repeatable(dataset: Dataset, stream: str) -> bool:
    """Whether a stream's training rows are of one shape, and the same whenever they are read.

    That is so where the dataset's transformation draws nothing, which a few rows show.
    """
    source = dataset.splits["train"][stream]
    if source.lengths is not None:
        return False
    rows = torch.arange(min(ROWS_TRIED, len(source)))
    draws = torch.Generator().manual_seed(0)
    before = draws.get_state()
    drawn, _ = dataset.transform(stream, *source.rows(rows), draws)
    plain, _ = dataset.transform(stream, *source.rows(rows), None)
    return torch.equal(draws.get_state(), before) and torch.equal(drawn, plain)


class _Asking:
    """Asks the teachers about the training rows, a block of neighbouring ones at a time."""

    def __init__(
        self,
        distillation: Distillation,
        dataset: Dataset,
        placement: Placement,
        batch_size: int,
        taught: dict[str, tuple[str, ...]],
    ) -> None:
        self.distillation = distillation
        self.dataset = dataset
        self.placement = placement
        self.batch_size = batch_size
        self.taught = taught

    def rows(self, stream: str) -> int:
        """How many a stream has."""
        return len(self.dataset.splits["train"][stream])

    def block(self, stream: str, first: int) -> dict[str, Lesson]:
        """What teachers say of a block, for each taught task, labelled here or not."""
        indices = torch.arange(first, min(first + self.batch_size, self.rows(stream)))
        rows = {stream: self.dataset.splits["train"][stream].rows(indices)}
        present = {stream: self.taught[stream]}
        batch = self.placement.batch(self.dataset, rows, present, lambda _: None)
        return self.distillation.ask(batch)[stream]

    def size(self, stream: str) -> float:
        """Bytes that the answers for a stream take."""
        parts = [part for lesson in self.block(stream, 0).values() for part in _parts(lesson)]
        return sum(part[0].numel() * part.element_size() for part in parts) * self.rows(stream)


def _parts(lesson: Lesson) -> list[Tensor]:
    return [*([] if lesson.answer is None else [lesson.answer]), *lesson.features]


def _empty(like: Lesson, rows: int) -> Lesson:
    """Room for so many rows."""
    made = [part.new_empty(rows, *part.shape[1:]) for part in _parts(like)]
    answer = None if like.answer is None else made.pop(0)
    return Lesson(answer, tuple(made))


def _write(kept: Lesson, block: Lesson, first: int) -> None:
    for room, part in zip(_parts(kept), _parts(block), strict=True):
        room[first : first + len(part)] = part
