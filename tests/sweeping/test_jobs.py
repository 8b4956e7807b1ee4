"""Which runs a sweep is made of: order, baselines, what the command line replaces, names."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mtlrun.errors import UserError
from mtlrun.sweeping.grid import GridSweeper
from mtlrun.sweeping.jobs import Axis, Job, as_typed, axes, expand, key_of

ALONE = ("weighting=equal", "architecture=single_task")


def typed(*arguments: str) -> list[Axis]:
    """The axes of a command line."""
    return axes(OverridesParser.create().parse_overrides(list(arguments)))


def values(argument: str) -> tuple[str, ...]:
    """The overrides that one argument stands for."""
    (axis,) = typed(argument)
    return axis.overrides


def written(jobs: list[Job]) -> list[str]:
    return [" ".join(job.overrides) for job in jobs]


# -- axes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["seed=range(0)", "seed=range(3,1)", "seed=range(1.0,0.0,0.5)"])
def test_no_value_is_a_slip(text: str) -> None:
    with pytest.raises(HydraException, match=r"seed=range.*: there is no value in it"):
        typed(text)


@pytest.mark.parametrize(
    ("argument", "overrides"),
    [
        ("a=1,2", ("a=1", "a=2")),
        ("a=choice(x,y)", ("a=x", "a=y")),
        ("a=range(3)", ("a=0", "a=1", "a=2")),
        ("a=range(6,0,-2)", ("a=6", "a=4", "a=2")),
        ("a=[1,2],[3]", ("a=[1,2]", "a=[3]")),
        ("a={b:1},{c:2}", ("a={b:1}", "a={c:2}")),
        ("a='x=1,y'", ("a='x=1,y'",)),
        ("a=null,true", ("a=null", "a=True")),
        ("a=", ("a=",)),
        ("+a.b=1,2", ("+a.b=1", "+a.b=2")),
        ("++a.b=3", ("++a.b=3",)),
        ("~a", ("~a",)),
        ("~a=b", ("~a=b",)),
        ("weighting@one=equal,mgda", ("weighting@one=equal", "weighting@one=mgda")),
    ],
)
def test_the_values_of_an_argument(argument: str, overrides: tuple[str, ...]) -> None:
    assert values(argument) == overrides
    # What a job is given means the same when it is read again.
    assert [axis.overrides for axis in typed(*overrides)] == [overrides[-1:]]


def test_of_a_key_given_twice_the_last_one_counts_and_the_first_one_has_the_place() -> None:
    given = typed("seed=0,1", "a=1", "+seed=7", "++a=2")
    assert [(axis.key, axis.name, axis.overrides) for axis in given] == [
        ("+seed", "seed", ("+seed=7",)),
        ("++a", "a", ("++a=2",)),
    ]


def test_the_sweeps_own_keys_are_no_axes() -> None:
    own = ("sweep=seeds", "+sweep=seeds", "hydra/launcher=joblib", "hydra.sweeper.attempts=1")
    assert typed(*own) == []
    (like,) = typed("sweeping=1")
    assert like.name == "sweeping"


def test_an_interval_has_no_end_of_values() -> None:
    with pytest.raises(HydraException, match=r"a=interval\(0,3\): .*add hydra/sweeper=optuna"):
        typed("seed=1", "a=interval(0,3)")


@pytest.mark.parametrize(
    ("key", "of_method"),
    [
        ("weighting", True),
        ("+weighting.alpha", True),
        ("~architecture", True),
        ("gradients.at", True),
        ("weighting@here", True),
        ("backbone", False),
        ("seed", False),
        ("optimizer.lr", False),
        ("weightings", False),
    ],
)
def test_what_makes_a_method(key: str, of_method: bool) -> None:
    assert Axis(key, ()).of_method == of_method
    assert key_of(f"{key}=a=b") == Axis(key, ()).name == key.lstrip("+~")


@pytest.mark.parametrize(
    ("given", "overrides"),
    [
        ("0,1,2", ("a=0", "a=1", "a=2")),
        ("range(2)", ("a=0", "a=1")),
        ([0, 1], ("a=0", "a=1")),
        (["x", "y"], ("a=x", "a=y")),
        ([None, True, 1e-5], ("a=null", "a=True", "a=1e-05")),
        ([[1, 2], [3]], ("a=[1,2]", "a=[3]")),
        ([{"b": 1}], ("a={b:1}",)),
        (3, ("a=3",)),
        (None, ("a=null",)),
    ],
)
def test_values_of_a_yaml_file_read_as_typed(given: Any, overrides: tuple[str, ...]) -> None:
    assert values(as_typed("a", given)) == overrides


# -- jobs ------------------------------------------------------------------------------------------


def test_each_combination_begins_with_its_baseline_and_methods_turn_fastest() -> None:
    methods = typed("weighting=equal,mgda", "gradients.every=1,2")
    jobs = expand(methods, typed("seed=0,1", "batch_size=8,16"), ALONE)
    assert len(jobs) == 2 * 2 * (1 + 2 * 2)
    expected = []
    for rest in ("seed=0 batch_size=8", "seed=0 batch_size=16", "seed=1 batch_size=8"):
        expected += [f"{rest} {' '.join(ALONE)}"]
        for weighting in ("equal", "mgda"):
            for every in (1, 2):
                expected += [f"{rest} weighting={weighting} gradients.every={every}"]
    assert written(jobs)[: len(expected)] == expected
    assert [job.baseline for job in jobs] == [index % 5 == 0 for index in range(20)]
    for index, job in enumerate(jobs):
        first = jobs[index - index % 5]
        assert job.against == (() if job.baseline else first.overrides)


def test_a_baseline_does_not_take_over_what_is_said_of_the_method() -> None:
    others = typed("seed=0", "weighting.alpha=0.5,1.5", "gradients.at=parameters", "epochs=2")
    jobs = expand(typed("architecture=hps,mtan"), [*others, *typed("+weighting.x=1")], ALONE)
    assert written(jobs) == [
        f"seed=0 epochs=2 {' '.join(ALONE)}",
        *(
            f"seed=0 epochs=2 weighting.alpha={alpha} gradients.at=parameters +weighting.x=1 "
            f"architecture={architecture}"
            for alpha in (0.5, 1.5)
            for architecture in ("hps", "mtan")
        ),
    ]


def test_a_baseline_of_its_own_settings_is_one_for_all_that_they_replace() -> None:
    jobs = expand([], typed("seed=0", "optimizer=adam,sgd"), ("optimizer=sgd", *ALONE))
    assert written(jobs) == [
        f"seed=0 optimizer=sgd {' '.join(ALONE)}",
        "seed=0 optimizer=adam",
        "seed=0 optimizer=sgd",
    ]


def test_without_a_baseline_methods_turn_fastest_and_nothing_is_left_out() -> None:
    jobs = expand(typed("weighting=equal,mgda"), typed("seed=0,1", "gradients.every=2"), ())
    assert written(jobs) == [
        f"seed={seed} gradients.every=2 weighting={weighting}"
        for seed in (0, 1)
        for weighting in ("equal", "mgda")
    ]
    assert not any(job.baseline or job.against for job in jobs)
    assert written(expand([], [], ())) == [""]
    assert written(expand([], [], ALONE)) == [" ".join(ALONE), ""]


def test_the_same_value_twice_is_one_job() -> None:
    assert written(expand(typed("weighting=mgda,mgda"), typed("seed=1,1"), ALONE)) == [
        f"seed=1 {' '.join(ALONE)}",
        "seed=1 weighting=mgda",
    ]
    assert written(expand(typed("weighting=mgda,mgda"), typed("seed=1,1"), ())) == [
        "seed=1 weighting=mgda"
    ]


def test_a_job_is_called_after_what_varies() -> None:
    others = typed("seed=0,1", "epochs=3", "~heads.of", "+optimizer.eps=1e-8,1e-6")
    jobs = expand(typed("weighting=mgda"), others, ALONE)
    assert [job.name for job in jobs[:2]] == [
        "seed=0 optimizer.eps=1e-08 weighting=equal architecture=single_task",
        "seed=0 optimizer.eps=1e-08",
    ]
    assert expand([], typed("epochs=3"), ())[0].name == "the run"
    placed = Job((), (), folder=Path("outputs/default/digits/mgda,epochs=3/seed=0"))
    assert placed.label == "mgda,epochs=3/seed=0"


def test_a_job_is_finished_where_its_result_is(tmp_path: Path) -> None:
    job = Job((), (), folder=tmp_path)
    assert not job.finished
    (tmp_path / "result.json").touch()
    assert job.finished
    assert not Job((), (), folder=tmp_path, refused="other settings").finished
    assert not Job((), (), folder=tmp_path, result="paths.csv").finished


# -- a sweep's file and the command line -----------------------------------------------------------


class Grid(GridSweeper):
    """A grid whose jobs are not composed."""

    def __init__(
        self, methods: Mapping[str, Any], params: Mapping[str, Any], folder: Path | None = None
    ) -> None:
        super().__init__(methods, params, ALONE)
        path = create_config_search_path(str(folder)) if folder else None
        loader = ConfigLoaderImpl(path) if path else None
        self.hydra_context = SimpleNamespace(config_loader=loader)

    def composed(self, jobs: Any) -> list[Job]:
        return list(jobs)


def test_the_command_line_replaces_axes_of_the_file_in_their_place() -> None:
    grid = Grid({"weighting": "equal,mgda", "weighting.alpha": 2}, {"seed": [0, 1, 2]})
    given = ["optimizer.lr=0.1,0.2", "weighting=pcgrad,cagrad", "seed=7", "hydra/launcher=joblib"]
    assert written(grid.jobs(given)) == [
        job
        for rate in (0.1, 0.2)
        for job in (
            f"seed=7 optimizer.lr={rate} {' '.join(ALONE)}",
            f"seed=7 optimizer.lr={rate} weighting=pcgrad weighting.alpha=2",
            f"seed=7 optimizer.lr={rate} weighting=cagrad weighting.alpha=2",
        )
    ]
    # A key with another prefix is the same key.
    once = grid.jobs(["++weighting.alpha=3", "weighting=mgda", "seed=0"])
    assert written(once)[1:] == ["seed=0 weighting=mgda ++weighting.alpha=3"]
    assert len(grid.jobs([])) == 3 * (1 + 2)


def test_glob_finds_the_choices_of_a_group(tmp_path: Path) -> None:
    (tmp_path / "backbone").mkdir()
    for name in ("mlp", "cnn", "cnn_small"):
        (tmp_path / "backbone" / f"{name}.yaml").touch()
    grid = Grid({}, {}, tmp_path)
    jobs = grid.jobs(["backbone=glob(cnn*)", "seed=0"])
    assert written(jobs) == [
        f"backbone=cnn seed=0 {' '.join(ALONE)}",
        "backbone=cnn seed=0",
        f"backbone=cnn_small seed=0 {' '.join(ALONE)}",
        "backbone=cnn_small seed=0",
    ]


def test_settings_of_the_grid_are_whole_numbers() -> None:
    for settings in ({"attempts": 0}, {"max_batch_size": 0}, {"max_batch_size": 1.5}):
        with pytest.raises(UserError, match=r"hydra\.sweeper\.\w+=[01.5]+: use a whole number"):
            GridSweeper({}, {}, [], **settings)
