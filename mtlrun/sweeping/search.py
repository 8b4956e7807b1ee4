"""The sweep that searches: Optuna proposes settings, runs try them, the study is kept."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf

from mtlrun.analysis.objective import DELTA_M, objective_value
from mtlrun.errors import UserError
from mtlrun.sweeping.jobs import Axis, Job, axes, discrete, expand, key_of
from mtlrun.sweeping.study import Study
from mtlrun.sweeping.sweeper import Failure, JobSweeper, SweepError, at_least_one
from mtlrun.sweeping.watch import Watch
from mtlrun.tracking.folder import locked


@dataclass(frozen=True)
class Searched:
    """A setting that is searched.

    Attributes:
        key: as on the command line.
        values: to choose from; empty for a number from ``low`` to ``high``.
        whole: whether the number is whole.
        step: between whole numbers.
        logarithmic: whether orders of magnitude are searched alike.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    step: int = 1
    logarithmic: bool = False

    def suggest(self, trial: Any) -> str:
        """The override that a trial of Optuna's proposes."""
        if self.values:
            return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"
        if self.whole:
            low, high = int(self.low), int(self.high)
            more: dict[str, Any] = {"log": True} if self.logarithmic else {"step": self.step}
            return f"{self.key}={trial.suggest_int(self.key, low, high, **more)}"
        number = trial.suggest_float(self.key, self.low, self.high, log=self.logarithmic)
        return f"{self.key}={number}"

    def __str__(self) -> str:
        if self.values:
            return f"{self.key}={','.join(self.values)}"
        kind = f"{'log ' if self.logarithmic else ''}{'whole ' if self.whole else ''}"
        return f"{self.key} {kind}from {self.low} to {self.high} by {self.step}"

    @property
    def ends(self) -> tuple[str, ...]:
        """Overrides that must work for all of them to work."""
        if self.values:
            return tuple(f"{self.key}={value}" for value in self.values)
        return f"{self.key}={self.low}", f"{self.key}={self.high}"


def searched(override: Override) -> Searched:
    """What a sweep on the command line asks to search: a choice, a range or an interval.

    Raises:
        UserError: an interval without room, a range without numbers, or a tag of no meaning here.
        HydraException: there is no value.
    """
    key = override.get_key_element()
    value = override.value()
    for tag in getattr(value, "tags", ()):
        if tag != "log" or not isinstance(value, IntervalSweep):
            raise UserError(
                f"{override.input_line}: the tag {tag} says nothing here. Only log does, of an "
                "interval: tag(log,interval(1e-4,1e-1)), or tag(log,int(interval(1,100)))."
            )
    if isinstance(value, RangeSweep) and isinstance(numbers := value.range(), range):
        numbers = numbers if numbers.step > 0 else numbers[::-1]
        if not numbers:
            raise UserError(f"{override.input_line}: there is no number in this range.")
        return Searched(key, (), numbers[0], numbers[-1], whole=True, step=numbers.step)
    if not isinstance(value, IntervalSweep):
        return Searched(key, tuple(text.partition("=")[2] for text in discrete(override)))
    assert value.start is not None
    assert value.end is not None
    logarithmic = "log" in value.tags
    if not value.start < value.end or (logarithmic and value.start <= 0):
        need = "0 < low < high within tag(log, ...)" if logarithmic else "low < high"
        raise UserError(f"{override.input_line}: an interval needs {need}.")
    whole = isinstance(value.start, int) and isinstance(value.end, int)
    return Searched(key, (), value.start, value.end, whole, logarithmic=logarithmic)


