"""Runs that are killed, stopped or damaged, and go on as if nothing had happened."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import Command, Moment, assert_same_run, checkpoint, csv_files, mtlrun, only_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

if TYPE_CHECKING:
    from conftest import Undisturbed

SHORT = (
    "epochs=3",
    "batch_size=8",
    "engine.log_every=7",
    "engine.checkpoint_minutes=0.0005",
)
"""Three epochs of some tenths of a second, with several checkpoints in each."""
NO_EVENTS = "tracking.tensorboard=false"

Condition = Callable[[], bool]
MomentOf = Callable[[Moment], Condition]


def start(moment: Moment) -> Condition:
    """Before the first checkpoint."""
    return moment.row("losses.csv", "1")


def epoch(moment: Moment) -> Condition:
    """In the middle of an epoch: rows are written that the newest checkpoint does not know."""
    return moment.then_grows(moment.replaced("checkpoints/last.pt", times=2), "losses.csv")


def writing(moment: Moment) -> Condition:
    """While a checkpoint is written."""
    progress = moment.replaced("checkpoints/last.pt")
    return lambda: progress() and moment.exists("checkpoints/.fresh.pt.tmp")()


def best(moment: Moment) -> Condition:
    """Just after ``best.pt`` was written, and before the checkpoint that knows of it."""
    return moment.replaced("checkpoints/best.pt")


def end(moment: Moment) -> Condition:
    """Near the end: the last epoch is evaluated."""
    return moment.row("metrics.csv", "3")


@pytest.mark.parametrize(
    ("settings", "moments"),
    [
        ("weighting=equal", (start, best)),
        ("weighting=gradnorm", (epoch, writing, best, end)),
        ("weighting=pcgrad gradients.every=3", (epoch,)),
        ("weighting=equal engine.workers=2", (epoch,)),
    ],
)
def test_killed_again_and_again(
    settings: str, moments: tuple[MomentOf, ...], tmp_path: Path, undisturbed: "Undisturbed"
) -> None:
    arguments = [*SHORT, NO_EVENTS, *settings.split()]
    for moment in moments:
        condition = moment(Moment(tmp_path))
        mtlrun(tmp_path, *arguments).until(condition).kill()
        assert not (only_run(tmp_path) / "result.json").exists()
    mtlrun(tmp_path, *arguments).finish()
    # Processes that read data change no figure, so the run with them is compared with one without.
    reference = undisturbed(*(a for a in arguments if not a.startswith("engine.workers")))
    assert_same_run(only_run(tmp_path), reference)


@pytest.mark.data
def test_multimnist_killed(shared_data: Path, tmp_path: Path, undisturbed: "Undisturbed") -> None:
    arguments = (
        "dataset=multimnist",
        f"dataset.root={shared_data / 'mnist'}",
        "dataset.train_rows=2000",
        "weighting=gradnorm",
        "epochs=2",
        "batch_size=32",
        "engine.checkpoint_minutes=0.002",
        NO_EVENTS,
    )
    mtlrun(tmp_path, *arguments).until(epoch(Moment(tmp_path))).kill()
    mtlrun(tmp_path, *arguments).finish()
    assert_same_run(only_run(tmp_path), undisturbed(*arguments))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that TensorBoard draws of a run, by tag."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_a_process_from_the_shell_killed_with_tensorboard(
    tmp_path: Path, undisturbed: "Undisturbed"
) -> None:
    arguments = [*SHORT, "weighting=pcgrad"]
    shell = [sys.executable, "-m", "mtlrun", *arguments]
    condition = epoch(Moment(tmp_path))
    process = subprocess.Popen(shell, cwd=tmp_path)
    while not condition():
        assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL
    subprocess.run(shell, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    folder, reference = only_run(tmp_path), undisturbed(*arguments)
    assert_same_run(folder, reference)
    assert len(list(folder.glob("events.*"))) == 2
    drawn, expected = scalars(folder), scalars(reference)
    assert {"train/loss/digit", "train/cosine/digit-ink", "val/ink/r2"} < expected.keys()
    for curves in (drawn, expected):  # of the execution, not of what it found
        assert curves.pop("result/finished")[-1][1] == 1
        assert curves.pop("result/seconds")
    assert drawn == expected


# -- asked to stop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_asked_to_stop_by_the_terminal_and_by_the_system(
    workers: int, tmp_path: Path, undisturbed: "Undisturbed"
) -> None:
    arguments = [*SHORT, NO_EVENTS, f"engine.workers={workers}"]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        running = mtlrun(tmp_path, *arguments).until(epoch(Moment(tmp_path)))
        # A terminal's Ctrl-C reaches the whole process group, and so the processes that read data.
        exit_code, printed = running.send(number, group=True)
        assert exit_code == code, printed
        state = checkpoint(only_run(tmp_path), "last.pt")
        place = f"Stopped at step {state['steps']} (epoch {state['epoch'] + 1})"
        assert f"{place}; the checkpoint is written." in printed, printed
        assert "Repeat the same command to go on from here." in printed
        assert place in (only_run(tmp_path) / "run.log").read_text()
        assert "Traceback" not in printed
    printed = mtlrun(tmp_path, *arguments).finish()
    assert f"Going on from step {state['steps']}, after {state['epoch']} of 3 epochs." in printed
    assert_same_run(only_run(tmp_path), undisturbed(*SHORT, NO_EVENTS))


# -- damage ----------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The folder of a run that was killed in the middle of an epoch."""
    mtlrun(tmp_path, *SHORT, NO_EVENTS).until(epoch(Moment(tmp_path))).kill()
    return only_run(tmp_path)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    interrupted: Path, tmp_path: Path, undisturbed: "Undisturbed"
) -> None:
    truncate(interrupted / "checkpoints/last.pt")
    mtlrun(tmp_path, *SHORT, NO_EVENTS).finish()
    log = (interrupted / "run.log").read_text()
    assert "last.pt is damaged or is no checkpoint" in log
    assert "going on from step" in log
    assert_same_run(interrupted, undisturbed(*SHORT, NO_EVENTS))


