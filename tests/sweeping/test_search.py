"""The search: what it proposes, keeps, and tries again."""

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from sweep_folders import FakeLauncher, done, failed, write_run

from mtlrun.errors import UserError
from mtlrun.sweeping.jobs import Job
from mtlrun.sweeping.search import Searched, SearchSweeper, searched
from mtlrun.sweeping.stopping import StopSweep
from mtlrun.sweeping.sweeper import SweepError
from mtlrun.sweeping.watch import Watch

pytest.importorskip("optuna")


def parsed(text: str) -> Searched:
    return searched(OverridesParser.create().parse_override(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=a,b,'c d'", Searched("x", ("a", "b", "'c d'"))),
        ("+x=[1],[2,3]", Searched("+x", ("[1]", "[2,3]"))),
        ("x=interval(0,3)", Searched("x", (), 0.0, 3.0)),
        ("x=int(interval(1,5))", Searched("x", (), 1, 5, whole=True)),
        ("x=tag(log,interval(1e-4,1))", Searched("x", (), 1e-4, 1.0, logarithmic=True)),
        ("x=range(1,10,3)", Searched("x", (), 1, 7, whole=True, step=3)),
        ("x=range(3,0,-1)", Searched("x", (), 1, 3, whole=True)),
        ("x=range(0,1,0.5)", Searched("x", ("0.0", "0.5"))),
    ],
)
def test_what_a_sweep_on_the_command_line_searches(text: str, expected: Searched) -> None:
    assert parsed(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x=interval(3,0)", "an interval needs low < high."),
        ("x=tag(log,interval(0,1))", "an interval needs 0 < low < high within tag"),
        ("x=range(3,3)", "there is no number in this range."),
        ("x=tag(log,range(1,100))", "the tag log says nothing here."),
        ("x=tag(logg,interval(1,3))", "the tag logg says nothing here."),
    ],
)
def test_what_leaves_nothing_to_search(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{text}: {message}")):
        parsed(text)


def test_a_range_of_no_numbers_is_no_interval() -> None:
    with pytest.raises(HydraException, match="there is no value in it"):
        parsed("x=range(1.0,0.0,0.5)")


# -- whole searches --------------------------------------------------------------------------------


def quality(overrides: str) -> dict[str, dict[str, float]]:
    """Best where alpha is 2, and with a smaller seed."""
    alpha = float(re.search(r"alpha=(\S+)", overrides)[1]) if "alpha=" in overrides else 9.0
    seed = int(re.search(r"seed=(\d)", overrides)[1]) if "seed=" in overrides else 0
    value = 1 / (1 + abs(alpha - 2)) / (1 + seed)
    return {"a": {"accuracy": value, "rmse": 1 / value}}


class Search(SearchSweeper):
    """A search whose runs are written by hand instead of trained."""

    def __init__(
        self, folder: Path, launch: Any = None, objective: str = "a/accuracy", **more: Any
    ):
        settings = {"trials": 4, "at_once": 1, "sampler": "tpe", "seed": 0, "study": None, **more}
        super().__init__(baseline=["weighting=equal"], **settings)
        self.root = folder
        self.launcher = self.fake = FakeLauncher(launch or self.train)
        self.hydra_context: Any = OmegaConf.create({"config_loader": None})
        self.config = OmegaConf.create(
            {
                "objective": objective,
                "select_on": "validation",
                "tracking": {"baseline": None, "progress": "none"},
                "hydra": {"sweep": {"dir": str(folder / "outputs")}},
            }
        )

    def composed(self, jobs: Sequence[Job]) -> list[Job]:
        return [replace(job, folder=self.folder_of(" ".join(job.overrides))) for job in jobs]

    def folder_of(self, overrides: str) -> Path:
        seed = re.search(r"seed=\d", overrides)
        name = re.sub(r"seed=\d ?", "", overrides).strip().replace(" ", ",")
        return self.root / "outputs" / name / (seed[0] if seed else "seed=0")

    def train(self, jobs: Sequence[str]) -> list[Any]:
        for overrides in jobs:
            write_run(self.folder_of(overrides), [quality(overrides)])
        return [done() for _ in jobs]

    @contextmanager
    def watched(
        self, jobs: Sequence[Job], told: Callable[[Job], str] | None = None
    ) -> Iterator[Watch]:
        watch = Watch(jobs, "none", told=told)
        self.stopping = StopSweep(lambda: watch.jobs)
        with watch, self.stopping:
            yield watch

    @property
    def rows(self) -> list[dict[str, str]]:
        (table,) = (self.root / "outputs/optuna").glob("*/trials.csv")
        with table.open() as file:
            return list(csv.DictReader(file))


SPACE = ["weighting=gradnorm", "weighting.alpha=interval(0,3)"]


def test_a_search_finds_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = Search(tmp_path, trials=12)
    search.sweep(SPACE)
    assert search.fake.asked[0] == ["weighting=equal"]  # the baseline, before anything else
    assert len(search.fake.asked) == 13
    alphas = [float(row["weighting.alpha"]) for row in search.rows]
    assert all(0 <= alpha <= 3 for alpha in alphas)
    values = [1 / (1 + abs(alpha - 2)) for alpha in alphas]
    assert [float(row["value"]) for row in search.rows] == pytest.approx(values)
    best = alphas[values.index(max(values))]
    printed = capsys.readouterr().out
    head = f"Best of 12 trials by a/accuracy on the validation split: weighting.alpha={best} "
    assert printed.startswith(head)
    assert f"weighting=gradnorm,weighting.alpha={best}\n" in printed


@pytest.mark.parametrize("objective", ["a/rmse", "delta_m"])
def test_its_direction_is_the_objectives(
    objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search(tmp_path, objective=objective, trials=3)
    search.sweep(["weighting.alpha=0.5,1.9"])
    assert "weighting.alpha=1.9 (" in capsys.readouterr().out
    value = {row["weighting.alpha"]: float(row["value"]) for row in search.rows}["1.9"]
    accuracy, alone = 1 / 1.1, 1 / 8
    change = (100 * (accuracy / alone - 1) + 100 * (1 - alone / accuracy)) / 2
    assert value == pytest.approx(1.1 if objective == "a/rmse" else change)


def test_several_seeds_are_one_trial(tmp_path: Path) -> None:
    search = Search(tmp_path, trials=2, objective="delta_m")
    search.sweep([*SPACE, "seed=0,1"])
    assert search.fake.asked[0] == ["seed=0 weighting=equal", "seed=1 weighting=equal"]
    assert [len(jobs) for jobs in search.fake.asked] == [2, 2, 2]
    for row in search.rows:
        # Each seed is compared with the baseline of its own seed, so both changes are the same.
        ratio = 8 / (1 + abs(float(row["weighting.alpha"]) - 2))
        change = (100 * (ratio - 1) + 100 * (1 - 1 / ratio)) / 2
        assert float(row["value"]) == pytest.approx(change)
        assert row["folder"].endswith(f"weighting.alpha={row['weighting.alpha']}")


def test_orders_of_magnitude_and_whole_numbers(tmp_path: Path) -> None:
    search = Search(tmp_path, trials=40, sampler="random", at_once=40)
    search.sweep(["alpha=tag(log,interval(1e-6,1))", "width=range(1,10,3)"])
    exponents = [math.log10(float(row["alpha"])) for row in search.rows]
    assert all(-6 <= exponent <= 0 for exponent in exponents)
    assert 10 < sum(exponent < -3 for exponent in exponents) < 30
    assert {row["width"] for row in search.rows} == {"1", "4", "7"}


def test_the_same_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Search(tmp_path, trials=3).sweep(SPACE)
    more = Search(tmp_path, trials=5)
    more.sweep(SPACE)
    assert [len(jobs) for jobs in more.fake.asked] == [1, 1]
    alphas = [row["weighting.alpha"] for row in more.rows]
    assert len(set(alphas)) == len(alphas) == 5
    again = Search(tmp_path, trials=5)
    again.sweep(SPACE)
    assert again.fake.asked == []
    assert capsys.readouterr().out.count("Best of 5 trials") == 2
    other = Search(tmp_path, trials=1)  # of another interval there are no trials yet
    other.sweep([SPACE[0], "weighting.alpha=interval(0,5)"])
    assert len(other.fake.asked) == 1


def test_a_study_is_of_one_objective_and_one_space(tmp_path: Path) -> None:
    folder = str(tmp_path / "study")
    Search(tmp_path, trials=2, study=folder, objective="a/rmse").sweep(SPACE)
    for other, space in (("a/accuracy", SPACE), ("a/rmse", ["weighting.alpha=0.5,1.9"])):
        again = Search(tmp_path, trials=4, study=folder, objective=other)
        with pytest.raises(UserError, match="holds a search with other settings"):
            again.sweep(space)
        assert again.fake.asked == []


def test_trials_of_a_command_that_was_killed_are_tried_again(tmp_path: Path) -> None:
    started: list[str] = []

    def die(jobs: Sequence[str]) -> Any:
        if len(started) == 2:
            raise KeyboardInterrupt
        started.extend(job for job in jobs if "alpha" in job)
        return Search(tmp_path).train(jobs)

    killed = Search(tmp_path, die)
    with pytest.raises(KeyboardInterrupt):
        killed.sweep(SPACE)
    (lost,) = killed.fake.asked[-1]
    resumed = Search(tmp_path)
    resumed.sweep(SPACE)
    assert resumed.fake.asked[0] == [lost]
    assert [row["state"] for row in resumed.rows] == ["complete"] * 2 + ["lost"] + ["complete"] * 2
    assert resumed.rows[2]["weighting.alpha"] == resumed.rows[3]["weighting.alpha"]


def test_trials_that_fail_count_and_are_not_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(jobs: Sequence[str]) -> list[Any]:
        if jobs[0] == "weighting.alpha=2":
            return [failed(ValueError("no"))]
        done_one = Search(tmp_path).train(jobs)
        if jobs[0] == "weighting.alpha=1":
            figures = {"a": {"accuracy": math.nan, "rmse": math.nan}}
            write_run(Search(tmp_path).folder_of(jobs[0]), [figures])
        return done_one

    search = Search(tmp_path, launch, trials=12, sampler="random", seed=1)
    search.sweep(["weighting.alpha=range(0,3)"])
    states = {row["weighting.alpha"]: (row["state"], row["value"] != "") for row in search.rows}
    assert states == {"0": ("complete", True), "1": ("fail", False), "2": ("fail", False)}
    assert len(search.rows) == 12
    assert "weighting.alpha=0 (0.3333)" in capsys.readouterr().out


def test_trials_with_the_same_settings_run_once(tmp_path: Path) -> None:
    search = Search(tmp_path, trials=6, at_once=6, sampler="random")
    search.sweep(["weighting.alpha=0,1"])
    assert sorted(search.fake.asked[1]) == ["weighting.alpha=0", "weighting.alpha=1"]
    assert {row["value"] for row in search.rows} == {"0.5", str(1 / 3)}
    assert len(search.rows) == 6


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (lambda jobs: [failed(ValueError("no"))], "The search has no baseline, outputs/.*failed"),
        (None, "objective=a/accurate: there is no such figure. Did you mean a/accuracy?"),
    ],
)
def test_what_stops_a_search_before_its_first_trial(
    launch: Any, message: str, tmp_path: Path
) -> None:
    objective = "a/accuracy" if launch else "a/accurate"
    search = Search(tmp_path, launch, objective=objective)
    with pytest.raises(UserError, match=message.replace("?", r"\?").replace("outputs/", "")):
        search.sweep(SPACE)
    assert len(search.fake.asked) == 1


def test_a_search_in_which_everything_fails(tmp_path: Path) -> None:
    def launch(jobs: Sequence[str]) -> list[Any]:
        if "alpha" not in jobs[0]:
            return Search(tmp_path).train(jobs)
        return [failed(ValueError("no"))]

    search = Search(tmp_path, launch)
    with pytest.raises(SweepError, match="Every trial of the search failed"):
        search.sweep(SPACE)
    assert [row["state"] for row in search.rows] == ["fail"] * 4


def test_two_commands_cannot_work_on_one_study(tmp_path: Path) -> None:
    def launch(jobs: Sequence[str]) -> list[Any]:
        with pytest.raises(UserError, match="is in use: this very process"):
            Search(tmp_path).sweep(SPACE)
        return Search(tmp_path).train(jobs)

    Search(tmp_path, launch, trials=1).sweep(SPACE)


@pytest.mark.parametrize("key", ["objective", "study", "tracking.baseline"])
def test_what_a_search_cannot_choose(key: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{key} is no setting that a search can choose"):
        Search(tmp_path).sweep([f"{key}=a,b"])
