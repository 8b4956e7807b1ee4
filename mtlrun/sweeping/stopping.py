"""Stopping a whole sweep: its jobs first write their checkpoints, wherever they run."""

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from mtlrun.errors import Interrupted
from mtlrun.sweeping.jobs import Job
from mtlrun.tracking.status import read_status

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a sweep to stop."""

GRACE = 15.0
"""Seconds that the jobs have for their checkpoints."""

OF_TERMINAL = 2.0
"""Seconds in which a job of the same terminal should have heard of Ctrl-C by itself."""


class StopSweep:
    """While it is open, Ctrl-C and SIGTERM stop the sweep: its jobs' processes, then itself.

    A job of this very process takes the signals over while it trains. A second signal does not
    wait for anything.

    Args:
        jobs: gives the sweep's jobs.
    """

    def __init__(self, jobs: Callable[[], Sequence[Job]]) -> None:
        self.jobs = jobs
        self._stop: Interrupted | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
                with suppress(ValueError):  # not in the main thread: no signals there
                    self._previous[number] = signal.signal(number, self._ask)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self.check()

    def check(self) -> None:
        """What was raised once may have got lost in a launcher, or became another error.

        Raises:
            Interrupted: the sweep was asked to stop.
        """
        if self._stop is not None:
            raise self._stop

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._stop is not None:
            raise self._stop
        self._stop = Interrupted(
            "The sweep is stopped. Repeat the same command to go on with what is missing.",
            128 + number,
        )
        running = {job: process for job in self.jobs() if (process := _process_of(job))}
        began = time.monotonic()
        told: set[int] = set()
        while running and time.monotonic() - began < GRACE:
            heard = number == signal.SIGINT and time.monotonic() - began < OF_TERMINAL
            for process in set(running.values()) - told:
                if not (heard and _has_our_terminal(process)):
                    told.add(process)
                    with suppress(OSError):
                        os.kill(process, signal.SIGTERM)
            time.sleep(0.1)
            running = {job: pid for job, pid in running.items() if _process_of(job) == pid}
        raise self._stop


def _process_of(job: Job) -> int | None:
    """The other process on this machine that a job runs in; None for none."""
    status = read_status(job.folder)
    here = status and status.state == "running" and status.host == socket.gethostname()
    return status.process if status and here and status.process != os.getpid() else None


def _has_our_terminal(process: int) -> bool:
    """Whether a terminal's Ctrl-C reaches it together with this one."""
    with suppress(OSError):
        return os.getpgid(process) == os.getpgid(0)
    return False
