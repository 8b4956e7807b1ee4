"""Rows of steps that train some of the tasks."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
import torch
from engine_toys import Toy, numbered
from test_loader import CPU, X, Y, loader_of, regressions, rows_of, units_for
from torch import Tensor

from mtlrun.data.base import Source, TensorSource
from mtlrun.engine.loader import EvaluationLoader, TrainLoader
from mtlrun.engine.queues import POOL, Queue
from mtlrun.sampling.base import Sampler
from mtlrun.sampling.joint import Joint
from mtlrun.sampling.proportional import Proportional
from mtlrun.sampling.units import EpochLength, Of, Unit, small_units, steps_of_epoch, units_of


class Turns(Sampler):
    """Unit number (step modulo units)."""

    def probabilities(self, epoch: int) -> Tensor:
        raise AssertionError("not asked for")

    def draw(self, epoch: int, step: int) -> tuple[Unit, ...]:
        return (self.units[step % len(self.units)],)


class Pairs(Turns):
    """Two units that follow one another."""

    several = True

    @property
    def per_step(self) -> int:
        return 2

    def draw(self, epoch: int, step: int) -> tuple[Unit, ...]:
        return tuple(self.units[(step + place) % len(self.units)] for place in range(2))


class Learner(Proportional):
    """Draws the first unit until it is refreshed, then the next one, and so on."""

    refresh_every = 3
    now = 0

    def draw(self, epoch: int, step: int) -> tuple[Unit, ...]:
        return (self.units[self.now],)


def sources() -> dict[str, Source]:
    return {"x": numbered(22, X), "y": numbered(9, Y, b=torch.arange(9) < 5)}


STREAMS = {"x": X, "y": Y}


def drawn(of: Of, kind: type[Sampler] = Turns, batch_size: int = 4, **options) -> TrainLoader:
    units = units_for(sources(), STREAMS, batch_size, of)
    return loader_of(sources(), STREAMS, sampler=kind(units=units), **options)


def seen(loader: TrainLoader, epochs: Sequence[int] = (0,)) -> list[tuple[str, ...]]:
    found = []
    for epoch in epochs:
        for step in loader.epoch(epoch, 0):
            for batch in step:
                ((stream, part),) = batch.items()
                found.append((stream, *part.present))
    return found


def test_only_streams_of_drawn_tasks_are_read() -> None:
    loader = drawn("tasks")
    turns = [("x", "a"), ("y", "b"), ("y", "c")]
    found = seen(loader, (0, 1))
    assert found == [turns[step % 3] for step in range(len(found))]
    assert seen(drawn("streams"))[:2] == [("x", "a"), ("y", "b", "c")]


def test_the_micro_batches_of_a_step_have_the_same_tasks() -> None:
    loader = drawn("tasks", accumulate=2)
    steps = [[next(iter(b.values())).present for b in step] for step in loader.epoch(0, 0)]
    assert steps == [[(name,)] * 2 for name in "abcabca"]
    assert loader.drawn == {"a": 3, "b": 2, "c": 2}  # steps
    assert loader.taken == {"x/a": 6, "y/b": 4, "y/c": 4}  # batches


def test_a_drawn_task_reads_rows_with_its_label_pass_after_pass() -> None:
    loader = drawn("tasks", length=60)  # x has 5 batches, b one of 4 rows among 5, c has 2
    rows: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for (batch,) in loader.epoch(0, 0):
        ((stream, part),) = batch.items()
        rows[part.present[0]] += rows_of(batch, stream)
    assert {task: len(found) for task, found in rows.items()} == {"a": 80, "b": 80, "c": 80}
    assert all(len(set(rows["a"][i : i + 20])) == 20 for i in range(0, 80, 20))
    assert set(rows["b"]) == set(range(5))
    assert all(len(set(rows["b"][i : i + 4])) == 4 for i in range(0, 80, 4))
    assert len({tuple(rows["a"][i : i + 20]) for i in range(0, 80, 20)}) == 4  # reshuffled
    assert set(rows["c"]) == set(range(9))
    assert loader.taken == {"x/a": 20, "y/b": 20, "y/c": 20}
    assert loader.drawn == {"a": 20, "b": 20, "c": 20}
    assert loader.examples == 240


def test_tasks_of_one_stream_that_are_drawn_alone_are_shuffled_apart() -> None:
    source = {"y": numbered(40, Y)}
    units = units_for(source, {"y": Y}, 20, "tasks")
    loader = loader_of(source, {"y": Y}, sampler=Turns(units=units), length=2)
    first, second = (rows_of(batch, "y") for (batch,) in loader.epoch(0, 0))
    assert first != second


@pytest.mark.parametrize("kind", [Turns, Pairs])
def test_a_stream_of_one_task_reads_rows_with_its_label(kind: type[Sampler]) -> None:
    """Whatever it is called; where every step reads every stream it is read whole."""
    found = {"x": numbered(12, ("x",), x=torch.arange(12) < 5), "y": numbered(12, Y)}
    streams = {"x": ("x",), "y": Y}
    units = units_for(found, streams, 4, "streams")
    assert [unit.rows for unit in units] == [5, 12]
    loader = loader_of(found, streams, sampler=kind(units=units), length=12)
    batches = [batch["x"] for (batch,) in loader.epoch(0, 0) if "x" in batch]
    assert {int(row) for part in batches for row in part.inputs} == set(range(5))
    joint = loader_of(found, streams, sampler=Joint(units=units), length=3)
    assert {row for (batch,) in joint.epoch(0, 0) for row in rows_of(batch)} == set(range(12))


def test_tasks_are_drawn_by_the_step_of_the_run() -> None:
    asked = []

    class Asked(Turns):
        def draw(self, epoch: int, step: int) -> tuple[Unit, ...]:
            asked.append((epoch, step))
            return super().draw(epoch, step)

    seen(drawn("tasks", Asked, length=2), (0, 1, 2))
    assert asked == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_long_epoch_is_not_settled_beforehand(workers: int) -> None:
    asked = []

    class Asked(Turns):
        def draw(self, epoch: int, step: int) -> tuple[Unit, ...]:
            asked.append(step)
            return super().draw(epoch, step)

    steps = drawn("tasks", Asked, length=1000, workers=workers).epoch(0, 0)
    for _ in range(3):
        next(steps)
    assert len(asked) < 20


def test_tasks_of_one_stream_that_are_drawn_together_share_rows() -> None:
    source = {"y": numbered(9, ("b", "c", "d"))}
    units = units_for(source, {"y": ("b", "c", "d")}, 4, "auto")
    loader = loader_of(source, {"y": ("b", "c", "d")}, sampler=Pairs(units=units), length=6)
    present = [batch["y"].present for (batch,) in loader.epoch(0, 0)]
    # The step's tasks come in the order of the stream's.
    assert present == [("b", "c"), ("c", "d"), ("b", "d")] * 2
    assert loader.taken == {"y": 6}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("of", ["streams", "tasks"])
def test_an_epoch_goes_on_from_the_state(of: Of, workers: int) -> None:
    def rows(loader: TrainLoader, epoch: int, start: int) -> list[list[int]]:
        return [rows_of(b, s) for (b,) in loader.epoch(epoch, start) for s in b]

    whole = drawn(of, Proportional, length=7)
    found = [rows(whole, epoch, 0) for epoch in range(3)]
    for epoch, stop in ((0, 3), (1, 0), (2, 6)):
        first = drawn(of, Proportional, length=7, workers=workers)
        for before in range(epoch):
            rows(first, before, 0)
        steps = first.epoch(epoch, 0)
        for _ in range(stop):
            next(steps)
        then = drawn(of, Proportional, length=7, workers=workers)
        then.load_state_dict(first.state_dict())
        assert rows(then, epoch, stop) == found[epoch][stop:]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_sampler_learns_counts_from_its_own_step_on(workers: int) -> None:
    sampler = Learner(units=units_for(sources(), STREAMS, 4, "tasks"))
    loader = loader_of(sources(), STREAMS, sampler=sampler, workers=workers, length=5)
    found, step = [], 0
    for epoch in range(2):
        for (batch,) in loader.epoch(epoch, 0):
            found += [part.present[0] for part in batch.values()]
            step += 1
            if step % sampler.refresh_every == 0:
                sampler.now = min(2, sampler.now + 1)
    assert found == ["a"] * 3 + ["b"] * 3 + ["c"] * 4


# -- the length of an epoch -----------------------------------------------------------------------


def units_with(batches: Sequence[int]) -> list[Unit]:
    return [Unit(str(n), str(n), (str(n),), 4 * n + 1, 4) for n in batches]


@pytest.mark.parametrize(
    ("length", "joint", "single", "pairs", "accumulated"),
    [
        ("longest", 6, 18, 9, 3),
        ("shortest", 2, 6, 3, 1),
        ("mean", 4, 12, 6, 2),
        (17, 17, 17, 17, 17),
    ],
)
def test_steps_of_an_epoch(
    length: EpochLength | int, joint: int, single: int, pairs: int, accumulated: int
) -> None:
    units = units_with([2, 4, 6])
    assert steps_of_epoch(units, length, per_step=3, accumulate=1) == joint
    assert steps_of_epoch(units, length, per_step=1, accumulate=1) == single
    assert steps_of_epoch(units, length, per_step=2, accumulate=1) == pairs
    assert steps_of_epoch(units, length, per_step=3, accumulate=2) == accumulated


@pytest.mark.parametrize("batches", [[55, *[1] * 6], [1] * 7, [5, 6]])
def test_a_mean_epoch_draws_as_many_batches_as_there_are(batches: Sequence[int]) -> None:
    found = steps_of_epoch(units_with(batches), "mean", per_step=1, accumulate=1)
    assert found == sum(batches)


@pytest.mark.parametrize("length", ["median", 0, -3, True, 2.5])
def test_lengths_that_there_are_not(length) -> None:
    with pytest.raises(ValueError, match=f"epoch={length}: "):
        steps_of_epoch(units_with([2]), length, per_step=1, accumulate=1)


def test_a_shorter_epoch_goes_on_in_long_streams() -> None:
    loader = loader_of(sources(), STREAMS, length="shortest")  # 2 steps; x has 5 batches
    assert loader.steps_per_epoch == 2
    rows = [rows_of(batch) for epoch in range(5) for (batch,) in loader.epoch(epoch, 0)]
    for around in (rows[:5], rows[5:]):
        assert len({row for batch in around for row in batch}) == 20


# -- units ----------------------------------------------------------------------------------------


def test_units_of_streams_and_tasks() -> None:
    rows, labelled = {"x": 22, "y": 9}, {"a": 22, "b": 5, "c": 9}

    def made(of: Of, streams: Mapping[str, Sequence[str]] = STREAMS, **sizes: int):
        return units_of(streams, rows, labelled, of=of, batch_size=4, batch_sizes=sizes)

    both = (Unit("x", "x", ("a",), 22, 4), Unit("y", "y", ("b", "c"), 9, 4))
    assert made("auto") == made("streams") == both
    tasks = (Unit("b", "y", ("b",), 5, 4), Unit("c", "y", ("c",), 9, 4))
    assert made("auto", {"y": Y}) == tasks
    assert made("tasks")[1:] == tasks
    assert [unit.batch_size for unit in made("tasks", b=2, a=64)] == [64, 2, 4]
    assert made("tasks", a=64)[0].batches == 1
    for options, message in (
        ({"of": "auto", "d": 3}, "batch_sizes names d, and what is drawn are x, y"),
        ({"of": "tasks", "a": 0}, "a has 0; use a whole number of rows"),
        ({"of": "rows"}, "of=rows: choose one of auto, streams, tasks"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**options)
    labelled["b"] = 0
    with pytest.raises(ValueError, match="b has no training row that carries a label"):
        made("tasks")


def test_units_with_fewer_rows_than_a_batch_are_told() -> None:
    a, b, c = (Unit(name, name, (name,), rows, 8) for name, rows in (("a", 9), ("b", 7), ("c", 3)))
    assert small_units([a]) == []
    (line,) = small_units([a, b])
    assert line == (
        "Fewer training rows than a batch: b, 7 rows for a batch of 8; a batch has them all."
    )
    (line,) = small_units([a, b, c])
    assert "2 of 3 (least c), 3 rows for a batch of 8" in line


# -- ragged rows ----------------------------------------------------------------------------------


def test_ragged_rows_share_batches_with_rows_of_like_length() -> None:
    count, size = 4 * POOL * 8 + 5, 4
    lengths = torch.randint(1, 200, (count,), generator=torch.Generator().manual_seed(0))
    queue = Queue("x", "x", None, count, size, 0, lengths)
    first = [queue.indices(number) for number in range(queue.batches)]
    assert sorted(torch.cat(first).tolist()) == sorted(set(torch.cat(first).tolist()))
    assert queue.batches == count // size
    padded = sum(int(lengths[rows].max()) * size for rows in first)
    full = sum(int(lengths[rows].sum()) for rows in first)
    assert padded / full < 1.05
    plain = Queue("x", "x", None, count, size, 0)
    wasted = sum(int(lengths[plain.indices(n)].max()) * size for n in range(queue.batches))
    assert wasted / full > 1.4
    longest = torch.stack([lengths[rows].max() for rows in first]).double()
    ranks = torch.arange(len(first)).double()
    assert abs(torch.corrcoef(torch.stack([ranks, longest]))[0, 1]) < 0.15  # batches are shuffled
    again = [queue.indices(queue.batches + number) for number in range(3)]
    assert [rows.tolist() for rows in again] != [rows.tolist() for rows in first[:3]]


def test_ragged_rows_are_evaluated_by_length() -> None:
    source = TensorSource(torch.arange(6.0)[:, None], {"a": torch.zeros(6)})
    source.lengths = torch.tensor([3, 1, 2, 3, 1, 9])
    dataset = Toy({"train": {}, "val": {"x": source}}, {"x": X})
    loader = EvaluationLoader(dataset, "val", regressions("a"), batch_size=4, placement=CPU)
    assert [rows_of(batch) for batch, _ in loader] == [[1, 4, 2, 0], [3, 5]]


def test_joint_draws_every_unit() -> None:
    units = units_with([1, 2])
    joint = Joint(units=units)
    assert joint.draw(3, 4) == tuple(units)
    assert joint.probabilities(0).tolist() == [0.5, 0.5]
    assert joint.fewest_tasks == 2
    assert Counter(joint.draw(0, n)[0].name for n in range(5)) == {"1": 5}
