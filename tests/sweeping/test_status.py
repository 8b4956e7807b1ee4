"""What a run's folder says of it while it runs, to those who only look."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sweep_folders import write_status

from mtlrun.errors import Interrupted, UserError
from mtlrun.tracking import folder as run_folder
from mtlrun.tracking.status import Reported, StatusFile, first_line, read_status, written_at

HOLDER = """
import sys
from pathlib import Path
from mtlrun.tracking.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
LOOKER = """
import fcntl, sys, time
with open(sys.argv[1], "rb") as file:
    fcntl.lockf(file, fcntl.LOCK_SH)
    print("looks", flush=True)
    time.sleep(0.1)
"""
TAKER = "import sys, pathlib; from mtlrun.tracking.folder import is_locked as f; " + (
    "sys.exit(f(pathlib.Path(sys.argv[1])))"
)


def held_for_others(folder: Path) -> bool:
    """Whether another process finds the folder locked."""
    return subprocess.run([sys.executable, "-c", TAKER, folder], check=False).returncode == 1


def test_a_run_that_finishes(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    assert written_at(tmp_path) == (0, 0)
    with run_folder.locked(tmp_path), Reported(tmp_path, 4):
        began = written_at(tmp_path)
        status = read_status(tmp_path)
        assert status is not None
        assert (status.state, status.epoch, status.epochs) == ("running", 0, 4)
        assert status.process == os.getpid()
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.epoch, status.reason) == ("finished", 4, "")
    assert written_at(tmp_path) not in (began, (0, 0))


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (UserError("The first line.\nThe second."), "failed", "The first line."),
        (ZeroDivisionError("division"), "failed", "ZeroDivisionError: division"),
        (Interrupted("stopped"), "interrupted", ""),
    ],
)
def test_a_run_that_ends_otherwise(
    error: BaseException, state: str, reason: str, tmp_path: Path
) -> None:
    def train() -> None:
        with Reported(tmp_path, 4):
            StatusFile(tmp_path, 4, 100).advance(30, 2, [])
            raise error

    with pytest.raises(type(error)):
        train()
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.epoch, status.epochs, status.reason) == (state, 2, 4, reason)
    assert first_line(error) == (reason or "Interrupted: stopped")


def test_the_time_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the steps since the run began or went on, at most one file a second."""
    now = 100.0
    monkeypatch.setattr("mtlrun.tracking.status.time.monotonic", lambda: now)
    file = StatusFile(tmp_path, 4, 100)

    def left() -> float | None:
        return json.loads((tmp_path / "status.json").read_text())["seconds_left"]

    file.advance(20, 1, [])  # it goes on from step 20
    assert left() is None
    now = 100.5
    file.advance(25, 2, [])
    assert left() is None
    now = 102.0
    file.advance(40, 2, [])
    assert left() == pytest.approx(60 * 2 / 20)


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    write_status(tmp_path, "running", 1)
    monkeypatch.setattr(Path, "open", write)
    with Reported(tmp_path, 4):
        pass
    monkeypatch.undo()
    assert json.loads((tmp_path / "status.json").read_text())["epoch"] == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "running"', '{"other": 1}'])
def test_files_that_are_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path) is None


# -- whether its process is there ------------------------------------------------------------------


def test_a_run_whose_process_is_gone(tmp_path: Path) -> None:
    write_status(tmp_path, "running", 3, seconds_left=9.0)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.seconds_left) == ("running", 9.0)
    message = f"in use: process {process.pid} on "
    with pytest.raises(UserError, match=message), run_folder.locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.epoch, status.seconds_left) == ("interrupted", 3, None)


def test_a_run_that_ends_while_somebody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what its status says and whether its folder is locked."""

    def end(folder: Path) -> bool:
        write_status(folder, "finished", 5)
        return False

    write_status(tmp_path, "running", 5)
    monkeypatch.setattr("mtlrun.tracking.status.is_locked", end)
    status = read_status(tmp_path)
    assert status is not None
    assert status.state == "finished"


def test_a_look_does_not_keep_a_run_out(tmp_path: Path) -> None:
    """It takes the lock for a moment, in which a run may want to begin."""
    (tmp_path / ".lock").touch()
    command = [sys.executable, "-c", LOOKER, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as looker:
        assert looker.stdout is not None
        assert looker.stdout.readline() == "looks\n"
        with run_folder.locked(tmp_path):
            assert held_for_others(tmp_path)


def test_looking_does_not_give_the_lock_up(tmp_path: Path) -> None:
    """POSIX: whoever closes any handle of a locked file loses the lock on it."""
    write_status(tmp_path, "running", 3, process=1, host="another")  # of a process that was killed
    with run_folder.locked(tmp_path):
        status = read_status(tmp_path)
        assert status is not None
        assert status.state == "running"
        (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
        assert run_folder.is_locked(tmp_path / "link")
        message = "in use: this very process"
        with pytest.raises(UserError, match=message), run_folder.locked(tmp_path):
            pass
        assert held_for_others(tmp_path)
    assert not run_folder.is_locked(tmp_path)
    assert not held_for_others(tmp_path)


def test_looking_while_another_thread_takes_the_lock(tmp_path: Path) -> None:
    """Whatever they do in between, a lock that is taken is held, and a look never hinders it."""
    write_status(tmp_path, "running")
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            read_status(tmp_path)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            with run_folder.locked(tmp_path):
                assert run_folder.is_locked(tmp_path)
        with run_folder.locked(tmp_path):
            assert held_for_others(tmp_path)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
