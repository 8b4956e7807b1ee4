"""A process that does jobs for a sweep which is another process."""

import os
import signal
import socket
import threading
import time
import traceback
from functools import cache

from mtlrun.errors import Interrupted, UserError
from mtlrun.tracking.status import first_line

SWEEP_PROCESS = "MTLRUN_SWEEP_PROCESS"
"""Environment variable that tells a job's process whose job it does: ``HOST:PROCESS`` of the
sweep. Empty where the job goes on without the sweep, as in Slurm's queue."""

GRACE = 60.0
"""Seconds that a job has for its checkpoint once its sweep is gone."""


class WorkerStoppedError(Exception):
    """A job's process was asked to stop, by somebody who did not ask the sweep."""


class WorkerFailedError(UserError):
    """A job failed in a worker. Unlike the error itself it travels to the sweep in any case.

    Args:
        line: the first line of why.
        trace: the traceback.
    """

    def __init__(self, line: str, trace: str = "") -> None:
        super().__init__(line, trace)

    def __str__(self) -> str:
        return "\n\n".join(text for text in self.args if text)


def this_process() -> str:
    """What :data:`SWEEP_PROCESS` says where this process is the sweep."""
    return f"{socket.gethostname()}:{os.getpid()}"


def in_worker() -> bool:
    """Whether this process does jobs for a sweep that is another process."""
    return os.environ.get(SWEEP_PROCESS) != this_process()


@cache
def follow_sweep() -> None:
    """From now on this process ends where the sweep's does, however that ended.

    A job that runs writes its checkpoint. Nothing happens in the sweep's own process, nor where
    the sweep is on another machine: there it is for the cluster to end its jobs.
    """
    if in_worker() and _sweep_here() is not None:
        threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    while not _sweep_is_gone():
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def for_the_sweep(error: BaseException) -> Exception:
    """What a worker returns instead of the error that ended its job."""
    if isinstance(error, Interrupted):
        if _sweep_is_gone():
            os._exit(error.exit_code)  # rather than begin with the next job
        return WorkerStoppedError(str(error))
    return WorkerFailedError(first_line(error), traceback.format_exc())


def _sweep_here() -> int | None:
    """The sweep's process where it is on this machine, else None."""
    host, _, process = os.environ.get(SWEEP_PROCESS, "").rpartition(":")
    return int(process) if host == socket.gethostname() else None


def _sweep_is_gone() -> bool:
    process = _sweep_here()
    if process is None:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, which has its number now
        return True
    return False
