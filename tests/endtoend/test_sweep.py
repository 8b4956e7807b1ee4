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
    printed = mtlrun(tmp_path, *SWEEP).finish()
    assert printed.count("Already finished, nothing to do: ") == len(folders) - 1
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
    assert printed.startswith(f"mtlrun: {failing}: {message}")
    assert "The sweep goes on." in printed
    assert f"mtlrun: 1 of the sweep's jobs failed:\n  {failing}: {message}" in printed
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
