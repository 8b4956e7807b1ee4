"""Sweeps over groups of tasks: which groups, for which tasks, and where there are none."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mtlrun.config import Config, ToyConfig
from mtlrun.errors import UserError
from mtlrun.sweeping.grid import GridSweeper
from mtlrun.sweeping.jobs import Axis, Job, axes
from mtlrun.sweeping.task_groups import groups_axis

ALONE = ("weighting=equal", "architecture=single_task")


def parsed(arguments: Sequence[str]) -> list[Axis]:
    return axes(OverridesParser.create().parse_overrides(list(arguments)))


class Dataset:
    """Composes what a command line says of ``tasks``, for a dataset with the given ones."""

    def __init__(self, *tasks: str, **settings: Any) -> None:
        self.settings = {"tasks": list(tasks), **settings}

    def __call__(self, overrides: Sequence[str]) -> Config:
        given = {
            o.key_or_group: o.value()
            for o in OverridesParser.create().parse_overrides(list(overrides))
        }
        of = given.pop("tasks", None)
        more = {key.partition(".")[2]: value for key, value in given.items() if "tasks." in key}
        return Config(dataset=self.settings, tasks={"of": of, **more} if more else of)

    def groups(self, kind: str, *arguments: str) -> list[str]:
        """The values of the axis."""
        _, axis = groups_axis(kind, parsed(arguments), self)
        assert axis.key == "tasks"
        return [text.removeprefix("tasks=") for text in axis.overrides]


ABCD = Dataset("a", "b", "c", "d")


def test_pairs_follow_all_tasks_in_the_datasets_order() -> None:
    assert ABCD.groups("pairs") == [
        "null", "[a,b]", "[a,c]", "[a,d]", "[b,c]", "[b,d]", "[c,d]",
    ]  # fmt: skip


def test_all_groups_go_by_size() -> None:
    assert Dataset("z", "b", "m").groups("all") == ["null", "[z,b]", "[z,m]", "[b,m]"]
    assert len(ABCD.groups("all")) == 2**4 - 4 - 1
    ten = Dataset(*"abcdefghij").groups("all")
    assert len(set(ten)) == len(ten) == 1013
    assert [text.count(",") + 1 for text in ten[1:]] == [
        size for size in range(2, 10) for _ in range(math.comb(10, size))
    ]


def test_tasks_that_are_typed_are_those_that_groups_are_made_of() -> None:
    # All of them stay as typed, so that this is the run that one gets without the sweep.
    assert ABCD.groups("pairs", "tasks=[d,a,c]") == ["[d,a,c]", "[a,c]", "[a,d]", "[c,d]"]
    assert ABCD.groups("all", "seed=0,1", "tasks=[b,c]") == ["[b,c]"]


def test_names_that_look_like_something_else_read_back_as_names() -> None:
    names = ["5_0", "null", "price, net", "it's", "é", "7"]
    texts = Dataset(*names).groups("pairs")[1:]
    read = [OverridesParser.create().parse_override(f"tasks={text}").value() for text in texts]
    assert read == [[a, b] for at, a in enumerate(names) for b in names[at + 1 :]]


@pytest.mark.parametrize(
    ("dataset", "kind", "arguments", "message"),
    [
        (Dataset("a"), "pairs", (), "makes groups of two tasks and more, and there is one: a"),
        (Dataset(*"abcdefghijk"), "all", (), "11 tasks have 2036 groups .* which trains 55 and"),
        (ABCD, "all", ("dataset=x,y",), r"\+sweep=groups .* dataset has several values"),
        (ABCD, "pairs", ("tasks=[a,b],[c,d]",), r"groups of your own .*-m tasks=\[a,b\],\[b,c\]"),
        (ABCD, "pairs", ("++tasks.primary=[a]",), r"tasks\.primary has no place beside \+sweep=pa"),
        (ABCD, "pairs", ("++tasks.anneal=0.5",), r"tasks\.anneal has no place"),
        (ABCD, "pairs", ("tasks=[a,e]",), "this dataset has no task e"),
        (Dataset("a", "b", task_column="c"), "pairs", (), "dataset.task_column makes several"),
    ],
)  # fmt: skip
def test_sweeps_that_have_no_groups_to_make(
    dataset: Dataset, kind: str, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        dataset.groups(kind, *arguments)


def test_a_toy_has_no_tasks() -> None:
    with pytest.raises(UserError, match="experiment=toy has no tasks"):
        groups_axis("pairs", [], lambda given: Config(toy=ToyConfig()))


def test_a_kind_of_groups_that_there_is_not() -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.groups=triples: choose one of pairs"):
        GridSweeper({}, {}, [], groups="triples")


class Grid(GridSweeper):
    """A grid over pairs of a, b and c, whose jobs are not composed."""

    def __init__(self, baseline: Sequence[str]) -> None:
        super().__init__({}, {"seed": "0,1"}, baseline, groups="pairs")
        self.hydra_context = SimpleNamespace(config_loader=None)
        self.config = None

    def composed(self, jobs: Any) -> list[Job]:
        return list(jobs)

    def written(self, *arguments: str) -> list[str]:
        return [" ".join(job.overrides) for job in self.jobs(arguments)]


PAIRS = ("[a,b]", "[a,c]", "[b,c]")


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> None:
    three = SimpleNamespace(settings=Dataset("a", "b", "c"))
    monkeypatch.setattr("mtlrun.sweeping.grid.Composer", lambda *given: three)


@pytest.mark.usefixtures("composed")
def test_single_task_training_of_all_tasks_comes_first_for_each_seed() -> None:
    grid, alone = Grid(ALONE), " ".join(ALONE)
    assert grid.written("weighting=mgda") == [
        job
        for seed in (0, 1)
        for job in (
            f"seed={seed} {alone}",
            *(f"seed={seed} weighting=mgda tasks={of}" for of in ["null", *PAIRS]),
        )
    ]
    # Tasks that were typed are those of single-task training.
    assert grid.written("tasks=[b,a]", "seed=5") == [
        f"seed=5 tasks=[b,a] {alone}",
        "seed=5 tasks=[b,a]",
    ]


@pytest.mark.usefixtures("composed")
def test_without_a_baseline_there_are_the_groups() -> None:
    assert Grid([]).written("tasks=[b,c]", "seed=0") == ["seed=0 tasks=[b,c]"]
