"""Batches by index: gathered in one go, transformed as whole batches on the device.

Which rows a step sees is a function of the seed, the step, and what was drawn before it, so a run
can resume anywhere and the number of workers changes nothing.
"""

import signal
import sys
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import tee
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mtlrun.data.base import Dataset, Source, Targets
from mtlrun.engine.annealing import Annealing
from mtlrun.engine.queues import Queue
from mtlrun.randomness import generator
from mtlrun.sampling.base import Sampler
from mtlrun.sampling.units import EpochLength, Unit, steps_of_epoch
from mtlrun.tasks.base import Task
from mtlrun.types import Batch, StreamBatch

Rows = dict[str, tuple[Tensor, Targets]]


def label_masks(
    sources: Mapping[str, Source], streams: Mapping[str, Sequence[str]], tasks: Mapping[str, Task]
) -> dict[str, Tensor]:
    """For each task with missing labels which rows of its stream carry one.

    A task that is labelled everywhere is left out. Sources in memory are asked through the task;
    others say it themselves.
    """
    masks: dict[str, Tensor] = {}
    for stream, names in streams.items():
        source = sources[stream]
        held = getattr(source, "targets", {})
        for name in names:
            mask = source.labelled.get(name)
            if mask is None and isinstance(held.get(name), Tensor):
                mask = tasks[name].labelled(held[name])
            if mask is not None and not bool(mask.all()):
                masks[name] = mask.cpu()
    return masks


@dataclass(frozen=True)
class _Request:
    """What a micro-batch reads.

    Attributes:
        step: of the epoch.
        micro: number of the micro-batch in it.
        units: drawn in the step.
        tasks: theirs.
        rows: for each stream the numbers of its rows.
    """

    step: int
    micro: int
    units: tuple[Unit, ...]
    tasks: frozenset[str]
    rows: dict[str, Tensor]


class _Reader(TorchDataset[Rows]):
    """Reads whole batches by index, in this process or in a worker."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = dict(sources)

    def __getitem__(self, indices: dict[str, Tensor]) -> Rows:
        return {stream: self.sources[stream].rows(rows) for stream, rows in indices.items()}


class _Requests:
    """What a loader with workers is to read next; set anew before each pass."""

    def __init__(self) -> None:
        self.pending: Iterable[dict[str, Tensor]] = ()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.pending)


def _as_read(rows: Rows) -> Rows:
    return rows


def _leave_stopping_to_the_run(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach all processes; the run wants to finish its step."""
    del worker
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Feed:
    """Rows for a list of requests, read here or by workers that live as long as the feed."""

    def __init__(self, sources: Mapping[str, Source], workers: int, pin: bool) -> None:
        self.reader = _Reader(sources)
        self.requests = _Requests()
        self.loader: DataLoader[Rows] | None = None
        if workers > 0:
            self.loader = DataLoader(
                self.reader,
                batch_size=None,
                sampler=self.requests,
                num_workers=workers,
                collate_fn=_as_read,  # type: ignore[arg-type]  # there is no list to collate
                worker_init_fn=_leave_stopping_to_the_run,
                persistent_workers=True,
                pin_memory=pin,
            )

    def close(self) -> None:
        """Let the workers go."""
        self.loader = None

    def read(self, requests: Iterable[dict[str, Tensor]]) -> Iterator[Rows]:
        if self.loader is None:
            return (self.reader[request] for request in requests)
        self.requests.pending = requests
        return iter(self.loader)


@dataclass
class Placement:
    """Where batches go.

    Attributes:
        device: the device of the network.
        channels_last: whether maps are laid out channels last.
        keep: whether sources in memory are moved to the device once.
    """

    device: torch.device
    channels_last: bool = False
    keep: bool = True

    def sources(self, sources: Mapping[str, Source]) -> dict[str, Source]:
        """The sources, moved where they can be."""
        if self.device.type == "cpu" or not self.keep:
            return dict(sources)
        return {
            stream: source.to(self.device) if hasattr(source, "to") else source
            for stream, source in sources.items()
        }

    def batch(
        self,
        dataset: Dataset,
        rows: Rows,
        present: Mapping[str, tuple[str, ...]],
        draws: Callable[[str], torch.Generator | None],
    ) -> Batch:
        """Move rows to the device and transform them there."""
        batch: Batch = {}
        for stream, (inputs, targets) in rows.items():
            inputs = inputs.to(self.device, non_blocking=True)
            targets = {t: v.to(self.device, non_blocking=True) for t, v in targets.items()}
            inputs, targets = dataset.transform(stream, inputs, targets, draws(stream))
            if self.channels_last and inputs.dim() == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            batch[stream] = StreamBatch(inputs, targets, present[stream])
        return batch


