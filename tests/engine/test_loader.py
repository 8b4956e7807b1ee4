from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
import torch
from engine_toys import Toy, numbered
from torch import Tensor

from mtlrun.data.base import Source, TensorSource
from mtlrun.engine.loader import EvaluationLoader, Placement, TrainLoader, label_masks
from mtlrun.sampling.base import Sampler
from mtlrun.sampling.joint import Joint
from mtlrun.sampling.units import EpochLength, Of, Unit, units_of
from mtlrun.tasks.base import Task
from mtlrun.tasks.classification import Classification
from mtlrun.tasks.regression import Regression
from mtlrun.types import Batch

CPU = Placement(torch.device("cpu"))
X, Y = ("a",), ("b", "c")


def regressions(names: Sequence[str]) -> dict[str, Task]:
    return {name: Regression(name=name) for name in names}


def units_for(
    sources: Mapping[str, Source],
    streams: Mapping[str, Sequence[str]],
    batch_size: int,
    of: Of,
) -> tuple[Unit, ...]:
    rows = {stream: len(source) for stream, source in sources.items()}
    masks = label_masks(sources, streams, regressions([t for ts in streams.values() for t in ts]))
    labelled = {
        task: int(masks[task].sum()) if task in masks else rows[stream]
        for stream, tasks in streams.items()
        for task in tasks
    }
    return units_of(streams, rows, labelled, of=of, batch_size=batch_size)


def loader_of(
    sources: Mapping[str, Source],
    streams: Mapping[str, Sequence[str]],
    *,
    batch_size: int = 4,
    accumulate: int = 1,
    seed: int = 0,
    noise: bool = False,
    workers: int = 0,
    sampler: Sampler | None = None,
    length: EpochLength | int = "longest",
) -> TrainLoader:
    names = [name for tasks in streams.values() for name in tasks]
    tasks = regressions(names)
    units = units_for(sources, streams, batch_size, "streams")
    return TrainLoader(
        Toy({"train": sources}, streams, noise),
        tasks,
        sampler or Joint(units=units),
        length=length,
        accumulate=accumulate,
        seed=seed,
        placement=CPU,
        workers=workers,
    )


def one_stream(rows: int = 22, **options) -> TrainLoader:
    return loader_of({"x": numbered(rows, ["a"])}, {"x": ("a",)}, **options)


def two_streams(**options) -> TrainLoader:
    sources = {"x": numbered(22, X), "y": numbered(9, Y)}
    return loader_of(sources, {"x": X, "y": Y}, **options)


def rows_of(batch: Batch, stream: str = "x") -> list[int]:
    return batch[stream].inputs[:, 0].int().tolist()


def epoch_rows(loader: TrainLoader, epoch: int, start: int = 0, stream: str = "x"):
    return [[rows_of(batch, stream) for batch in step] for step in loader.epoch(epoch, start)]


def flat(steps: Sequence[Sequence[Sequence[int]]]) -> list[int]:
    return [row for step in steps for batch in step for row in batch]


