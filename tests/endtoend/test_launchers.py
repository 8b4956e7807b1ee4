"""Sweeps whose jobs are processes of their own: lost ones, failing ones, and requests to stop.

Each process imports everything anew, so the sweeps are as small as they can be.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from commands import csv_files, result

if TYPE_CHECKING:
    from conftest import Undisturbed

SETTINGS = (
    "weighting=mgda",
    "epochs=5",
    "batch_size=8",
    "tracking.tensorboard=false",
    "tracking.progress=lines",
)
"""Some seconds, with a checkpoint many times in each of them."""

SWEEP = ("-m", "architecture=hps,single_task", *SETTINGS)
"""One job that trains, and one that fails at once: MGDA needs something shared."""

RUN, FAILING = (
    Path(f"outputs/default/digits/mgda,{name}batch_size=8,epochs=5/seed=0")
    for name in ("", "architecture=single_task,")
)

LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit": ("hydra/launcher=submitit", "hydra.launcher.at_once=2"),
    "ray": ("hydra/launcher=ray", "hydra.launcher.init.num_cpus=2"),
}


LIMIT = 400.0
"""Seconds for anything: on a busy machine a worker needs long to import what it needs."""


class Sweep:
    """``mtlrun ARGUMENTS`` as a shell starts it, with a session of its own."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.output = directory / "output.txt"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mtlrun", *arguments],
                cwd=directory,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, condition: Callable[[], bool]) -> "Sweep":
        """Wait for a moment before the end."""
        wait_until(lambda: self.process.poll() is not None or condition())
        assert self.process.poll() is None, self.output.read_text()
        return self

    def wait(self) -> tuple[int, str]:
        """Exit code and what was printed."""
        return self.process.wait(LIMIT), self.output.read_text()


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest) -> str:
    packages = {"joblib": "hydra_plugins.hydra_joblib_launcher"}
    pytest.importorskip(packages.get(request.param, request.param))
    return str(request.param)


def status(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "status.json").read_text())
    return found


def trains(run: Path) -> Callable[[], bool]:
    """A living process is at a run, which has a checkpoint and is not yet through."""

    def happens() -> bool:
        if not (run / "checkpoints/last.pt").exists():
            return False
        found = status(run)
        return found["state"] == "running" and found["epoch"] > 0 and is_there(found["process"])

    return happens


def is_there(process: int) -> bool:
    """Whether a process lives; a dead one that nobody has asked after is a zombie."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def stop_first(launcher: str, sweep: Sweep, run: Path) -> None:
    """The sweep is stopped while its job trains: its processes end with it, after a checkpoint."""
    worker = status(run)["process"]
    assert worker != sweep.process.pid
    if launcher == "submitit":
        sweep.process.send_signal(signal.SIGINT)
        code, printed = sweep.wait()
        assert code == 130
        assert "The sweep is stopped. Repeat the same command" in printed
        assert "Traceback" not in printed
    else:
        sweep.process.kill()
        sweep.wait()
    wait_until(lambda: not is_there(worker))
    assert "the checkpoint is written." in (run / "run.log").read_text()
    assert not (run / "result.json").exists()


def test_a_lost_worker_a_failing_job_and_a_stopped_sweep(
    launcher: str, tmp_path: Path, undisturbed: "Undisturbed"
) -> None:
    arguments = [*SWEEP, *LAUNCHERS[launcher]]
    run = tmp_path / RUN
    if launcher != "ray":  # a cluster is slow to start, and one start is enough
        alone = [*arguments, "architecture=hps"]
        stop_first(launcher, Sweep(tmp_path, *alone).until(trains(run)), run)
    sweep = Sweep(tmp_path, *arguments).until(trains(run))
    os.kill(status(run)["process"], signal.SIGKILL)
    assert not (run / "result.json").exists()
    code, printed = sweep.wait()
    assert code == 1, printed
    # The lost job went on, and is the same as if nothing had happened.
    assert f"{RUN.parent.name}/seed=0 lost its process: it goes on" in printed
    assert "going on from step" in (run / "run.log").read_text()
    reference = undisturbed(*SETTINGS)
    assert csv_files(run) == csv_files(reference)
    assert result(run) == result(reference)
    # The failing one was neither started again nor in the way.
    assert f"1 of the sweep's 2 jobs failed:\n  {FAILING.parent.name}/seed=0: " in printed
    assert "weighting=mgda balances gradients on shared parameters" in printed
    assert status(tmp_path / FAILING)["state"] == "failed"
    assert "Traceback" not in printed
