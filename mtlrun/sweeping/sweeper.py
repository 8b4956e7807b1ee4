"""What all our sweepers share: composing jobs, having them run, and saying how they went."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from mtlrun.errors import UserError
from mtlrun.sweeping.composing import Composer
from mtlrun.sweeping.jobs import Axis, Job, axes
from mtlrun.sweeping.stopping import StopSweep
from mtlrun.sweeping.watch import Watch
from mtlrun.sweeping.worker import WorkerStoppedError
from mtlrun.tracking.status import first_line, read_status, written_at


class SweepError(UserError):
    """Some jobs of a sweep failed; the others are done."""


@dataclass(frozen=True)
class Failure:
    """A job that did not finish, the first line of why, and the error where there is one."""

    job: Job
    reason: str
    error: Exception | None = None


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
        raise SweepError("\n".join([head, *lines, more])) from failures[0].error


def at_least_one(key: str, value: object) -> None:
    """Refuse a setting that is no number of things.

    Raises:
        UserError: it is below 1, or no whole number.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}={value}: use a whole number from 1 on.")


class JobSweeper(Sweeper):
    """Runs batches of jobs with Hydra's launcher, again where their workers were lost.

    Args:
        attempts: how often a job is started at most without getting into another epoch. A job
            that fails is not started again; one whose process is gone (killed, out of memory, its
            machine lost) is, and goes on from its checkpoint.
    """

    def __init__(self, attempts: int) -> None:
        at_least_one("hydra.sweeper.attempts", attempts)
        self.attempts = attempts
        self.config: DictConfig
        self.hydra_context: HydraContext
        self.task_function: TaskFunction
        self.launcher: Launcher
        self.stopping: StopSweep

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
        """Jobs with their folders.

        Every job is composed and its settings are checked before the first one runs, so a slip in
        the last one's does not wait for hours.
        """
        return Composer(self.hydra_context.config_loader, self.config)(jobs)

    @contextmanager
    def watched(
        self, jobs: Sequence[Job], told: Callable[[Job], str] | None = None
    ) -> Iterator[Watch]:
        """What a sweep happens in: its launcher is there, its jobs are shown and can be stopped.

        Args:
            jobs: the first ones.
            told: see :class:`Watch`.
        """
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=self.config,
        )
        try:
            watch = Watch(jobs, self.config.tracking.progress, told=told)
            self.stopping = StopSweep(lambda: watch.jobs)
            with watch, self.stopping:
                yield watch
        finally:
            close = getattr(self.launcher, "close", None)  # of ours
            if close is not None:
                close()

    def run_all(self, jobs: Sequence[Job], watch: Watch) -> list[Failure]:
        """Have jobs run until each has finished, failed, or was lost too often."""
        failures = [Failure(job, job.refused) for job in jobs if job.refused]
        left = [job for job in jobs if not job.refused and not job.finished]
        losses = _Losses(self.attempts)
        while True:
            for known in failures:
                watch.failed(known.job, known.reason)
            stranded = _stranded(left, watch.failures)
            if stranded:
                failures += stranded
                left = [job for job in left if all(job is not one.job for one in stranded)]
                continue  # others may need these
            if not left:
                return failures
            batch = losses.next_batch([job for job in left if not job.waits_for])
            assert batch, "of what these jobs need, nothing is among them"
            before = {job.folder: written_at(job.folder) for job in batch}
            returned, broke = self._launch(batch)
            self.stopping.check()
            lost = []
            for job, back in zip(batch, returned, strict=True):
                began = written_at(job.folder) != before[job.folder]
                failure = _failure_of(job, back, began=began)
                if failure:
                    failures.append(failure)
                elif not job.finished and (began or broke is None):
                    lost.append(job)
            losses.note(lost, together=broke is not None)
            failures += [Failure(job, losses.reason(job)) for job in lost if losses.is_over(job)]
            again = [job for job in lost if not losses.is_over(job)]
            if again:
                watch.say(_of_lost(again))
            ended = {failure.job.folder for failure in failures}
            left = [job for job in left if job.folder not in ended and not job.finished]

    def _launch(self, jobs: Sequence[Job]) -> tuple[Sequence[JobReturn | None], Exception | None]:
        """For each job what came back of it, and the launcher's error where it gave them all up."""
        overrides = [[*job.overrides, "hydra.mode=MULTIRUN"] for job in jobs]
        before = [written_at(job.folder) for job in jobs]
        try:
            return self.launcher.launch(overrides, initial_job_idx=0), None
        except (UserError, HydraException):
            raise
        except Exception as error:  # each launcher has its own kind for lost workers
            if [written_at(job.folder) for job in jobs] == before:
                name = self.config.hydra.runtime.choices.get("hydra/launcher")
                raise SweepError(
                    f"hydra/launcher={name} could not start the sweep's jobs: {first_line(error)}"
                ) from error
            return [None] * len(jobs), error


