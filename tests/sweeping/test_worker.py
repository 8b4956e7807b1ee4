"""Processes that do a sweep's jobs: whose they are, when they end, and what they send back."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sweep_folders import write_status

from mtlrun.errors import Interrupted, UserError
from mtlrun.sweeping import stopping, worker
from mtlrun.sweeping.jobs import Job
from mtlrun.sweeping.stopping import StopSweep
from mtlrun.sweeping.worker import (
    SWEEP_PROCESS,
    WorkerFailedError,
    WorkerStoppedError,
    follow_sweep,
    for_the_sweep,
    in_worker,
    this_process,
)
from mtlrun.tracking.folder import locked
from mtlrun.tracking.status import first_line

WORKER = """
import signal, sys, time
from types import SimpleNamespace
from mtlrun.sweeping import worker
worker.time = SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 100))
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker.follow_sweep()
print("it follows", flush=True)
for line in sys.stdin:
    print(line.strip(), flush=True)
time.sleep(60)
"""
JOB = """
import signal, sys
from pathlib import Path
from mtlrun.tracking.folder import locked
from mtlrun.tracking.status import Status, _write
def stop(number, frame):
    (folder / "asked").write_text(signal.Signals(number).name)
    raise SystemExit
signal.signal(signal.SIGTERM, stop)
folder = Path(sys.argv[1])
with locked(folder):
    _write(folder / "status.json", Status("running", 1, 5))
    print("it runs", flush=True)
    sys.stdin.read()
"""


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that reads and writes lines; it is ended where the test does not."""
    started = subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def said(by: "subprocess.Popen[str]", line: str) -> bool:
    assert by.stdout is not None
    return by.stdout.readline() == f"{line}\n"


def dead_process() -> int:
    """The number of a process that has been."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


# -- whose worker it is ----------------------------------------------------------------------------


def test_a_worker_is_not_the_sweep_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWEEP_PROCESS, this_process())
    assert not in_worker()
    others = (f"{socket.gethostname()}:{os.getppid()}", f"elsewhere:{os.getpid()}", "")
    for other in others:
        monkeypatch.setenv(SWEEP_PROCESS, other)
        assert in_worker(), other


def test_whether_the_sweep_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    here, gone = socket.gethostname(), dead_process()
    cases = {f"{here}:{gone}": True, f"{here}:{os.getpid()}": False, f"elsewhere:{gone}": False}
    for sweep, is_gone in {**cases, "": False}.items():
        monkeypatch.setenv(SWEEP_PROCESS, sweep)
        assert worker._sweep_is_gone() == is_gone, sweep


@pytest.mark.parametrize("sweep", ["", "elsewhere:1", None])
def test_who_follows_nobody(sweep: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep itself, and jobs in a queue or on another machine."""
    monkeypatch.setenv(SWEEP_PROCESS, this_process() if sweep is None else sweep)
    before = threading.active_count()
    follow_sweep.__wrapped__()
    assert threading.active_count() == before


@pytest.mark.parametrize(("kind", "code"), [("hears", -signal.SIGTERM), ("deaf", 1)])
def test_a_worker_ends_with_its_sweep(kind: str, code: int) -> None:
    """By the signal that lets a run write its checkpoint; where that does not help, at once."""
    with process("cat") as sweep:
        whose = f"{socket.gethostname()}:{sweep.pid}"
        command = (sys.executable, "-c", WORKER, kind)
        with process(*command, **{SWEEP_PROCESS: whose}) as job:
            assert said(job, "it follows")
            assert job.stdin is not None
            print("still there", file=job.stdin, flush=True)
            assert said(job, "still there")
            sweep.kill()
            sweep.wait()
            assert job.wait(60) == code


# -- what it sends back ----------------------------------------------------------------------------


class Unsendable(Exception):  # noqa: N818
    """As many libraries' errors: it is pickled, but does not come back."""

    def __init__(self, task: str, step: int) -> None:
        super().__init__(f"{task} at {step}")


def test_errors_travel_whatever_they_are() -> None:
    try:
        raise Unsendable("depth", 7)
    except Unsendable as error:
        back = for_the_sweep(error)
        with pytest.raises(TypeError):
            pickle.loads(pickle.dumps(error))
    sent = pickle.loads(pickle.dumps(back))
    assert isinstance(sent, WorkerFailedError)
    assert first_line(sent) == "Unsendable: depth at 7"
    assert "Traceback (most recent call last)" in str(sent)
    assert 'raise Unsendable("depth", 7)' in str(sent)
    assert str(WorkerFailedError("a line")) == "a line"


def test_a_users_error_reads_as_it_does_alone() -> None:
    assert first_line(for_the_sweep(UserError("epochs=0: use 1 or more.\n  more"))) == (
        "epochs=0: use 1 or more."
    )


def test_a_stopped_job_says_so_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWEEP_PROCESS, f"{socket.gethostname()}:{os.getppid()}")
    back = pickle.loads(pickle.dumps(for_the_sweep(Interrupted("Stopped at step 3.", 143))))
    assert isinstance(back, WorkerStoppedError)
    assert str(back) == "Stopped at step 3."


def test_a_stopped_job_of_a_sweep_that_is_gone_does_not_begin_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setenv(SWEEP_PROCESS, f"{socket.gethostname()}:{dead_process()}")
    for_the_sweep(Interrupted("Stopped.", 143))
    assert codes == [143]


# -- stopping all of them --------------------------------------------------------------------------


def test_who_stops_a_sweep_stops_its_jobs(tmp_path: Path) -> None:
    """Those that run here in processes of their own; nobody else's, and not what ran before."""
    jobs = [Job((), (), folder=tmp_path / name) for name in ("runs", "killed", "elsewhere", "own")]
    own, elsewhere = locked(jobs[3].folder), locked(jobs[2].folder)
    with process("cat") as bystander, own, elsewhere:
        for job, facts in zip(
            jobs[1:],
            (
                {"process": bystander.pid},  # its number, which another one has now
                {"process": bystander.pid, "host": "elsewhere"},
                {"process": os.getpid()},
            ),
            strict=True,
        ):
            write_status(job.folder, "running", 1, **facts)
        with process(sys.executable, "-c", JOB, str(jobs[0].folder)) as running:
            assert said(running, "it runs")
            with pytest.raises(Interrupted) as stopped, StopSweep(lambda: jobs):
                os.kill(os.getpid(), signal.SIGTERM)
            assert running.wait(60) == 0  # it has been, so that the sweep waited for it
            assert (jobs[0].folder / "asked").read_text() == "SIGTERM"
        assert bystander.poll() is None
    assert stopped.value.exit_code == 143
    assert "Repeat the same command" in str(stopped.value)


def test_a_second_signal_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it comes while the first one waits for a job that never ends."""
    monkeypatch.setattr(stopping, "_process_of", lambda job: dead)
    dead, sleeps = dead_process(), []

    def again(seconds: float) -> None:
        sleeps.append(seconds)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(stopping.time, "sleep", again)
    job = Job((), (), folder=tmp_path)
    with pytest.raises(Interrupted) as stopped, StopSweep(lambda: [job]):
        os.kill(os.getpid(), signal.SIGTERM)
    assert len(sleeps) == 1
    assert stopped.value.exit_code == 143  # of the first


def test_who_ignores_a_signal_goes_on_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSweep(lambda: []):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
