"""What all our sweepers share: composing jobs, having them run, and saying how they went."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from mtlrun.errors import UserError
from mtlrun.sweeping.jobs import Axis, Job, axes
from mtlrun.sweeping.watch import Watch, written_at
from mtlrun.tracking.folder import RESULT
from mtlrun.tracking.status import first_line, read_status

SWEEP_PROCESS = "MTLRUN_SWEEP_PROCESS"
"""Environment variable that tells a job's process which process the sweep itself is."""


def in_worker() -> bool:
    """Whether this process does jobs for a sweep that is another process."""
    return os.environ.get(SWEEP_PROCESS) != str(os.getpid())


class SweepError(UserError):
    """Some jobs of a sweep failed; the others are done."""


class WorkerStoppedError(Exception):
    """A job's process was asked to stop, by somebody who did not ask the sweep."""


@dataclass(frozen=True)
class Failure:
    """A job that did not finish, and the first line of why."""

    job: Job
    reason: str


def conclude(failures: Sequence[Failure], jobs: int) -> None:
    """Say which jobs failed.

    Raises:
        SweepError: one paragraph, and a line for each of them; nothing where there are none.
    """
    if failures:
        lines = [f"  {failure.job.label}: {failure.reason}" for failure in failures]
        head = f"{len(failures)} of the sweep's {jobs} jobs failed:"
        more = (
            "A failed run's run.log says more; HYDRA_FULL_ERROR=1 shows tracebacks. The same "
            "command again does what is missing."
        )
        raise SweepError("\n".join([head, *lines, more]))


class JobSweeper(Sweeper):
    """Runs batches of jobs with Hydra's launcher, again where their workers were lost.

    Args:
        attempts: how often a job is started at most. A job that fails is not started again; one
            whose process is gone (killed, out of memory, its machine lost) is, and goes on from
            its checkpoint.
    """

    def __init__(self, attempts: int) -> None:
        if attempts < 1:
            raise UserError(f"hydra.sweeper.attempts={attempts}: use 1 or more.")
        self.attempts = attempts
        self.config: DictConfig
        self.hydra_context: HydraContext
        self.task_function: TaskFunction

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """See Hydra's ``Sweeper``."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def parsed(self, overrides: Sequence[str]) -> list[Axis]:
        """Axes of overrides as typed."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return axes(parser.parse_overrides(list(overrides)))

    def composed(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs with their folders; of those that would share one the first.

        Every job is composed before the first one runs, so a slip in the last one's settings does
        not wait for hours.
        """
        found: dict[Path, Job] = {}
        for job in jobs:
            config = self.hydra_context.config_loader.load_sweep_config(
                self.config, list(job.overrides)
            )
            folder = Path(str(OmegaConf.select(config, "hydra.sweep.dir")))
            folder /= str(OmegaConf.select(config, "hydra.sweep.subdir"))
            found.setdefault(folder, replace(job, folder=folder))
        return list(found.values())

    def run_all(self, jobs: Sequence[Job], watch: Watch) -> list[Failure]:
        """Have jobs run until each has finished, failed, or was lost too often."""
        failures: list[Failure] = []
        left = list(jobs)
        for attempt in range(1, self.attempts + 1):
            returned = self._launch(left)
            lost = []
            for job, back in zip(left, returned, strict=True):
                if (job.folder / RESULT).is_file() and not isinstance(back, Exception):
                    continue
                if isinstance(back, Exception) and not isinstance(back, WorkerStoppedError):
                    failures.append(Failure(job, first_line(back)))
                    watch.failed(job, failures[-1].reason)
                else:
                    lost.append(job)
            if not lost:
                return failures
            if attempt < self.attempts:
                watch.say(
                    f"{len(lost)} jobs lost their process; they go on from their checkpoints."
                )
            left = lost
        for job in left:
            status = read_status(job.folder)
            where = f" in epoch {status.epoch} of {status.epochs}" if status else ""
            reason = f"its process was gone{where} in each of {self.attempts} attempts"
            failures.append(Failure(job, reason))
            watch.failed(job, reason)
        return failures

    def _launch(self, jobs: Sequence[Job]) -> list[Exception | None]:
        """For each job the error that it ended with, None where there is none, or no word of it."""
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=self.config,
        )
        overrides = [[*job.overrides, "hydra.mode=MULTIRUN"] for job in jobs]
        before = [written_at(job.folder) for job in jobs]
        try:
            returns = launcher.launch(overrides, initial_job_idx=0)
        except Exception:
            # Each launcher has its own kind of error for lost workers. Where no job has begun, it
            # is the launcher itself that does not work.
            if [written_at(job.folder) for job in jobs] == before:
                raise
            return [None] * len(jobs)
        return [_error_of(back) for back in returns]


def _error_of(back: JobReturn | None) -> Exception | None:
    if back is None or back.status is JobStatus.COMPLETED:
        return None
    error: Any = back._return_value  # its property would print and raise
    return error if isinstance(error, Exception) else RuntimeError(str(error))
