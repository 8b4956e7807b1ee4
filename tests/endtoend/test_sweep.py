"""Several runs by one command: a folder each, what is missing only, the same figures as alone."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import (
    Moment,
    checkpoint,
    csv_files,
    mtlrun,
    only_run,
    result,
    rows,
    run_folders,
)

from mtlrun.cli import run_command
from mtlrun.engine import engine
from mtlrun.sweeping.jobs import Job
from mtlrun.sweeping.sweeper import JobSweeper

METHODS = ("equal", "uncertainty", "gradnorm", "mgda", "pcgrad")
BRIEF = ("epochs=1", "tracking.tensorboard=false", "tracking.progress=none")
SWEEP = ("-m", f"weighting={','.join(METHODS)}", "seed=0,1", *BRIEF)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a finished sweep."""
    directory = tmp_path_factory.mktemp("sweep")
    mtlrun(directory, *SWEEP).finish()
    return directory


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(*arguments: str) -> str:
    """The folder, below the dataset's, of the run that arguments make."""
    assert run_command([*arguments, *BRIEF]) == 0
    folder = only_run(Path())
    name = str(folder.relative_to("outputs/default/digits"))
    shutil.rmtree("outputs")
    return name


# -- a folder a run --------------------------------------------------------------------------------


def test_one_folder_a_run(swept: Path) -> None:
    names = {folder.relative_to(swept / "outputs").as_posix() for folder in run_folders(swept)}
    expected = {
        f"default/digits/{method},epochs=1/seed={seed}" for method in METHODS for seed in (0, 1)
    }
    assert names == expected
    for folder in run_folders(swept):
        found = result(folder)
        assert f"{found['method']}/seed={found['seed']}" == "/".join(folder.parts[-2:])
        assert found["weighting"] == found["method"].removesuffix(",epochs=1")
        assert found["changed"] == {"epochs": 1}


def test_asked_again_it_does_only_what_is_missing(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "outputs", tmp_path / "outputs")
    folders = run_folders(tmp_path)
    missing = tmp_path / "outputs/default/digits/mgda,epochs=1/seed=1"
    before = csv_files(missing)
    shutil.rmtree(missing)
    times = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/*/*/*/seed=*/result.json")
    }
    printed = mtlrun(tmp_path, *SWEEP, "tracking.progress=lines").finish()
    assert printed.startswith("9 of 10 jobs are finished already: nothing to do for them.\n10/10")
    assert "10/10 finished: weighting=mgda seed=1  digit accuracy 0." in printed
    assert run_folders(tmp_path) == folders
    assert csv_files(missing) == before
    assert len(times) == len(folders) - 1
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


@pytest.mark.parametrize("job", ["gradnorm,epochs=1/seed=1", "pcgrad,epochs=1/seed=0"])
def test_a_job_of_a_sweep_gives_the_figures_of_the_run_alone(
    job: str, swept: Path, tmp_path: Path
) -> None:
    method, seed = job.split(",epochs=1/")
    mtlrun(tmp_path, f"weighting={method}", seed, *BRIEF).finish()
    assert csv_files(only_run(tmp_path)) == csv_files(swept / "outputs/default/digits" / job)


# -- jobs that fail or are stopped -----------------------------------------------------------------


