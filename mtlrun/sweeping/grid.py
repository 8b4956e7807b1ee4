"""The sweep over every combination, with the runs that it is compared with."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtlrun.sweeping.jobs import Job, as_typed, expand
from mtlrun.sweeping.sweeper import JobSweeper, at_least_one, conclude
from mtlrun.tracking.folder import RESULT


class GridSweeper(JobSweeper):
    """Every combination of the values that a sweep's configuration and the command line give.

    Args:
        methods: keys with the values that are compared, as on a command line.
        params: further keys with their values: seeds, settings.
        baseline: overrides of one more job for each combination that is not of the methods, which
            stands in their place; empty for none.
        attempts: see :class:`JobSweeper`.
        max_batch_size: how many jobs are handed to the launcher at once; None for all.
    """

    def __init__(
        self,
        methods: Mapping[str, Any],
        params: Mapping[str, Any],
        baseline: Sequence[str],
        attempts: int = 3,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__(attempts)
        if max_batch_size is not None:
            at_least_one("hydra.sweeper.max_batch_size", max_batch_size)
        self.methods = methods
        self.params = params
        self.baseline = list(baseline)
        self.max_batch_size = max_batch_size

    def jobs(self, arguments: Sequence[str]) -> list[Job]:
        """The jobs of a command line; what it gives replaces the configuration's namesakes."""
        typed = {axis.name: axis for axis in self.parsed(arguments)}
        methods = self.parsed([as_typed(key, value) for key, value in self.methods.items()])
        params = self.parsed([as_typed(key, value) for key, value in self.params.items()])
        chosen = [typed.pop(axis.name, axis) for axis in methods]
        others = [typed.pop(axis.name, axis) for axis in params]
        return self.composed(expand(chosen, [*others, *typed.values()], self.baseline))

    def sweep(self, arguments: list[str]) -> None:
        """Run all jobs.

        Raises:
            SweepError: some failed; the others are done.
        """
        jobs = self.jobs(arguments)
        size = self.max_batch_size or len(jobs)
        with self.watched(jobs) as watch:
            failures = [
                failure
                for at in range(0, len(jobs), size)
                for failure in self.run_all(jobs[at : at + size], watch)
            ]
        if any(job.result == RESULT for job in jobs):
            watch.say(f"Table of runs: mtlrun compare {self.config.hydra.sweep.dir}")
        conclude(failures, len(jobs))
