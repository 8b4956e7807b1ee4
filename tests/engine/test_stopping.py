"""When runs end and tasks leave: sequences of figures with known answers, and what stays frozen."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from engine_toys import NAMES, Branched, given, linear_head, toy_batch, toy_tasks, training_step
from test_loader import X, loader_of, rows_of
from test_loader_drawn import STREAMS, drawn, sources
from torch import Tensor, nn

from mtlrun.engine.compatibility import check_compatible
from mtlrun.engine.leaving import Leaving
from mtlrun.engine.loader import TrainLoader
from mtlrun.engine.step import TrainingStep
from mtlrun.engine.stopping import JointStopping, PerTaskStopping, Seen, Stopping
from mtlrun.errors import UserError
from mtlrun.models.architectures.base import Pass
from mtlrun.models.model import MultiTaskModel
from mtlrun.types import TaskInfo
from mtlrun.weighting.base import Weighting
from mtlrun.weighting.equal import Equal
from mtlrun.weighting.rotograd import RotoGrad

NAN = float("nan")


def ends_after(stopping: Stopping, epochs: Sequence[Seen]) -> int:
    """The epoch after which the run ends; 0 where it does not."""
    for seen in epochs:
        said = stopping.after_epoch(seen).said
        assert any("The run ends" in text for text in said) == (stopping.ended is not None)
        if stopping.ended is not None:
            return seen.epoch
    return 0


# -- the whole run ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("monitor", "values", "end"),
    [
        ("b/rmse", [1.0, NAN, 0.9, 0.9, NAN, 0.1], 5),  # less is better; equal and NaN are not
        ("b/loss", [3.0, 2.0, 1.0, 0.5, 0.4, 0.3], 0),
        ("a/accuracy", [0.1, 0.2, 0.3, 0.2, 0.3], 5),
        ("a/accuracy", [NAN, NAN, 0.5], 2),
    ],
)
def test_joint_waits_for_a_better_metric(monitor: str, values: Sequence[float], end: int) -> None:
    task, metric = monitor.split("/")
    stopping = JointStopping(2, monitor, tasks=toy_tasks())
    epochs = [Seen(n, {task: {metric: value}}) for n, value in enumerate(values, 1)]
    assert ends_after(stopping, epochs) == end


def test_joint_waits_for_a_better_score_or_delta_m() -> None:
    """Of independent networks the newest best epoch counts, which the caller says."""
    stopping = JointStopping(2, tasks=toy_tasks())
    assert ends_after(stopping, [Seen(n, {}, b) for n, b in ((1, 1), (2, 2), (3, 2), (4, 2))]) == 4
    assert stopping.ended is not None
    assert "score has not got better for 2 epochs, the best was epoch 2" in stopping.ended
    stopping = JointStopping(2, "delta_m", tasks=toy_tasks(), baseline="alone")
    values = (-3.0, -1.0, NAN, -1.0, 5.0)
    assert ends_after(stopping, [Seen(n, {}, n, v) for n, v in enumerate(values, 1)]) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"monitor": "delta_m"}, "tracking.baseline=FOLDER"),
        ({"monitor": "a/acuracy"}, "Did you mean a/accuracy"),
        ({"monitor": "scores"}, "Did you mean score"),
        ({"patience": 0}, "patience=0"),
    ],
)
def test_joint_refuses(settings: Mapping[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JointStopping(tasks=toy_tasks(), **settings)  # type: ignore[arg-type]  # that is the test


# -- task by task ----------------------------------------------------------------------------------


def seen_of(epoch: int, a: float, b: float = NAN, c: float = NAN) -> Seen:
    return Seen(epoch, {"a": {"accuracy": a}, "b": {"r2": b}, "c": {"r2": c}})


def histories(stopping: Stopping, epochs: Sequence[Seen]) -> list[tuple[str, str]]:
    """After each epoch the tasks that it is the best of, and those that have left."""
    found = []
    for seen in epochs:
        change = stopping.after_epoch(seen)
        found.append(("".join(change.better), "".join(sorted(stopping.stopped))))
    return found


FIGURES = (
    (0.5, 0.10, NAN),
    (0.6, 0.10, 0.3),
    (0.6, 0.05, NAN),
    (NAN, 0.30, 0.2),
    (0.9, 0.20, 0.3),
    (0.9, 0.20, 0.3),
)
EPOCHS = [seen_of(epoch, *values) for epoch, values in enumerate(FIGURES, 1)]
EXPECTED = [("ab", ""), ("ac", ""), ("", "b"), ("", "abc"), ("", "abc"), ("", "abc")]


def test_each_task_has_its_own_patience() -> None:
    stopping = PerTaskStopping(2, tasks=toy_tasks())
    assert histories(stopping, EPOCHS) == EXPECTED
    assert stopping.stopped == {"a": 4, "b": 3, "c": 4}
    assert stopping.best_epochs() == {"a": 2, "b": 1, "c": 2}
    assert stopping.ended is not None
    assert stopping.ended.startswith("all tasks")


def test_decisions_do_not_depend_on_where_a_run_was_interrupted() -> None:
    for place in range(len(EPOCHS)):
        before, after = (PerTaskStopping(2, 0.5, tasks=toy_tasks()) for _ in range(2))
        first = histories(before, EPOCHS[:place])
        after.load_state_dict(before.state_dict())
        whole = PerTaskStopping(2, 0.5, tasks=toy_tasks())
        assert first + histories(after, EPOCHS[place:]) == histories(whole, EPOCHS)
        assert str(after.state_dict()) == str(whole.state_dict())


def test_the_run_ends_with_the_last_primary_task() -> None:
    stopping = PerTaskStopping(2, tasks=toy_tasks(), primary=("b",))
    assert ends_after(stopping, EPOCHS) == 3
    assert stopping.ended is not None
    assert "primary tasks (b)" in stopping.ended


def test_a_task_comes_back_once_its_error_has_grown_enough() -> None:
    """Errors 0.20 | 0.25 0.25 leaves, 0.29 is within half of 0.20, 0.31 is not; then anew."""
    stopping = PerTaskStopping(2, 0.5, tasks=toy_tasks(), primary=("a",))
    accuracies = (0.8, 0.75, 0.75, 0.71, NAN, 0.69, 0.68, 0.7, 0.7, 0.7)
    better = ["a", "", "", "", "", "a", "", "a", "", ""]
    left = ["", "", "a", "a", "a", "", "", "", "", "a"]
    for epoch, accuracy in enumerate(accuracies):
        change = stopping.after_epoch(seen_of(epoch + 1, accuracy, epoch + 1.0, epoch + 1.0))
        assert "".join(name for name in change.better if name == "a") == better[epoch], epoch
        assert "".join(stopping.stopped) == left[epoch], epoch
    assert stopping.best_epochs() == {"a": 8}


def test_a_task_that_was_never_measured_leaves_as_it_is() -> None:
    stopping = PerTaskStopping(1, tasks=toy_tasks())
    change = stopping.after_epoch(seen_of(1, 0.5))
    assert change.left == ["b", "c"]
    assert stopping.best_epochs() == {"b": 0, "c": 0}


# -- what has left stays as it was -----------------------------------------------------------------


class Tied(Branched):
    """Every branch is walked in each pass and normalises; a term reaches all parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in NAMES
        )
        self.terms = {"size": 0.1}

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        return super().features(inputs, NAMES)

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        size = torch.stack([parameter.square().sum() for parameter in self.parameters()]).sum()
        return Pass(self.features(inputs, tasks), {"size": size})


