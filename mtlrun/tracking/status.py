"""``status.json``: how far a run is, or why it ended, for those who watch it from outside.

A small file beside the tables, replaced whole at most once a second. It is no part of what a run
finds: nothing is computed from it, and a run goes on without it.
"""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mtlrun.durable import replace_file
from mtlrun.errors import described
from mtlrun.tracking.console import Display, Silent
from mtlrun.tracking.folder import is_locked

STATUS = "status.json"
State = Literal["running", "finished", "failed", "interrupted"]


@dataclass(frozen=True)
class Status:
    """What is known of a run from outside.

    Attributes:
        state: ``running``, ``finished``, ``failed``, or ``interrupted`` where it was stopped or
            its process is gone.
        epoch: the one that it is in, from 1; 0 before the first step.
        epochs: how many it was asked for.
        seconds_left: estimated, of training; None before there is anything to estimate from.
        reason: for a failed run the first line of why.
        process: id of the process that wrote it.
        host: the machine of that process.
    """

    state: State
    epoch: int = 0
    epochs: int = 0
    seconds_left: float | None = None
    reason: str = ""
    process: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)


class StatusFile(Silent):
    """Writes a run's status while it trains; one of its displays.

    Args:
        folder: the run folder.
        epochs: the run's.
        steps: of the whole run.
    """

    def __init__(self, folder: Path, epochs: int, steps: int) -> None:
        self.path = folder / STATUS
        self.epochs = epochs
        self.steps = steps
        self._began: tuple[float, int] | None = None
        self._written = 0.0

    def advance(self, step: int, epoch: int, losses: Sequence[Mapping[str, Any]]) -> None:
        """See :class:`mtlrun.tracking.console.Display`."""
        del losses
        now = time.monotonic()
        if self._began is None:
            self._began = (now, step)
        if now - self._written < 1:
            return
        self._written = now
        since, first = self._began
        left = (now - since) * (self.steps - step) / (step - first) if step > first else None
        _write(self.path, Status("running", epoch, self.epochs, left))


@dataclass(frozen=True)
class Displays:
    """Several displays as one."""

    shown: Sequence[Display]

    def note(self, text: str) -> None:
        """See :class:`mtlrun.tracking.console.Display`."""
        for display in self.shown:
            display.note(text)

    def advance(self, step: int, epoch: int, losses: Sequence[Mapping[str, Any]]) -> None:
        """See :class:`mtlrun.tracking.console.Display`."""
        for display in self.shown:
            display.advance(step, epoch, losses)

    def epoch(self, epoch: int, text: str) -> None:
        """See :class:`mtlrun.tracking.console.Display`."""
        for display in self.shown:
            display.epoch(epoch, text)

    def close(self) -> None:
        """See :class:`mtlrun.tracking.console.Display`."""
        for display in self.shown:
            display.close()


class Reported:
    """A context that notes how a run begins and ends in its status file.

    Args:
        folder: the run folder.
        epochs: the run's.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self.path = folder / STATUS
        self.epochs = epochs

    def __enter__(self) -> None:
        _write(self.path, Status("running", 0, self.epochs))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            _write(self.path, Status("finished", self.epochs, self.epochs))
            return
        held = _read(self.path) or Status("running")
        stopped = isinstance(error, KeyboardInterrupt)
        state: State = "interrupted" if stopped else "failed"
        reason = "" if stopped else first_line(error)
        _write(self.path, Status(state, held.epoch, self.epochs, None, reason))


def first_line(error: BaseException) -> str:
    """The first line of why: a user's error as it reads, another one with its kind."""
    return described(error).strip().split("\n")[0]


def read_status(folder: Path) -> Status | None:
    """The status of a run folder; None where none was written.

    One that says ``running`` while no process holds the folder's lock was killed: it reads
    ``interrupted``. A process on another machine of a shared file system holds it, too, where that
    system has locks.
    """
    status = _read(folder / STATUS)
    if status is None or status.state != "running" or is_locked(folder):
        return status
    status = _read(folder / STATUS)  # it may have ended just now, in a better way
    if status is None or status.state != "running":
        return status
    return replace(status, state="interrupted", seconds_left=None)


def written_at(folder: Path) -> tuple[int, int]:
    """What changes whenever a run writes its status; zeros before it does."""
    try:
        facts = (folder / STATUS).stat()
    except OSError:
        return 0, 0
    return facts.st_mtime_ns, facts.st_ino


def _read(path: Path) -> Status | None:
    try:
        return Status(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none, half of one, or another version's
        return None


def _write(path: Path, status: Status) -> None:
    text = json.dumps(asdict(status), indent=1) + "\n"
    with suppress(OSError):  # a full disk stops the run where it matters, not here
        replace_file(path, text.encode(), sync=False)