def test_without_a_whole_checkpoint_the_run_starts_again(
    interrupted: Path, tmp_path: Path, undisturbed: "Undisturbed"
) -> None:
    truncate(interrupted / "checkpoints/last.pt")
    (interrupted / "checkpoints/previous.pt").write_bytes(b"no checkpoint")
    printed = mtlrun(tmp_path, *SHORT, NO_EVENTS).finish()
    for text in (printed, (interrupted / "run.log").read_text()):
        assert "previous.pt is damaged" in text
        assert "No checkpoint is whole: the run starts again." in text
    assert_same_run(interrupted, undisturbed(*SHORT, NO_EVENTS))


def test_a_changed_csv_file_is_refused(interrupted: Path, tmp_path: Path) -> None:
    truncate(interrupted / "losses.csv")
    before = csv_files(interrupted)
    code, printed = mtlrun(tmp_path, *SHORT, NO_EVENTS).wait()
    assert code == 1
    assert "losses.csv is shorter than the run's checkpoint says" in printed
    assert "Delete the run's folder to start it again." in printed
    assert csv_files(interrupted) == before


# -- a full disk -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A working directory whose ``outputs`` is a disk of 2 MiB."""
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", outputs], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk to fill: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", outputs], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def assert_says_that_the_disk_is_full(command: Command, directory: Path) -> None:
    code, printed = command.wait()
    assert code == 1
    folder = only_run(directory).relative_to(directory)
    assert f"No space is left on the disk of {folder}. Every epoch finished before is" in printed
    assert "free some space and repeat the same command" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("events", ["true", "false"])
def test_a_full_disk_loses_no_finished_epoch(
    events: str, small_disk: Path, undisturbed: "Undisturbed"
) -> None:
    arguments = (*SHORT, "weighting=mgda", f"tracking.tensorboard={events}")
    running = mtlrun(small_disk, *arguments).until(Moment(small_disk).row("metrics.csv", "2"))
    fill(small_disk / "outputs")
    assert_says_that_the_disk_is_full(running, small_disk)
    assert_says_that_the_disk_is_full(mtlrun(small_disk, *arguments), small_disk)
    folder = only_run(small_disk)
    finished = (folder / "run.log").read_text().count(" INFO epoch ")
    assert checkpoint(folder, "last.pt")["epoch"] >= finished >= 1
    (small_disk / "outputs/ballast").unlink()
    printed = mtlrun(small_disk, *arguments).finish()
    assert "Going on from step" in printed
    assert_same_run(folder, undisturbed(*SHORT, NO_EVENTS, "weighting=mgda"))


# -- one process a folder --------------------------------------------------------------------------


def test_a_second_process_is_refused(tmp_path: Path, undisturbed: "Undisturbed") -> None:
    arguments = [*SHORT, NO_EVENTS]
    first = mtlrun(tmp_path, *arguments).until(epoch(Moment(tmp_path)))
    process = first.process.pid
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    code, printed = mtlrun(tmp_path, *arguments, output="second.txt").wait()
    os.kill(process, signal.SIGCONT)
    assert code == 1
    assert f"is in use: process {process} on " in printed
    assert "run with another study=NAME or seed=N." in printed
    first.finish()
    assert_same_run(only_run(tmp_path), undisturbed(*arguments))
