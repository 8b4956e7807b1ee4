"""Running ``mtlrun`` in tests: in processes that can be killed, and reading what they leave."""

import csv
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mtlrun.cli import run_command

TIMES = ("seconds", "examples_per_second", "peak_memory_mib")
"""What differs in ``result.json`` from one execution of a run to the next."""

LIMIT = 120.0
"""Seconds after which a process is given up."""

# A server that has imported everything forks the processes: a start takes some tenths of a second.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "mtlrun.run",
        "mtlrun.data.digits",
        "mtlrun.tracking.tensorboard",
        "hydra.main",
        "torch._dynamo",
    ]
)


def _execute(arguments: list[str], directory: Path, output: Path) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a process started by a shell
    os.setsid()
    os.chdir(directory)
    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(run_command(arguments))


class Command:
    """``mtlrun ARGUMENTS`` as a process of its own, in a process group of its own.

    Args:
        arguments: of the command.
        directory: it is given in.
        output: name of the file for what it prints.
    """

    def __init__(self, arguments: list[str], directory: Path, output: str) -> None:
        self.output = directory / output
        self._began = self.output.stat().st_size if self.output.exists() else 0
        self.process = CONTEXT.Process(target=_execute, args=(arguments, directory, self.output))
        self.process.start()

    def wait(self) -> tuple[int, str]:
        """Exit code (minus the signal's number for a killed process) and what was printed."""
        self.process.join(LIMIT)
        if self.process.exitcode is None:
            self._give_up(f"still running after {LIMIT} s")
        assert self.process.exitcode is not None
        return self.process.exitcode, self.printed()

    def _give_up(self, why: str) -> None:
        self.process.kill()
        raise AssertionError(f"{why}:\n{self.printed()}")

    def finish(self) -> str:
        """What was printed by a command that succeeds."""
        code, printed = self.wait()
        assert code == 0, printed
        return printed

    def printed(self) -> str:
        with self.output.open() as file:
            file.seek(self._began)
            return file.read()

    def until(self, condition: Callable[[], bool]) -> "Command":
        """Wait until a condition holds, which must be before the process ends."""
        end = time.monotonic() + LIMIT
        while not condition():
            if self.process.exitcode is not None:
                self._give_up("ended before the moment came")
            if time.monotonic() > end:
                self._give_up("the moment never came")
            time.sleep(0.001)
        return self

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        code, printed = self.wait()
        assert code == -signal.SIGKILL, printed

    def send(self, number: signal.Signals, *, group: bool = False) -> tuple[int, str]:
        """Send a signal to the process, or to its group as a terminal does; wait for its end."""
        assert self.process.pid is not None
        (os.killpg if group else os.kill)(self.process.pid, number)
        return self.wait()


def mtlrun(directory: Path, *arguments: str, output: str = "output.txt") -> Command:
    """Start the command in ``directory``."""
    return Command(list(arguments), directory, output)


# -- moments of a run ------------------------------------------------------------------------------


class Moment:
    """When something happens to the one run below a directory. Made before its process starts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._seen: dict[str, int] = {}

    def file(self, name: str) -> Path:
        """A file of the run, which need not exist."""
        return next(self.directory.glob("outputs/*/*/*/seed=*"), Path("nowhere")) / name

    def _identity(self, name: str) -> int:
        try:
            return self.file(name).stat().st_ino
        except FileNotFoundError:
            return 0

    def replaced(self, name: str, times: int = 1) -> Callable[[], bool]:
        """A file has been written anew, as often as asked."""
        identity, count = self._identity(name), 0

        def happened() -> bool:
            nonlocal identity, count
            now = self._identity(name)
            if now not in (identity, 0):
                identity, count = now, count + 1
            return count >= times

        return happened

    def exists(self, name: str) -> Callable[[], bool]:
        return lambda: self.file(name).exists()

    def row(self, name: str, start: str) -> Callable[[], bool]:
        """A CSV file has a row that starts with these words."""
        return lambda: self.exists(name)() and f"\n{start}," in self.file(name).read_text()

    def then_grows(self, first: Callable[[], bool], name: str) -> Callable[[], bool]:
        """First one thing, and then a file has grown."""
        size: int | None = None

        def happened() -> bool:
            nonlocal size
            if size is None:
                if not first():
                    return False
                size = self.file(name).stat().st_size
            return self.file(name).stat().st_size > size

        return happened


# -- what runs leave -------------------------------------------------------------------------------


def only_run(directory: Path) -> Path:
    """The one run folder below a directory."""
    (folder,) = run_folders(directory)
    return folder


def run_folders(directory: Path) -> list[Path]:
    return sorted(directory.glob("outputs/*/*/*/seed=*"))


def csv_files(folder: Path) -> dict[str, bytes]:
    """The CSV files of a run, byte for byte."""
    found = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    assert sorted(found) == ["conflicts.csv", "losses.csv", "metrics.csv"]
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def result(folder: Path) -> dict[str, Any]:
    """``result.json`` without what takes time and memory."""
    found = json.loads((folder / "result.json").read_text())
    assert all(found.pop(key) > 0 for key in TIMES)
    return found


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return state


def leaves(state: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a checkpoint by path, without the seconds that it took."""
    pairs = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in pairs:
        if isinstance(value, (dict, list, tuple)):
            yield from leaves(value, f"{prefix}{key}/")
        elif key != "seconds":
            yield f"{prefix}{key}", value


def assert_same_checkpoint(folder: Path, other: Path, name: str) -> None:
    here, there = (dict(leaves(checkpoint(where, name))) for where in (folder, other))
    assert here.keys() == there.keys()
    for key, value in here.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, there[key]) or _both_nan(value, there[key]), key
        else:
            assert value == there[key] or value != value, key


def _both_nan(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.is_floating_point() and torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


def assert_same_run(folder: Path, other: Path) -> None:
    """Two run folders hold the same figures to the last bit, and the same networks."""
    assert csv_files(folder) == csv_files(other)
    assert result(folder) == result(other)
    assert_same_checkpoint(folder, other, "best.pt")
    assert_same_checkpoint(folder, other, "last.pt")
