"""What is seen of a sweep: a table in a terminal, lines elsewhere."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sweep_folders import write_run, write_status

from mtlrun.sweeping.jobs import Job
from mtlrun.sweeping.watch import Line, Watch
from mtlrun.tracking.folder import locked

ALONE = {"a": {"accuracy": 0.5, "rmse": 2.0}, "b": {"r2": -0.5}}
BETTER = {"a": {"accuracy": 0.6, "rmse": 1.8}, "b": {"r2": -0.4}}  # +20 %, +10 %, +20 %


def console(terminal: bool = True, width: int = 80, height: int = 12) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=height, markup=False
    )


def jobs_of(folder: Path, count: int, **values: Any) -> list[Job]:
    return [
        Job((), (("seed", str(seed)), *values.items()), folder=folder / f"seed={seed}")
        for seed in range(count)
    ]


def picture(watch: Watch, rows: int = 9, width: int = 80) -> list[str]:
    """The table as a terminal of that width shows it."""
    paper = Console(file=io.StringIO(), width=width, height=12, color_system=None)
    paper.print(watch.table([(job, watch.line(job)) for job in watch.jobs], rows))
    lines = paper.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    return [" ".join(line.split()) for line in lines]


# -- how a job stands ------------------------------------------------------------------------------


def test_a_job_that_runs_and_one_that_was_killed(tmp_path: Path) -> None:
    running, killed, failing = jobs_of(tmp_path, 3)
    watch = Watch([running, killed, failing], "none")
    assert watch.line(running) == Line("waiting")
    write_status(killed.folder, "running", 2)
    write_status(failing.folder, "failed", 3, reason="[red]no colour[/]")
    with locked(running.folder):
        write_status(running.folder, "running", 0)
        assert watch.line(running) == Line("running")
        write_status(running.folder, "running", 2, seconds_left=3725.4)
        assert watch.line(running) == Line("running", "2/5", "1:02:05")
        write_status(running.folder, "running", 2, seconds_left=65.0)
        assert watch.line(running) == Line("running", "2/5", "1:05")
    assert watch.line(killed) == Line("interrupted", "2/5")
    assert watch.line(failing) == Line("failed", "3/5", text="[red]no colour[/]")
    assert "[red]no colour[/]" in picture(watch)[3]
    watch.failed(killed, "lost too often")
    assert watch.line(killed) == Line("failed", text="lost too often")


def test_what_an_earlier_sweep_left_is_no_news(tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, 1)
    write_status(job.folder, "failed", 3, reason="of yesterday")
    watch = Watch([job], "none")
    assert watch.line(job) == Line("waiting")
    write_status(job.folder, "failed", 3, reason="of today")
    assert watch.line(job).text == "of today"


def test_delta_m_against_the_jobs_own_baseline(tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, 1)
    job = Job((), job.telling, folder=job.folder, alone=tmp_path / "alone")
    watch = Watch([job], "none")
    write_run(job.folder, [BETTER])
    figures = "a accuracy 0.6, b r2 -0.4"
    assert watch.line(job) == Line("finished", text=figures)  # there is no baseline yet
    write_run(tmp_path / "alone", [ALONE])
    assert watch.line(job) == Line("finished", delta_m="+16.67 %", text=figures)
    assert picture(watch)[0].split() == ["seed", "state", "epoch", "left", "delta_m"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"tasks": {"a": {"metrics": {}}}}'])
def test_results_of_another_version(text: str, tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, 1)
    job.folder.mkdir()
    (job.folder / "result.json").write_text(text)
    assert Watch([], "none").line(job) == Line("finished")


# -- the table -------------------------------------------------------------------------------------


def test_a_column_for_each_setting_that_varies(tmp_path: Path) -> None:
    baseline = Job((), (("seed", "0"), ("architecture", "single_task")), folder=tmp_path / "a")
    method = Job((), (("seed", "0"), ("weighting", "dwa")), folder=tmp_path / "b")
    table = picture(Watch([baseline, method], "none"))
    assert table[:3] == [
        "seed architecture weighting state epoch left",
        "0 single_task waiting",
        "0 dwa waiting",
    ]
    assert table[3] == "2 waiting"


def test_a_low_terminal_shows_what_matters(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 40)
    watch = Watch(jobs, "none")
    for job in jobs[:30]:
        write_run(job.folder, [ALONE])
    watch.failed(jobs[35], "a reason")
    with locked(jobs[38].folder):
        write_status(jobs[38].folder, "running", 1, seconds_left=5.0)
        table = picture(watch, rows=4)
    assert [line.split()[:2] for line in table[1:5]] == [
        ["0", "finished"],
        ["1", "finished"],
        ["35", "failed"],
        ["38", "running"],
    ]
    assert table[5] == "1 running, 1 failed, 30 finished, 8 waiting (36 not shown)"
    assert len(picture(watch, rows=40)) == 42


def test_long_words_leave_room_for_the_figures(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 2, weighting="a_weighting_with_a_name_that_never_ends_" * 3)
    watch = Watch(jobs, "none")
    watch.failed(jobs[0], "a reason that goes on and on " * 20)
    with locked(jobs[1].folder):
        write_status(jobs[1].folder, "running", 2, seconds_left=65.0)
        table = picture(watch)
    assert len(table) == 4  # nothing is wrapped
    assert table[1].startswith("0 a_weighting_with_a_name… failed a reason")
    assert table[1].endswith("…")
    assert table[2] == "1 a_weighting_with_a_name… running 2/5 1:05"


def test_a_table_in_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it lasts it fits the screen; what remains is of all jobs."""
    monkeypatch.setattr("mtlrun.sweeping.watch.SECONDS", 1000.0)
    jobs = jobs_of(tmp_path, 20)
    screen = console()
    with Watch(jobs, "auto", screen):
        for job in jobs:
            write_run(job.folder, [ALONE])
    shown = screen.file.getvalue()
    assert "20 finished (11 not shown)" in shown
    assert shown.count("finished") == (9 + 1) + (20 + 1)  # two pictures, each with its sum


# -- lines -----------------------------------------------------------------------------------------


def test_a_line_for_each_job_that_ends(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 3)
    write_run(jobs[0].folder, [ALONE])
    paper = console(terminal=False)
    with Watch(jobs, "auto", paper) as watch:
        write_run(jobs[2].folder, [BETTER])
        watch._show()
        watch._show()
        watch.failed(jobs[1], "a reason")
    assert paper.file.getvalue().splitlines() == [
        "1 of 3 jobs are finished already: nothing to do for them.",
        "2/3 finished: seed=2  a accuracy 0.6, b r2 -0.4",
        "3/3 failed: seed=1  a reason",
    ]


def test_a_search_adds_jobs_as_it_goes(tmp_path: Path) -> None:
    first, second = jobs_of(tmp_path, 2)
    paper = console(terminal=False)
    with Watch([], "lines", paper, told=lambda job: "a/accuracy 0.7") as watch:
        watch.add([first])
        write_run(first.folder, [ALONE])
        watch._show()
        watch.add([first, second])  # another trial with the settings of the first
        write_run(second.folder, [ALONE])
    assert paper.file.getvalue().splitlines() == [
        "1/1 finished: seed=0  a/accuracy 0.7",
        "2/2 finished: seed=1  a/accuracy 0.7",
    ]


def test_nothing_where_nothing_is_asked_for(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 2)
    write_run(jobs[0].folder, [ALONE])
    screen = console()
    with Watch(jobs, "none", screen) as watch:
        write_run(jobs[1].folder, [ALONE])
        watch.say("a job lost its process")
    assert screen.file.getvalue() == ""