def test_a_failing_job_does_not_stop_the_others(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", "architecture=single_task,hps", "weighting=mgda,equal", *BRIEF]
    assert run_command(arguments) == 1
    failing = "mgda,architecture=single_task,epochs=1/seed=0"
    runs = Path("outputs/default/digits")
    finished = {path.parent.relative_to(runs).as_posix() for path in runs.rglob("result.json")}
    assert finished == {
        "equal,architecture=single_task,epochs=1/seed=0",
        "mgda,epochs=1/seed=0",
        "equal,epochs=1/seed=0",
    }
    message = "weighting=mgda balances gradients on shared parameters, and architecture=single_task"
    assert f"ERROR {message}" in (runs / failing / "run.log").read_text()
    printed = capsys.readouterr().err
    assert printed.startswith(f"mtlrun: 1 of the sweep's 4 jobs failed:\n  {failing}: {message}")
    assert printed.count("\n") == 3  # the head, the job, and what to do
    assert "Traceback" not in printed


def test_ctrl_c_stops_the_whole_sweep(tmp_path: Path) -> None:
    arguments = ("-m", "seed=0,1,2", "epochs=200", "tracking.tensorboard=false")
    running = mtlrun(tmp_path, *arguments).until(Moment(tmp_path).row("metrics.csv", "2"))
    code, printed = running.send(signal.SIGINT)
    assert code == 130
    state = checkpoint(only_run(tmp_path), "last.pt")
    assert f"Stopped at step {state['steps']} " in printed
    assert "Traceback" not in printed


def test_a_request_in_the_last_evaluation_is_not_lost(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep does not go on with its next job."""
    evaluate = engine.evaluate

    def ask_to_stop(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments)

    monkeypatch.setattr(engine, "evaluate", ask_to_stop)
    assert run_command(["-m", "seed=0,1", *BRIEF]) == 130
    assert only_run(directory).name == "seed=0"
    assert "(epoch 1); the checkpoint is written." in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(directory)
    assert run_command(["seed=0", *BRIEF]) == 0


def test_processes_that_read_data_end_with_their_job(directory: Path) -> None:
    assert run_command(["-m", "seed=0,1", "engine.workers=2", *BRIEF]) == 0
    assert len(run_folders(directory)) == 2
    assert multiprocessing.active_children() == []


# -- sweeps as configurations ----------------------------------------------------------------------

OWN = """
# @package _global_
# Own: two methods on a small network.
defaults:
  - override /optimizer: sgd
epochs: 1
hydra:
  mode: MULTIRUN
  sweeper:
    methods:
      weighting: [equal, mgda]
    baseline: [weighting=equal, architecture=single_task]
"""


def test_a_sweep_with_its_baseline(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["+sweep=seeds", "seed=0,1", "weighting=dwa", "gradients.smoothing=0", *BRIEF[:2]]
    assert run_command(arguments) == 0
    alone, method = "equal,architecture=single_task,epochs=1", "dwa,epochs=1"
    names = [folder.relative_to("outputs/default/digits") for folder in run_folders(Path())]
    assert sorted(map(str, names)) == sorted(
        f"{name}/seed={seed}" for name in (alone, method) for seed in (0, 1)
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "1/4 finished: seed=0 weighting=equal architecture=single_task",
        "2/4 finished: seed=0",
        "3/4 finished: seed=1 weighting=equal architecture=single_task",
        "4/4 finished: seed=1",
        "Table of runs: mtlrun compare outputs/default",
    ]
    assert all((" delta_m " in line) == (index % 2 == 1) for index, line in enumerate(lines))


def test_the_runs_of_a_sweep_over_pairs(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(
        JobSweeper, "run_all", lambda sweeper, given, watch: jobs.extend(given) or []
    )
    assert run_command(["+sweep=pairs", "seed=3", *BRIEF[:2]]) == 0
    three = [("digit", "parity"), ("digit", "ink"), ("parity", "ink")]
    assert [job.folder.relative_to("outputs/default/digits").as_posix() for job in jobs] == [
        "equal,architecture=single_task,epochs=1/seed=3",
        "equal,epochs=1/seed=3",
        *(f"equal,epochs=1,tasks=[{one}_{other}]/seed=3" for one, other in three),
    ]
    assert [job.alone for job in jobs] == [None, *[jobs[0].folder] * 4]
    assert capsys.readouterr().out.startswith("3 tasks, 4 groups of them to train: 5 runs.\n")


def test_a_sweep_of_ones_own_sets_what_its_runs_have_in_common(directory: Path) -> None:
    Path("own/sweep").mkdir(parents=True)
    Path("own/sweep/small.yaml").write_text(OWN)
    assert run_command(["--config-dir", "own", "+sweep=small", *BRIEF[1:]]) == 0
    names = {folder.parent.name for folder in run_folders(Path())}
    alone = "equal,optimizer=sgd,architecture=single_task,epochs=1"
    assert names == {"equal,optimizer=sgd,epochs=1", "mgda,optimizer=sgd,epochs=1", alone}
    # The same runs as without the sweep: they are found, and the command line wins over its file.
    found = ["weighting=mgda", "optimizer=sgd", *BRIEF]
    assert run_command(found) == 0
    assert run_command(["--config-dir", "own", "+sweep=small", "epochs=2", *BRIEF[1:]]) == 0
    assert len(run_folders(Path())) == 6


def test_toys_of_a_sweep(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-m", "experiment=toy", "toy.steps=20,30", "toy.weightings=[equal]"]
    assert run_command(arguments) == 0
    assert capsys.readouterr().out == "1/2 finished: toy.steps=20\n2/2 finished: toy.steps=30\n"
    assert run_command(arguments) == 0
    assert capsys.readouterr().out.startswith("2 of 2 jobs are finished already")


def test_a_folder_with_other_settings_fails_alone(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["seed=0", *BRIEF]) == 0
    config = only_run(directory) / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.002", "lr: 0.1"))
    assert run_command(["-m", "seed=0,1", *BRIEF]) == 1
    assert (config.parents[1] / "seed=1/result.json").exists()
    printed = capsys.readouterr().err
    assert "1 of the sweep's 2 jobs failed:\n  equal,epochs=1/seed=0: outputs/" in printed
    assert "holds a run with other settings: optimizer.lr is 0.1 there and 0.002" in printed


def test_a_search(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    searched = ["weighting=gradnorm", "weighting.alpha=0.5,2.5", "hydra.sweeper.trials=2"]
    assert run_command(["-m", "hydra/sweeper=optuna", *searched, "objective=ink/rmse", *BRIEF]) == 0
    (table,) = Path("outputs/default/optuna").glob("weighting_alpha-*/trials.csv")
    trials = rows(table)
    for trial in trials:
        own = f"gradnorm,epochs=1,weighting.alpha={trial['weighting.alpha']}"
        assert trial["folder"] == f"outputs/default/digits/{own}"
        (figure,) = [
            row["value"]
            for row in rows(Path(trial["folder"], "seed=0/metrics.csv"))
            if (row["split"], row["task"], row["metric"]) == ("val", "ink", "rmse")
        ]
        assert float(trial["value"]) == float(figure)
    best = min(trials, key=lambda trial: float(trial["value"]))
    printed = capsys.readouterr().out
    assert printed.startswith("Best of 2 trials by ink/rmse on the validation split: ")
    assert f"weighting.alpha={best['weighting.alpha']} (" in printed


# -- names of folders ------------------------------------------------------------------------------


def test_the_name_is_a_function_of_the_choices(directory: Path) -> None:
    plain = made()
    assert plain == "equal,epochs=1/seed=0"
    assert made("weighting=equal", "optimizer=adam", "optimizer.lr=0.002", "seed=0") == plain
    assert made("dataset=digits", "engine.log_every=20", "tasks=null") == plain
    assert made("engine.workers=0", "engine.checkpoint_minutes=3", "tracking.images=1") == plain
    one = made("backbone.norm=batch", "optimizer=sgd", "weighting=dwa", "seed=3")
    other = made("seed=3", "weighting=dwa", "optimizer=sgd", "backbone.norm=batch")
    assert one == other == "dwa,optimizer=sgd,backbone.norm=batch,epochs=1/seed=3"
    assert made("tasks=[digit,ink]") == "equal,epochs=1,tasks=[digit_ink]/seed=0"
    named = made("heads=mlp", "heads.of.ink.hidden=[8]")
    assert named == "equal,heads=mlp,epochs=1,heads.of.ink.hidden=[8]/seed=0"
    weighted = made("weighting=static", "weighting.weights={ink: 2}")
    assert weighted == "static,epochs=1,weighting.weights.ink=2/seed=0"


def test_the_study_and_the_outputs_name_the_folders_above(directory: Path) -> None:
    assert run_command(["study=tuning", "outputs=elsewhere", *BRIEF]) == 0
    assert Path("elsewhere/tuning/digits/equal,epochs=1/seed=0/result.json").exists()


# -- single-task training --------------------------------------------------------------------------


def test_single_task_equals_separate_runs(directory: Path) -> None:
    """Metrics of every epoch, losses and the selected epoch's test figures, to the last bit."""
    arguments = ["architecture=single_task", "epochs=6", "optimizer.lr=0.05", *BRIEF[1:]]
    assert run_command([*arguments, "study=together"]) == 0
    together = only_run(Path())
    found = result(together)
    for task in ("digit", "parity", "ink"):
        assert run_command([*arguments, "study=apart", f"tasks=[{task}]"]) == 0
        (apart,) = Path().glob(f"outputs/apart/digits/*[[]{task}[]]*/seed=0")
        for name in ("metrics.csv", "losses.csv"):
            own = [row for row in rows(together / name) if row["task"] == task]
            assert own == rows(apart / name)
            assert own
        alone = result(apart)
        assert alone["tasks"][task] == found["tasks"][task]
        assert alone["selected_epoch"] == found["selected_epoch"][task]
    assert len(set(found["selected_epoch"].values())) > 1  # each network has a best of its own