class _Losses:
    """Jobs whose processes were lost, and how often without getting on.

    Where a launcher gives up all of its jobs for one lost process, that one takes innocent ones
    with it. So a job that was lost that way has its last attempt by itself, after the others.
    """

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        self._times: Counter[Path] = Counter()
        self._epochs: dict[Path, int] = {}
        self._together: set[Path] = set()

    def next_batch(self, left: Sequence[Job]) -> Sequence[Job]:
        """What is launched next of the jobs that are left."""
        last = self.attempts - 1
        suspects = {path for path in self._together if self._times[path] == last > 0}
        return [job for job in left if job.folder not in suspects] or left[:1]

    def note(self, lost: Sequence[Job], *, together: bool) -> None:
        """These were lost, together with whatever ran beside them or each for itself."""
        for job in lost:
            status = read_status(job.folder)
            epoch = status.epoch if status else 0
            got_on = epoch > self._epochs.get(job.folder, 0)
            self._times[job.folder] = 1 if got_on else self._times[job.folder] + 1
            self._epochs[job.folder] = max(epoch, self._epochs.get(job.folder, 0))
            if together:
                self._together.add(job.folder)

    def is_over(self, job: Job) -> bool:
        return self._times[job.folder] >= self.attempts

    def reason(self, job: Job) -> str:
        status = read_status(job.folder)
        where = f" in epoch {status.epoch} of {status.epochs}" if status and status.epoch else ""
        times = "once" if self.attempts == 1 else f"{self.attempts} times"
        return f"its process was lost{where} {times} (killed, or out of memory)"


def _stranded(left: Sequence[Job], failed: Collection[Path]) -> list[Failure]:
    """Those of the jobs that need a run which failed: nothing would ever start them."""
    needed = [(job, [folder for folder in job.needs if folder in failed]) for job in left]
    return [
        Failure(job, f"it needs {folders[0].parent.name}/{folders[0].name}, which failed")
        for job, folders in needed
        if folders
    ]


def _of_lost(jobs: Sequence[Job]) -> str:
    names = f"{len(jobs)} jobs" if len(jobs) > 1 else jobs[0].label
    they, go, their = ("they", "go", "their") if len(jobs) > 1 else ("it", "goes", "its")
    plural = "es" if len(jobs) > 1 else ""
    return f"{names} lost {their} process{plural}: {they} {go} on from {their} last checkpoint."


def _failure_of(job: Job, back: JobReturn | None, *, began: bool) -> Failure | None:
    """How a job failed, if it did; what came back of it says so, or its status."""
    if back is not None and back.status is not JobStatus.COMPLETED:
        error: Any = back._return_value  # its property would print and raise
        if isinstance(error, WorkerStoppedError):
            return None
        error = error if isinstance(error, Exception) else RuntimeError(str(error))
        return Failure(job, first_line(error), error)
    status = read_status(job.folder) if began and back is None else None
    failed = status is not None and status.state == "failed"
    return Failure(job, status.reason) if status and failed else None
