"""Batches by index: gathered in one go, transformed as whole batches on the device.

Which rows a step sees is a function of (seed, stream, epoch, step), so a run can resume anywhere
and the number of workers changes nothing.
"""

import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mtlrun.data.base import Dataset, Source, Targets
from mtlrun.randomness import generator
from mtlrun.sampling.base import Sampler
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
        held = getattr(source, "targets", None)
        for name in names:
            mask = source.labelled.get(name)
            if mask is None and held is not None:
                mask = tasks[name].labelled(held[name])
            if mask is not None and not bool(mask.all()):
                masks[name] = mask.cpu()
    return masks


class _Reader(TorchDataset[Rows]):
    """Reads whole batches by index, in this process or in a worker."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = dict(sources)

    def __getitem__(self, indices: dict[str, Tensor]) -> Rows:
        return {stream: self.sources[stream].rows(rows) for stream, rows in indices.items()}


class _Requests:
    """What a loader with workers is to read next; set anew before each pass."""

    def __init__(self) -> None:
        self.pending: Sequence[dict[str, Tensor]] = ()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.pending)

    def __len__(self) -> int:
        return len(self.pending)


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

    def read(self, requests: Sequence[dict[str, Tensor]]) -> Iterator[Rows]:
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

    An epoch is one pass over the longest stream, in whole batches (rows left over have their turn
    in another epoch's order). Shorter streams start again, reshuffled.

    Args:
        dataset: the dataset; its ``train`` split is read.
        tasks: the run's tasks.
        sampler: chooses the tasks of a step.
        batch_size: rows of each stream in a micro-batch.
        accumulate: micro-batches of a step.
        seed: the run's seed.
        placement: where batches go.
        workers: processes that read.
    """

    def __init__(
        self,
        dataset: Dataset,
        tasks: Mapping[str, Task],
        sampler: Sampler,
        *,
        batch_size: int,
        accumulate: int,
        seed: int,
        placement: Placement,
        workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.seed = seed
        self.accumulate = accumulate
        self.placement = placement
        sources = dataset.splits["train"]
        self.masks = label_masks(sources, dataset.streams, tasks)
        self.lengths = {stream: len(source) for stream, source in sources.items()}
        self.sizes = {stream: min(batch_size, rows) for stream, rows in self.lengths.items()}
        batches = {stream: self.lengths[stream] // self.sizes[stream] for stream in self.lengths}
        self.batches = batches
        self.steps_per_epoch = max(1, max(batches.values()) // accumulate)
        self.rows_per_step = sum(self.sizes.values()) * accumulate
        moved = sources if workers else placement.sources(sources)
        self._feed = _Feed(moved, workers, pin=placement.device.type == "cuda")
        self._orders: dict[str, tuple[int, Tensor]] = {}

    def indices(self, stream: str, micro_step: int) -> Tensor:
        """Rows of ``stream`` that its micro-batch number ``micro_step`` of the run holds."""
        around, position = divmod(micro_step, self.batches[stream])
        order = self._orders.get(stream)
        if order is None or order[0] != around:
            draws = generator(self.seed, "shuffle", stream, around)
            order = (around, torch.randperm(self.lengths[stream], generator=draws))
            self._orders[stream] = order
        size = self.sizes[stream]
        return order[1][position * size : (position + 1) * size]

    def _micro_step(self, stream: str, epoch: int, step: int, micro: int) -> int:
        """A stream as long as the epoch starts anew with it; a shorter one goes on."""
        per_epoch = self.steps_per_epoch * self.accumulate
        within = step * self.accumulate + micro
        if self.batches[stream] >= per_epoch:
            return epoch * self.batches[stream] + within
        return epoch * per_epoch + within

    def close(self) -> None:
        """Let the processes that read go."""
        self._feed.close()

    def epoch(self, epoch: int, start: int) -> Generator[list[Batch], None, None]:
        """The steps of an epoch from number ``start`` on."""
        addresses: list[tuple[int, int]] = []
        requests: list[dict[str, Tensor]] = []
        drawn: list[tuple[str, ...]] = []
        for step in range(start, self.steps_per_epoch):
            tasks = self.sampler.draw(epoch, epoch * self.steps_per_epoch + step)
            for micro in range(self.accumulate):
                addresses.append((step, micro))
                drawn.append(tasks)
                requests.append(
                    {
                        stream: self.indices(stream, self._micro_step(stream, epoch, step, micro))
                        for stream, names in self.dataset.streams.items()
                        if any(task in tasks for task in names)
                    }
                )
        pending: list[Batch] = []
        for (step, micro), tasks, request, rows in zip(
            addresses, drawn, requests, self._feed.read(requests), strict=True
        ):
            present = {s: self._present(s, indices, tasks) for s, indices in request.items()}
            draws = self._draws(epoch, step, micro)
            pending.append(self.placement.batch(self.dataset, rows, present, draws))
            if len(pending) == self.accumulate:
                yield pending
                pending = []

    def _draws(self, epoch: int, step: int, micro: int) -> Callable[[str], torch.Generator]:
        return lambda stream: generator(self.seed, "augment", stream, epoch, step, micro)

    def _present(self, stream: str, indices: Tensor, drawn: Sequence[str]) -> tuple[str, ...]:
        return tuple(
            task
            for task in self.dataset.streams[stream]
            if task in drawn and (task not in self.masks or bool(self.masks[task][indices].any()))
        )


class EvaluationLoader:
    """The batches of a split, in order, all tasks.

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
            for indices in torch.arange(len(source)).split(self.batch_size):
                counts = {
                    task: int(self.masks[task][indices].sum())
                    if task in self.masks
                    else len(indices)
                    for task in self.dataset.streams[stream]
                }
                present = {stream: tuple(task for task, count in counts.items() if count)}
                rows = {stream: source.rows(indices)}
                yield self.placement.batch(self.dataset, rows, present, lambda _: None), counts
