"""The sweep over every combination, with the runs that it is compared with."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtlrun.errors import UserError
from mtlrun.sweeping.chain import check_free, of_teachers, with_teachers
from mtlrun.sweeping.composing import Composer
from mtlrun.sweeping.jobs import Axis, Job, as_typed, expand
from mtlrun.sweeping.sweeper import JobSweeper, at_least_one, conclude
from mtlrun.sweeping.task_groups import check_kind, groups_axis, of_tasks
from mtlrun.tracking.folder import RESULT


class GridSweeper(JobSweeper):
    """Every combination of the values that a sweep's configuration and the command line give.

    Args:
        methods: keys with the values that are compared, as on a command line.
        params: further keys with their values: seeds, settings.
        baseline: overrides of one more job for each combination that is not of the methods, which
            stands in their place; empty for none.
        groups: which groups of tasks are trained beside all tasks together: ``pairs``, or ``all``
            of two tasks and more; None where the tasks are no matter of the sweep. The baseline is
            of all tasks.
        teachers: what the runs that teach each job have in place of its settings, likewise as keys
            with their values. Each job is then done with and without them; empty for none.
        once: keys of the command line that chose this sweep, and are not its jobs'.
        attempts: see :class:`JobSweeper`.
        max_batch_size: how many jobs are handed to the launcher at once; None for all.
    """

    def __init__(
        self,
        methods: Mapping[str, Any],
        params: Mapping[str, Any],
        baseline: Sequence[str],
        groups: str | None = None,
        teachers: Mapping[str, Any] | None = None,
        once: Sequence[str] = (),
        attempts: int = 3,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__(attempts)
        if max_batch_size is not None:
            at_least_one("hydra.sweeper.max_batch_size", max_batch_size)
        check_kind(groups)
        self.methods = methods
        self.params = params
        self.baseline = list(baseline)
        self.groups = groups
        self.teachers = of_teachers(teachers)
        if self.teachers and groups is not None:
            raise UserError(
                "hydra.sweeper.groups trains groups of tasks, and hydra.sweeper.teachers students "
                "of teachers: give one of them."
            )
        self.once = tuple(once)
        self._size = ""  # of a sweep over groups, in words
        self.max_batch_size = max_batch_size

    def jobs(self, arguments: Sequence[str]) -> list[Job]:
        """The jobs of a command line; what it gives replaces the configuration's namesakes."""
        given = [axis for axis in self.parsed(arguments) if axis.name not in self.once]
        typed = {axis.name: axis for axis in given}
        methods = self.parsed([as_typed(key, value) for key, value in self.methods.items()])
        params = self.parsed([as_typed(key, value) for key, value in self.params.items()])
        chosen = [typed.pop(axis.name, axis) for axis in methods]
        others = [*(typed.pop(axis.name, axis) for axis in params), *typed.values()]
        if self.groups is not None:
            return self._over_groups(self.groups, chosen, others)
        jobs = expand(chosen, others, self.baseline)
        if self.teachers:
            check_free([*chosen, *others])
            jobs = with_teachers(jobs, self.parsed(self.teachers))
        return self.composed(jobs)

    def _over_groups(self, kind: str, methods: Sequence[Axis], others: Sequence[Axis]) -> list[Job]:
        """The jobs of a sweep over groups of tasks, which are one more axis of what is compared."""
        compose = Composer(self.hydra_context.config_loader, self.config).settings
        count, groups = groups_axis(kind, [*methods, *others], compose)
        rest = [axis for axis in others if not of_tasks(axis)]
        # Tasks that were typed are those of the baseline, too.
        given = groups.overrides[:1] if len(rest) < len(others) and self.baseline else ()
        jobs = self.composed(expand([*methods, groups], rest, [*given, *self.baseline]))
        networks = len(groups.overrides)
        self._size = f"{count} tasks, {networks} group{'s' if networks > 1 else ''} of them to "
        self._size += f"train: {len(jobs)} runs."
        return jobs

    def sweep(self, arguments: list[str]) -> None:
        """Run all jobs.

        Raises:
            SweepError: some failed; the others are done.
        """
        jobs = self.jobs(arguments)
        size = self.max_batch_size or len(jobs)
        with self.watched(jobs) as watch:
            if self._size:
                watch.say(self._size)
            failures = [
                failure
                for at in range(0, len(jobs), size)
                for failure in self.run_all(jobs[at : at + size], watch)
            ]
        if any(job.result == RESULT for job in jobs):
            watch.say(f"Table of runs: mtlrun compare {self.config.hydra.sweep.dir}")
        conclude(failures, len(jobs))
