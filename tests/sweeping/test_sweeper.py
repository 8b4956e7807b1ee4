"""Jobs that fail, and jobs whose process is lost: what is started again, and what is said."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from sweep_folders import FakeLauncher, done, failed, write_run, write_status

from mtlrun.errors import Interrupted, UserError
from mtlrun.sweeping.jobs import Job
from mtlrun.sweeping.stopping import StopSweep
from mtlrun.sweeping.sweeper import JobSweeper, SweepError, conclude
from mtlrun.sweeping.watch import Watch
from mtlrun.sweeping.worker import WorkerFailedError, WorkerStoppedError

FIGURES = {"a": {"accuracy": 0.5}}
GONE = "its process was lost in epoch {} of 5 {} times (killed, or out of memory)"


class Sweeper(JobSweeper):
    """Runs jobs called a, b, ... with a fake launcher."""

    def __init__(self, folder: Path, names: str, *launches: Any, attempts: int = 3) -> None:
        super().__init__(attempts)
        self.jobs = [Job((name,), (("job", name),), folder=folder / name) for name in names]
        self.launcher = self.fake = FakeLauncher(*launches)
        self.stopping = StopSweep(lambda: [])
        choices = {"hydra/launcher": "fake"}
        self.config = OmegaConf.create({"hydra": {"runtime": {"choices": choices}}})

    def sweep(self, arguments: list[str]) -> dict[str, str]:
        """For each failed job its reason."""
        failures = self.run_all(self.jobs, Watch(self.jobs, "none"))
        assert len({failure.job.label for failure in failures}) == len(failures)
        return {failure.job.folder.name: failure.reason for failure in failures}


@pytest.fixture
def finish(tmp_path: Path) -> Callable[[str], Any]:
    def write(name: str) -> Any:
        write_run(tmp_path / name, [FIGURES])
        return done()

    return write


def test_jobs_that_fail_are_not_started_again(tmp_path: Path, finish: Any) -> None:
    def launch(jobs: list[str]) -> Sequence[Any]:
        finish("a")
        slip = failed(UserError("epochs=0: use 1 or more.\nMore of it."))
        return [done(), slip, failed(KeyError("x")), failed(WorkerFailedError("line", "trace"))]

    sweeper = Sweeper(tmp_path, "abcd", launch)
    reasons = {"b": "epochs=0: use 1 or more.", "c": "KeyError: 'x'", "d": "line"}
    assert sweeper.sweep([]) == reasons
    assert sweeper.fake.asked == [["a", "b", "c", "d"]]


def test_finished_jobs_are_not_started_and_refused_ones_fail(tmp_path: Path, finish: Any) -> None:
    sweeper = Sweeper(tmp_path, "abc", lambda jobs: [finish(name) for name in jobs])
    finish("a")
    sweeper.jobs[1] = Job(("b",), (), folder=tmp_path / "b", refused="other settings")
    assert sweeper.sweep([]) == {"b": "other settings"}
    assert sweeper.fake.asked == [["c"]]


def test_lost_jobs_are_started_again_alone(tmp_path: Path, finish: Any) -> None:
    """As our launchers lose them: no word of one, while the others end."""

    def lose(jobs: list[str]) -> Sequence[Any]:
        write_status(tmp_path / "b", "running", 2)
        return [finish("a"), None, failed(WorkerStoppedError("stopped by somebody"))]

    sweeper = Sweeper(tmp_path, "abc", lose, lambda jobs: [finish(name) for name in jobs])
    assert sweeper.sweep([]) == {}
    assert sweeper.fake.asked == [["a", "b", "c"], ["b", "c"]]


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_job_that_is_lost_too_often(tmp_path: Path, attempts: int) -> None:
    def lose(jobs: list[str]) -> Sequence[Any]:
        write_status(tmp_path / "a", "running", 2)
        return [None]

    sweeper = Sweeper(tmp_path, "a", lose, attempts=attempts)
    expected = GONE.format(2, attempts).replace("1 times", "once")
    assert sweeper.sweep([]) == {"a": expected}
    assert len(sweeper.fake.asked) == attempts


def test_getting_on_does_not_count_as_an_attempt(tmp_path: Path, finish: Any) -> None:
    """As in a queue that stops jobs after an hour."""
    epochs = iter(range(1, 6))

    def stop(jobs: list[str]) -> Sequence[Any]:
        epoch = next(epochs)
        write_status(tmp_path / "a", "interrupted", epoch)
        return [finish("a") if epoch == 5 else None]

    sweeper = Sweeper(tmp_path, "a", stop, attempts=2)
    assert sweeper.sweep([]) == {}
    assert len(sweeper.fake.asked) == 5


def test_coming_back_to_an_epoch_is_no_getting_on(tmp_path: Path) -> None:
    """Lost while it trains, and then before it has begun, again and again."""
    epochs = iter([2, 0] * 10)

    def lose(jobs: list[str]) -> Sequence[Any]:
        write_status(tmp_path / "a", "running", next(epochs))
        return [None]

    sweeper = Sweeper(tmp_path, "a", lose, attempts=3)
    assert list(sweeper.sweep([])) == ["a"]
    assert len(sweeper.fake.asked) == 3


def test_a_launcher_that_gives_all_up_with_one_of_them(tmp_path: Path, finish: Any) -> None:
    """As joblib does: a kills whatever runs beside it, two at a time, which b did not deserve."""

    def launch(jobs: list[str]) -> Sequence[Any]:
        for name in jobs[:2]:
            write_status(tmp_path / name, "running", 1)
        if "a" in jobs:
            raise RuntimeError("a worker was killed")
        return [finish(name) for name in jobs]

    sweeper = Sweeper(tmp_path, "abcd", launch)
    assert sweeper.sweep([]) == {"a": GONE.format(1, 3)}
    # Twice with all, then without the suspects, then these one by one.
    assert sweeper.fake.asked == [["a", "b", "c", "d"]] * 2 + [["c", "d"], ["a"], ["b"]]


def test_what_a_launcher_that_gave_up_does_not_say(tmp_path: Path, finish: Any) -> None:
    """A job may have finished or failed before; its folder says so."""

    def give_up(jobs: list[str]) -> Sequence[Any]:
        finish("a")
        write_status(tmp_path / "b", "failed", reason="a loss is not finite")
        raise RuntimeError("a worker was killed")

    write_status(tmp_path / "c", "failed", reason="of an earlier sweep")
    sweeper = Sweeper(tmp_path, "abc", give_up, lambda jobs: [finish(name) for name in jobs])
    assert sweeper.sweep([]) == {"b": "a loss is not finite"}
    assert sweeper.fake.asked == [["a", "b", "c"], ["c"]]


def test_a_launcher_that_does_not_work(tmp_path: Path) -> None:
    def refuse(jobs: list[str]) -> Sequence[Any]:
        raise RuntimeError("no such partition\nand more")

    message = "hydra/launcher=fake could not start the sweep's jobs: RuntimeError: no such part"
    with pytest.raises(SweepError, match=f"^{message}ition$"):
        Sweeper(tmp_path, "ab", refuse).sweep([])


def test_a_launcher_that_swallows_the_request_to_stop(tmp_path: Path) -> None:
    def swallow(jobs: list[str]) -> Sequence[Any]:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        return [None, None]

    sweeper = Sweeper(tmp_path, "ab", swallow)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="same command") as stopped, sweeper.stopping:
        sweeper.sweep([])
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert len(sweeper.fake.asked) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_last_word(tmp_path: Path) -> None:
    cause = KeyError("x")
    sweeper = Sweeper(tmp_path, "ab", lambda jobs: [failed(cause), failed(ValueError("y"))])
    failures = sweeper.run_all(sweeper.jobs, Watch(sweeper.jobs, "none"))
    with pytest.raises(SweepError) as raised:
        conclude(failures, 7)
    assert raised.value.__cause__ is cause  # for HYDRA_FULL_ERROR=1
    name = tmp_path.name
    lines = str(raised.value).splitlines()
    assert lines[0] == "2 of the sweep's 7 jobs failed:"
    assert lines[1:3] == [f"  {name}/a: KeyError: 'x'", f"  {name}/b: ValueError: y"]
    assert lines[3].startswith("A failed run's run.log says more;")
    conclude([], 7)