class TrainLoader:
    """The micro-batches of each training step.

    Where every step reads every stream, which rows it reads is a function of the step. A stream
    that defines the epoch's length starts anew with it; others go on where they were. Where units
    are drawn, each goes on from the batch that it had last, and the numbers of batches read are the
    loader's state.

    Args:
        dataset: the dataset; its ``train`` split is read.
        tasks: the run's tasks.
        sampler: chooses the tasks of a step.
        length: of an epoch, see :func:`~mtlrun.sampling.units.steps_of_epoch`.
        accumulate: micro-batches of a step.
        seed: the run's seed.
        placement: where batches go.
        workers: processes that read.

    Attributes:
        taken: batches read from each queue of rows, over the whole run.
        drawn: steps that drew each unit, likewise.
        examples: rows read, likewise.
        stopped: tasks whose labels are left out, from the next epoch on.
        annealing: likewise, from a step on. What draws nobody else is not read, and does not count.
    """

    def __init__(
        self,
        dataset: Dataset,
        tasks: Mapping[str, Task],
        sampler: Sampler,
        *,
        accumulate: int,
        seed: int,
        placement: Placement,
        length: EpochLength | int = "longest",
        workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.seed = seed
        self.accumulate = accumulate
        self.placement = placement
        sources = dataset.splits["train"]
        self.masks = label_masks(sources, dataset.streams, tasks)
        self.steps_per_epoch = steps_of_epoch(
            sampler.units, length, per_step=sampler.per_step, accumulate=accumulate
        )
        self.queues = {unit.name: self._queue(unit, sources) for unit in sampler.units}
        self.taken = dict.fromkeys((queue.name for queue in self.queues.values()), 0)
        self.drawn = dict.fromkeys((unit.name for unit in sampler.units), 0)
        self.examples = 0
        self.stopped: frozenset[str] = frozenset()
        self.annealing: Annealing | None = None
        moved = sources if workers else placement.sources(sources)
        self._feed = _Feed(moved, workers, pin=placement.device.type == "cuda")

    def _queue(self, unit: Unit, sources: Mapping[str, Source]) -> Queue:
        """Where a unit's rows come from: its stream's, or those that carry its one task's label.

        Tasks of one stream that may be drawn in one step share their rows.
        """
        source, stream = sources[unit.stream], unit.stream
        (first, *others) = unit.tasks
        beside = [other for other in self.sampler.units if other.stream == stream]
        together = self.sampler.several and len(beside) > 1
        alone = not (others or together or self.sampler.joint)
        mask = self.masks.get(first)
        rows = mask.nonzero().flatten() if alone and mask is not None else None
        count = len(source) if rows is None else len(rows)
        name = f"{stream}/{first}" if alone else stream
        size = min(unit.batch_size, count)
        return Queue(name, stream, rows, count, size, self.seed, source.lengths)

    # -- which rows --------------------------------------------------------------------------------

    def micro_batch(self, queue: Queue, epoch: int, step: int, micro: int) -> int:
        """Number, over the whole run, of a queue's batch where every step reads every stream."""
        per_epoch = self.steps_per_epoch * self.accumulate
        within = step * self.accumulate + micro
        if per_epoch <= queue.batches < per_epoch + self.accumulate:
            return epoch * queue.batches + within
        return epoch * per_epoch + within

    def _requests(self, epoch: int, start: int, end: int) -> Generator[_Request, None, None]:
        """What the steps from ``start`` to ``end`` of an epoch read."""
        taken = dict(self.taken)
        for step in range(start, end):
            done = epoch * self.steps_per_epoch + step
            drawn = self.sampler.draw(epoch, done)
            out = self.stopped | (self.annealing.gone(done) if self.annealing else frozenset())
            units = tuple(unit for unit in drawn if not out.issuperset(unit.tasks))
            tasks = frozenset(task for unit in units for task in unit.tasks) - out
            queues = {self.queues[unit.name].name: self.queues[unit.name] for unit in units}
            for micro in range(self.accumulate):
                rows = {}
                for queue in queues.values():
                    if self.sampler.joint:
                        number = self.micro_batch(queue, epoch, step, micro)
                    else:
                        number = taken[queue.name]
                        taken[queue.name] += 1
                    rows[queue.stream] = queue.indices(number)
                yield _Request(step, micro, units, tasks, rows)

    # -- batches -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the processes that read go."""
        self._feed.close()

    def epoch(self, epoch: int, start: int) -> Generator[list[Batch], None, None]:
        """The steps of an epoch from number ``start`` on.

        What is drawn is settled up to the step after which the sampler may change it, whatever
        number of workers reads ahead.
        """
        while start < self.steps_per_epoch:
            end = self._settled_until(epoch * self.steps_per_epoch + start)
            end = min(self.steps_per_epoch, end - epoch * self.steps_per_epoch)
            yield from self._steps(epoch, start, end)
            start = end

    def _settled_until(self, step: int) -> int:
        """The step of the run at which the sampler may change its mind next."""
        every = self.sampler.refresh_every
        return (step // every + 1) * every if every else sys.maxsize

    def _steps(self, epoch: int, start: int, end: int) -> Iterator[list[Batch]]:
        # Closed at the end: workers that read ahead would hold it, it this loader, and that them.
        with closing(self._requests(epoch, start, end)) as settled:
            requests, ahead = tee(settled)
            read = self._feed.read(request.rows for request in ahead)
            pending: list[Batch] = []
            for request, rows in zip(requests, read, strict=True):
                present = {
                    stream: self._present(stream, indices, request.tasks)
                    for stream, indices in request.rows.items()
                }
                draws = self._draws(epoch, request.step, request.micro)
                batch = self.placement.batch(self.dataset, rows, present, draws)
                for stream, part in batch.items():
                    part.rows = request.rows[stream]
                pending.append(batch)
                self._count(request)
                if len(pending) == self.accumulate:
                    yield pending
                    pending = []

    def _count(self, request: _Request) -> None:
        if request.micro == 0:
            for unit in request.units:
                self.drawn[unit.name] += 1
        for queue in {self.queues[unit.name].name for unit in request.units}:
            self.taken[queue] += 1
        self.examples += sum(len(rows) for rows in request.rows.values())

    def _draws(self, epoch: int, step: int, micro: int) -> Callable[[str], torch.Generator]:
        return lambda stream: generator(self.seed, "augment", stream, epoch, step, micro)

    def _present(self, stream: str, indices: Tensor, drawn: Container[str]) -> tuple[str, ...]:
        return tuple(
            task
            for task in self.dataset.streams[stream]
            if task in drawn and (task not in self.masks or bool(self.masks[task][indices].any()))
        )

    # -- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """How far each queue is, and what was drawn, as plain data for the checkpoint."""
        return {"taken": self.taken, "drawn": self.drawn, "examples": self.examples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        self.taken = dict(state["taken"])
        self.drawn = dict(state["drawn"])
        self.examples = state["examples"]


def _in_order(source: Source) -> Tensor:
    """All rows as they come; ragged ones by length, so that little is padded."""
    if source.lengths is None:
        return torch.arange(len(source))
    return source.lengths.argsort(stable=True)


class EvaluationLoader:
    """The batches of a split, in a fixed order, all tasks.

    Args:
        dataset: the dataset.
        split: ``train``, ``val`` or ``test``.
        tasks: the run's tasks.
        batch_size: rows of a batch.
        placement: where batches go.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        tasks: Mapping[str, Task],
        *,
        batch_size: int,
        placement: Placement,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.placement = placement
        self.masks = label_masks(dataset.splits[split], dataset.streams, tasks)
        self.sources = placement.sources(dataset.splits[split])

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, int]]]:
        """Batches, and for each task the number of its labelled rows."""
        for stream, source in self.sources.items():
            for indices in _in_order(source).split(self.batch_size):
                counts = {
                    task: int(self.masks[task][indices].sum())
                    if task in self.masks
                    else len(indices)
                    for task in self.dataset.streams[stream]
                }
                present = {stream: tuple(task for task, count in counts.items() if count)}
                rows = {stream: source.rows(indices)}
                yield self.placement.batch(self.dataset, rows, present, lambda _: None), counts