def tied_parts(weighting: Weighting) -> tuple[MultiTaskModel, TrainingStep, TrainLoader]:
    torch.manual_seed(0)
    tasks = toy_tasks()
    model = MultiTaskModel(Tied(), {name: linear_head(task) for name, task in tasks.items()})
    step = training_step(model, tasks, weighting, optimizer=torch.optim.AdamW, clip_norm=1.0)
    loader = loader_of(sources(), STREAMS)
    return model, step, loader


def of_task(model: MultiTaskModel, task: str) -> dict[str, Tensor]:
    place = str(NAMES.index(task))
    return {
        key: value.clone()
        for key, value in model.state_dict().items()
        if key.startswith((f"heads.{place}.", f"architecture.middle.{place}."))
    }


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[bool]:
    assert one.keys() == other.keys()
    return [torch.equal(value, other[key]) for key, value in one.items()]


def trained(
    model: MultiTaskModel, step: TrainingStep, loader: TrainLoader, seed: int
) -> dict[str, Tensor]:
    """After a step on a batch of the tasks that the loader leaves: the whole network."""
    model.train()
    present = [name for name in NAMES if name not in loader.stopped]
    step([toy_batch(seed, present=present)], 0, seed)
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("weighting", [Equal, given])
def test_a_task_goes_back_to_its_best_and_stays_there_bit_for_bit(weighting) -> None:
    model, step, loader = tied_parts(weighting())
    stopping = PerTaskStopping(1, 0.5, tasks=toy_tasks())
    leaving = Leaving(stopping, step, loader)
    trained(model, step, loader, 1)
    leaving.after_epoch(seen_of(1, 0.8, 0.1, 0.1))
    best, others = of_task(model, "a"), of_task(model, "b")
    assert len(best) == 9
    trained(model, step, loader, 2)
    assert not any(same(best, of_task(model, "a")))
    moved = of_task(model, "b")
    leaving.after_epoch(seen_of(2, 0.7, 0.2, 0.2))
    assert leaving.active() == {"a": False, "b": True, "c": True}
    assert loader.stopped == {"a"}
    assert all(same(best, of_task(model, "a")))
    assert all(same(moved, of_task(model, "b")))
    whole = {key: value.clone() for key, value in model.state_dict().items()}
    for seed in (3, 4):
        after = trained(model, step, loader, seed)
        assert all(same(best, of_task(model, "a")))
    frozen = {key for key in whole if torch.equal(whole[key], after[key])}
    assert frozen == best.keys()  # the trunk and the others have gone on
    assert not any(same(others, of_task(model, "b")))
    said = leaving.after_epoch(seen_of(3, 0.69, 0.3, 0.3))  # an error of 0.31 after one of 0.2
    assert ["comes back" in sentence for sentence in said] == [True]
    assert loader.stopped == frozenset()
    assert all(same(best, of_task(model, "a")))
    trained(model, step, loader, 5)
    assert not any(same(best, of_task(model, "a")))