# -- one stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_row_once_an_epoch_up_to_the_remainder(accumulate: int) -> None:
    loader = one_stream(accumulate=accumulate)  # 22 rows: 5 micro-batches of 4
    assert loader.steps_per_epoch == 5 // accumulate
    for epoch in range(3):
        steps = epoch_rows(loader, epoch)
        assert [len(step) for step in steps] == [accumulate] * (5 // accumulate)
        assert all(len(batch) == 4 for step in steps for batch in step)
        rows = flat(steps)
        assert len(set(rows)) == len(rows) == loader.steps_per_epoch * 4 * accumulate
        assert set(rows) <= set(range(22))
    assert loader.examples == 3 * (5 // accumulate) * accumulate * 4


def test_left_over_rows_have_their_turn_in_another_epoch() -> None:
    loader = one_stream()
    seen = [set(flat(epoch_rows(loader, epoch))) for epoch in range(8)]
    assert len({frozenset(range(22)) - rows for rows in map(frozenset, seen)}) > 4
    assert set.union(*seen) == set(range(22))


def test_inputs_and_targets_stay_together() -> None:
    for (batch,) in one_stream().epoch(0, 0):
        assert torch.equal(batch["x"].targets["a"], 10 * batch["x"].inputs[:, 0])
        assert batch["x"].present == ("a",)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first = epoch_rows(one_stream(), 1)
    torch.manual_seed(99)
    used = one_stream()
    for epoch in (0, 4, 2):
        epoch_rows(used, epoch)
    assert epoch_rows(used, 1) == first
    assert epoch_rows(one_stream(), 2) != first
    assert epoch_rows(one_stream(seed=1), 1) != first
    # The batch size cuts the same order into other pieces.
    assert flat(epoch_rows(one_stream(batch_size=2), 1))[:20] == flat(first)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_can_be_entered_anywhere(epoch: int, accumulate: int) -> None:
    for stream in ("x", "y"):
        whole = epoch_rows(two_streams(accumulate=accumulate), epoch, 0, stream)
        for start in range(len(whole) + 1):
            entered = epoch_rows(two_streams(accumulate=accumulate), epoch, start, stream)
            assert entered == whole[start:]


def test_a_batch_larger_than_the_dataset_is_the_dataset() -> None:
    loader = one_stream(rows=5, batch_size=64)
    assert loader.steps_per_epoch == 1
    orders = [flat(epoch_rows(loader, epoch)) for epoch in range(4)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len(set(map(tuple, orders))) > 1


def test_more_micro_batches_than_the_dataset_has() -> None:
    loader = one_stream(rows=5, batch_size=2, accumulate=5)  # 2 batches a pass, 5 a step
    assert loader.steps_per_epoch == 1
    passes = [batch for epoch in range(2) for step in epoch_rows(loader, epoch) for batch in step]
    assert len(passes) == 10
    for around in range(5):
        assert len(set(passes[2 * around] + passes[2 * around + 1])) == 4


# -- several streams ------------------------------------------------------------------------------


def test_the_longest_stream_makes_the_epoch_and_shorter_ones_start_again() -> None:
    loader = two_streams()  # x: 22 rows, 5 batches; y: 9 rows, 2 batches
    assert loader.steps_per_epoch == 5
    x, y = [], []
    for epoch in range(4):
        for (batch,) in loader.epoch(epoch, 0):
            x.append(rows_of(batch, "x"))
            y.append(rows_of(batch, "y"))
            assert batch["y"].present == ("b", "c")
    for epoch in range(4):
        rows = [row for batch in x[5 * epoch : 5 * epoch + 5] for row in batch]
        assert len(set(rows)) == 20
    # Passes of y go on over the ends of epochs; none of its rows comes twice within a pass.
    passes = [tuple(y[number] + y[number + 1]) for number in range(0, 20, 2)]
    assert all(len(set(rows)) == 8 for rows in passes)
    assert len(set(passes)) == 10
    counts = Counter(row for rows in passes for row in rows)
    assert set(counts) == set(range(9))


def test_streams_are_shuffled_apart() -> None:
    sources = {"x": numbered(24, X), "y": numbered(24, Y)}
    loader = loader_of(sources, {"x": X, "y": Y})
    (first, *_) = [step[0] for step in loader.epoch(0, 0)]
    assert rows_of(first, "x") != rows_of(first, "y")


# -- tasks of a step ------------------------------------------------------------------------------


def test_a_task_is_present_where_a_row_has_its_label() -> None:
    labelled = torch.arange(24) % 8 == 0  # rows 0, 8, 16
    source = numbered(24, ("b", "c"), b=labelled)
    loader = loader_of({"y": source}, {"y": Y}, batch_size=2)
    present = set()
    for (batch,) in loader.epoch(0, 0):
        part = batch["y"]
        has_b = not bool(part.targets["b"].isnan().all())
        assert part.present == (("b", "c") if has_b else ("c",))
        present.add(part.present)
    assert present == {("b", "c"), ("c",)}


class OnDisk(Source):
    """Rows that are read when asked for, and so cannot be looked through."""

    def __init__(self, labelled: Mapping[str, Tensor]) -> None:
        self.labelled = labelled

    def __len__(self) -> int:
        return 6

    def rows(self, indices: Tensor):
        numbers = indices.float().unsqueeze(1)
        return numbers, {"a": numbers[:, 0] * 10, "b": numbers[:, 0]}

    def select(self, tasks: Sequence[str]) -> "OnDisk":
        return self


def test_masks_of_tasks_with_missing_labels() -> None:
    classes = torch.tensor([0, -1, 1, 1, -1, 0])
    numbers = torch.tensor([1.0, torch.nan, 2.0, 3.0, 4.0, 5.0])
    source = TensorSource(torch.zeros(6, 1), {"k": classes, "b": numbers, "c": torch.zeros(6)})
    tasks = {"k": Classification(name="k", classes=2), **regressions(("b", "c"))}
    masks = label_masks({"x": source}, {"x": ("k", "b", "c")}, tasks)
    assert set(masks) == {"k", "b"}  # c is labelled everywhere
    assert masks["k"].tolist() == [True, False, True, True, False, True]
    assert masks["b"].tolist() == [True, False, True, True, True, True]

    stated = torch.tensor([True, False, True, True, True, False])
    masks = label_masks({"x": OnDisk({"a": stated})}, {"x": ("a", "b")}, regressions(("a", "b")))
    assert set(masks) == {"a"}
    assert torch.equal(masks["a"], stated)

    # What a source in memory says of itself comes before what its targets show.
    source.labelled = {"c": stated}
    assert torch.equal(label_masks({"x": source}, {"x": ("c",)}, tasks)["c"], stated)


# -- workers --------------------------------------------------------------------------------------


def test_workers_change_nothing() -> None:
    def run(workers: int) -> list[tuple[list[int], list[int], Tensor]]:
        loader = two_streams(accumulate=2, noise=True, workers=workers)
        seen = []
        for epoch, start in ((0, 0), (1, 1), (0, 1)):
            for step in loader.epoch(epoch, start):
                for batch in step:
                    y = batch["y"]
                    seen.append((rows_of(batch, "x"), rows_of(batch, "y"), y.inputs.clone()))
        return seen

    here, there = run(0), run(2)
    assert len(here) == len(there) == 2 * (2 + 1 + 1)
    for one, other in zip(here, there, strict=True):
        assert one[:2] == other[:2]
        assert torch.equal(one[2], other[2])


def test_workers_start_an_epoch_anew_after_one_that_was_left() -> None:
    loader = one_stream(workers=1)
    left = loader.epoch(0, 0)
    next(left)
    assert epoch_rows(loader, 1) == epoch_rows(one_stream(), 1)


# -- augmentation ---------------------------------------------------------------------------------


def rounded(draws: Tensor) -> tuple[float, ...]:
    """The row's number takes some of a draw's last digits."""
    return tuple(round(draw, 4) for draw in draws[:, 0].tolist())


def test_augmentation_is_addressed_by_epoch_step_and_stream() -> None:
    def noises(loader: TrainLoader, epoch: int, start: int, stream: str = "x") -> list[Tensor]:
        return [batch[stream].inputs % 1 for step in loader.epoch(epoch, start) for batch in step]

    def fresh(**options) -> TrainLoader:
        return two_streams(noise=True, **options)

    whole = noises(fresh(), 1, 0)
    assert all(torch.equal(a, b) for a, b in zip(noises(fresh(), 1, 2), whole[2:], strict=True))
    others = [noises(fresh(), 2, 0), noises(fresh(seed=1), 1, 0), noises(fresh(), 1, 0, "y")]
    assert len({rounded(draw) for draws in (whole, *others) for draw in draws}) == 20
    assert len({rounded(draw) for draw in noises(fresh(accumulate=2), 0, 0)}) == 4


# -- evaluation -----------------------------------------------------------------------------------


def evaluation_loader(batch_size: int) -> EvaluationLoader:
    labelled = torch.arange(9) % 3 == 0
    sources = {"x": numbered(5, X), "y": numbered(9, Y, b=labelled)}
    streams = {"x": X, "y": Y}
    dataset = Toy({"train": {}, "val": sources}, streams, noise=True)
    tasks = regressions(("a", "b", "c"))
    return EvaluationLoader(dataset, "val", tasks, batch_size=batch_size, placement=CPU)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_evaluation_reads_every_row_once_in_order(batch_size: int) -> None:
    loader = evaluation_loader(batch_size)
    for _ in range(2):
        rows: dict[str, list[int]] = {"x": [], "y": []}
        counts: Counter[str] = Counter()
        for batch, labels in loader:
            ((stream, part),) = batch.items()
            assert len(part.inputs) <= batch_size
            rows[stream] += rows_of(batch, stream)
            counts.update(labels)
            assert part.present == tuple(task for task, count in labels.items() if count)
            assert bool((part.inputs % 1 == 0).all())  # not augmented
        assert rows == {"x": list(range(5)), "y": list(range(9))}
        assert counts == {"a": 5, "b": 3, "c": 9}


def test_maps_are_laid_out_channels_last_where_asked_for() -> None:
    source = TensorSource(torch.randn(4, 3, 5, 6), {"a": torch.zeros(4)})
    dataset = Toy({"train": {"x": source}, "val": {"x": source}}, {"x": X})
    placement = Placement(torch.device("cpu"), channels_last=True)
    loader = EvaluationLoader(dataset, "val", regressions("a"), batch_size=2, placement=placement)
    for batch, _ in loader:
        assert batch["x"].inputs.is_contiguous(memory_format=torch.channels_last)
        assert not batch["x"].inputs.is_contiguous()