class SearchSweeper(JobSweeper):
    """Optuna's search (Akiba et al., KDD 2019) for the settings with the best ``objective``.

    The single-task baseline runs first. With several seeds each trial is a run a seed, and its
    value their mean. The study is kept in files: the same command again goes on where the last one
    stopped, and trials that were lost are tried again.

    Args:
        trials: of the study altogether, those of earlier commands included.
        at_once: trials that the launcher is given at a time.
        sampler: one of :data:`mtlrun.sweeping.study.SAMPLERS`.
        seed: of the sampler.
        study: folder of the study; None for one below ``optuna`` in the sweep's folder, called
            after what is searched.
        baseline: overrides of the run that delta_m is against.
        attempts: see :class:`JobSweeper`.
    """

    def __init__(
        self,
        trials: int,
        at_once: int,
        sampler: str,
        seed: int,
        study: str | None,
        baseline: Sequence[str],
        attempts: int = 3,
    ) -> None:
        super().__init__(attempts)
        for name, number in (("trials", trials), ("at_once", at_once)):
            at_least_one(f"hydra.sweeper.{name}", number)
        Study.check(sampler)
        self.trials = trials
        self.at_once = at_once
        self.sampler = sampler
        self.seed = seed
        self.folder = study
        self.baseline = list(baseline)

    def sweep(self, arguments: list[str]) -> None:
        """Search, and say what was found.

        Raises:
            SweepError: the baseline failed, or every trial did.
            UserError: there is nothing to search, or no such objective.
        """
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(arguments)
        swept = [o for o in overrides if o.is_sweep_override() and o.get_key_element() != "seed"]
        space = [searched(override) for override in swept]
        self._refuse(space)
        fixed = axes(override for override in overrides if override not in swept)
        self._check_ends(space, fixed)
        settings = self._settings(fixed, space)
        folder = Path(self.folder) if self.folder else self._folder(settings, space)
        with locked(folder), self.watched([], told=self._told) as watch:
            alone = self._baselines(fixed, watch)
            # Its own value tells whether there is such an objective, and figures to divide by.
            for baseline in set(alone.values()):
                objective_value(self.config.objective, baseline, baseline)
            study = Study(
                folder,
                self.config.objective,
                next(iter(alone.values())),
                self.sampler,
                self.seed,
                settings,
            )
            while (left := self.trials - study.tried) > 0:
                self._try(study, space, fixed, alone, min(left, self.at_once), watch)
        self._say_best(study)

    def _refuse(self, space: Sequence[Searched]) -> None:
        if not space:
            raise UserError(
                "hydra/sweeper=optuna has nothing to search. Give a setting values: "
                "'weighting.alpha=interval(0,3)', or weighting=equal,gradnorm."
            )
        for key in ("objective", "study", "outputs", "tracking.baseline"):
            if any(setting.key.lstrip("+") == key for setting in space):
                raise UserError(f"{key} is no setting that a search can choose: give one value.")
        objective = self.config.objective
        if objective not in DELTA_M and "/" not in objective:
            raise UserError(
                f"objective={objective}: choose one of {', '.join(DELTA_M)}, or TASK/METRIC."
            )

    def _check_ends(self, space: Sequence[Searched], fixed: Sequence[Axis]) -> None:
        """Compose runs with each choice and each end of an interval, before the first one runs."""
        first = [Axis(setting.key, setting.ends[:1]) for setting in space]
        for at, setting in enumerate(space):
            chosen = [*first[:at], Axis(setting.key, setting.ends), *first[at + 1 :]]
            self.composed(expand([], [*fixed, *chosen], []))

    def _settings(self, fixed: Sequence[Axis], space: Sequence[Searched]) -> str:
        """What makes trials comparable: all but how many there are, and where they run."""
        words = sorted(text for axis in fixed for text in axis.overrides)
        against = self.config.tracking.baseline or " ".join(self.baseline)
        chosen = OmegaConf.select(self.config, "hydra.runtime.choices.sweep")
        ends = [
            self.config.objective,
            f"against {against}",
            *([f"sweep={chosen}"] if chosen else []),
        ]
        return ", ".join([*words, *sorted(map(str, space)), *ends])

    def _folder(self, settings: str, space: Sequence[Searched]) -> Path:
        """The study's folder: another one for other settings, the same for more trials."""
        digest = blake2b(settings.encode(), digest_size=4).hexdigest()
        names = "-".join(setting.key.lstrip("+").replace(".", "_") for setting in space)
        return Path(str(self.config.hydra.sweep.dir)) / "optuna" / f"{names[:100]}-{digest}"

    def _baselines(self, fixed: Sequence[Axis], watch: Watch) -> dict[str, Path]:
        """For each seed the folder of its baseline, which is run where it is missing."""
        named = self.config.tracking.baseline
        jobs = [job for job in expand([], fixed, self.baseline) if job.baseline]
        if named:
            return {_seed(job): Path(named) for job in jobs}
        jobs = self.composed(jobs)
        watch.add(jobs)
        failures = self.run_all(jobs, watch)
        if failures:
            raise SweepError(
                f"The search has no baseline, {failures[0].job.label} failed: {failures[0].reason}"
            ) from failures[0].error
        return {_seed(job): job.folder for job in jobs}

    def _try(
        self,
        study: Study,
        space: Sequence[Searched],
        fixed: Sequence[Axis],
        alone: Mapping[str, Path],
        count: int,
        watch: Watch,
    ) -> None:
        """Ask for some trials, have them run, and tell the study how they went."""
        asked: list[tuple[Any, list[Job]]] = []
        for _ in range(count):
            trial = study.ask()
            chosen = [Axis(setting.key, (setting.suggest(trial),)) for setting in space]
            asked.append((trial, self._jobs(trial.number, fixed, chosen, alone)))
        # Two trials may propose the same.
        jobs = list({job.folder: job for _, jobs in asked for job in jobs}.values())
        watch.add(jobs)
        failed = {failure.job.folder: failure for failure in self.run_all(jobs, watch)}
        for trial, of_trial in asked:
            ended = [failed[job.folder] for job in of_trial if job.folder in failed]
            study.tell(trial, of_trial[0].folder.parent, self._value(of_trial, ended, alone))

    def _jobs(
        self,
        number: int,
        fixed: Sequence[Axis],
        chosen: Sequence[Axis],
        alone: Mapping[str, Path],
    ) -> list[Job]:
        """A trial's runs, one for each seed, as they are shown: numbers with few digits."""
        tried = [override.partition("=") for axis in chosen for override in axis.overrides]
        short = [(key_of(key), re.sub(r"(\.\d{4})\d+", r"\1", value)) for key, _, value in tried]
        return [
            replace(
                job,
                telling=(("trial", str(number)), *short, *job.telling),
                alone=alone[_seed(job)],
            )
            for job in self.composed(expand([], [*fixed, *chosen], []))
        ]

    def _told(self, job: Job) -> str:
        """What is shown of a finished run: not of the test split, lest anyone select on it."""
        try:
            value = objective_value(self.config.objective, job.folder, job.alone or job.folder)
        except (UserError, OSError, ValueError, KeyError):  # said where it stops the search
            return ""
        return f"{self.config.objective} {value:.4g}"

    def _value(
        self, jobs: Sequence[Job], failures: Sequence[Failure], alone: Mapping[str, Path]
    ) -> float | None:
        """The mean of a trial's runs; None where one failed or has no such figure."""
        if failures:
            return None
        objective = self.config.objective
        value = fmean(objective_value(objective, job.folder, alone[_seed(job)]) for job in jobs)
        return value if math.isfinite(value) else None

    def _say_best(self, study: Study) -> None:
        best = study.best
        if best is None:
            raise SweepError(
                f"Every trial of the search failed; their run.log files say why. All trials: "
                f"{study.table}."
            )
        settings = " ".join(f"{key}={value}" for key, value in best.params.items())
        where = "test" if self.config.select_on == "test" else "validation"
        print(
            f"Best of {study.complete} trials by {self.config.objective} on the {where} split: "
            f"{settings} ({best.value:.4g}), in {best.user_attrs['folder']}\n"
            f"All trials: {study.table}. The figure is of the data that was searched on: compare "
            "test figures over seeds of their own."
        )


def _seed(job: Job) -> str:
    """What tells replicates of a trial from each other."""
    return next((text for text in job.overrides if text.startswith("seed=")), "")