def test_parts_that_are_frozen_anyway_stay_so_when_tasks_leave_and_come_back() -> None:
    model, step, loader = tied_parts(Equal())
    model.freeze(["heads.c"])
    leaving = Leaving(PerTaskStopping(1, 0.5, tasks=toy_tasks()), step, loader)
    for epoch, accuracy in enumerate((0.8, 0.7, 0.69), 1):  # the best; it leaves; it comes back
        leaving.after_epoch(seen_of(epoch, accuracy, epoch / 10, epoch / 10))
        model.train()
        assert not model.head_of["c"].training
        assert model.head_of["a"].training == (epoch != 2)


def test_what_was_kept_is_in_the_state() -> None:
    """A run that goes on freezes the same parts, and has the same heads to go back to."""
    model, step, loader = tied_parts(Equal())
    leaving = Leaving(PerTaskStopping(1, tasks=toy_tasks()), step, loader)
    trained(model, step, loader, 1)
    leaving.after_epoch(seen_of(1, 0.8, 0.1, 0.1))
    best = of_task(model, "b")
    trained(model, step, loader, 2)
    leaving.after_epoch(seen_of(2, 0.7, 0.2, 0.2))
    state, network = leaving.state_dict(), model.state_dict()
    other, its_step, its_loader = tied_parts(Equal())
    other.load_state_dict(network)
    resumed = Leaving(PerTaskStopping(1, tasks=toy_tasks()), its_step, its_loader)
    resumed.load_state_dict(state)
    held = of_task(other, "a")
    trained(other, its_step, its_loader, 3)
    assert all(same(held, of_task(other, "a")))
    resumed.after_epoch(seen_of(3, 0.9, 0.1, 0.3))
    assert its_loader.stopped == {"a", "b"}
    assert not any(same(best, of_task(other, "b")))  # that of epoch 2, which was better
    assert all(same(of_task(model, "b"), of_task(other, "b")))


# -- what is read ----------------------------------------------------------------------------------


def test_nothing_is_read_for_tasks_that_have_left() -> None:
    """What the others get is what they got before: the same rows in the same steps."""
    before, after = drawn("tasks"), drawn("tasks")
    after.stopped = frozenset({"b"})
    whole, found = (
        [{stream: rows_of(batch, stream) for stream in batch} for (batch,) in loader.epoch(0, 0)]
        for loader in (before, after)
    )
    assert len(whole) > 3
    assert found == [{} if number % 3 == 1 else rows for number, rows in enumerate(whole)]
    assert after.drawn == {**before.drawn, "b": 0}
    assert after.examples < before.examples


def test_labels_of_tasks_that_have_left_count_as_missing() -> None:
    loader = loader_of(sources(), STREAMS)
    loader.stopped = frozenset({"c"})
    for step in loader.epoch(0, 0):
        for batch in step:
            assert batch["x"].present == X
            assert "c" not in batch["y"].present


def test_a_step_without_tasks_changes_nothing() -> None:
    model, step, loader = tied_parts(Equal())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loader.stopped = frozenset(NAMES)
    model.train()
    assert step([{}], 0, 0).present == ()
    assert all(same(before, model.state_dict()))


# -- what does not go together ---------------------------------------------------------------------


def test_rotations_cannot_follow_a_task_that_comes_back() -> None:
    tasks = toy_tasks()
    model, _, loader = tied_parts(Equal())
    infos = [TaskInfo(name, task.likelihood, None, 10) for name, task in tasks.items()]
    with pytest.raises(UserError, match=r"stopping\.revive=null"):
        check_compatible(
            weighting=RotoGrad(tasks=infos, channels=6),
            weighting_name="rotograd",
            architecture_name="hps",
            sampler_name="joint",
            model=model,
            sampler=loader.sampler,
            place="parameters",
            device=torch.device("cpu"),
            settings={"accumulate": 1, "amp": "none"},
            stopping=PerTaskStopping(1, 0.1, tasks=tasks),
        )
