"""The sweep that searches: Optuna proposes settings, runs try them, the study is kept."""

import csv
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from mtlrun.analysis.objective import is_maximised, objective_value
from mtlrun.durable import replace_file
from mtlrun.errors import UserError
from mtlrun.sweeping.extra import needed
from mtlrun.sweeping.jobs import Axis, Job, axes, expand
from mtlrun.sweeping.sweeper import JobSweeper, SweepError
from mtlrun.sweeping.watch import Watch

SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "qmc": "QMCSampler",
}
"""Words of ``hydra.sweeper.sampler``, and Optuna's classes."""

LOST = "lost"
"""Attribute of a trial whose command was killed; it is tried again."""


@dataclass(frozen=True)
class Searched:
    """A setting that is searched.

    Attributes:
        key: as on the command line.
        values: to choose from; empty for a number between ``low`` and ``high``.
        whole: whether the number is whole.
        logarithmic: whether orders of magnitude are searched alike.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    logarithmic: bool = False

    def suggest(self, trial: Any) -> str:
        """The override that a trial of Optuna's proposes."""
        if self.values:
            return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"
        if self.whole:
            low, high = int(self.low), int(self.high)
            return f"{self.key}={trial.suggest_int(self.key, low, high, log=self.logarithmic)}"
        number = trial.suggest_float(self.key, self.low, self.high, log=self.logarithmic)
        return f"{self.key}={number}"


def searched(override: Override) -> Searched:
    """What a sweep on the command line asks to search: a choice, a range or an interval.

    Raises:
        UserError: an interval without room.
    """
    key = override.get_key_element()
    value = override.value()
    if not isinstance(value, IntervalSweep):
        return Searched(key, tuple(override.sweep_string_iterator()))
    assert value.start is not None
    assert value.end is not None
    logarithmic = "log" in value.tags
    if not value.start < value.end or (logarithmic and value.start <= 0):
        need = "0 < low < high within tag(log, ...)" if logarithmic else "low < high"
        raise UserError(f"{override.input_line}: an interval needs {need}.")
    whole = isinstance(value.start, int) and isinstance(value.end, int)
    return Searched(key, (), value.start, value.end, whole, logarithmic)


class SearchSweeper(JobSweeper):
    """Optuna's search (Akiba et al., KDD 2019) for the settings with the best ``objective``.

    The single-task baseline runs first. With several seeds each trial is a run a seed, and its
    value their mean. The study is a file: the same command again goes on where the last one
    stopped, and trials that were lost are tried again.

    Args:
        trials: of the study altogether, those of earlier commands included.
        at_once: trials that the launcher is given at a time.
        sampler: one of :data:`SAMPLERS`.
        seed: of the sampler.
        study: file of the study; None for one below ``optuna`` in the sweep's folder, called after
            what is fixed and what is searched.
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
        if sampler not in SAMPLERS:
            raise UserError(
                f"hydra.sweeper.sampler={sampler}: choose one of {', '.join(SAMPLERS)}."
            )
        for name, number in (("trials", trials), ("at_once", at_once)):
            if number < 1:
                raise UserError(f"hydra.sweeper.{name}={number}: use 1 or more.")
        self.trials = trials
        self.at_once = at_once
        self.sampler = sampler
        self.seed = seed
        self.path = study
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
        if not space:
            raise UserError(
                "hydra/sweeper=optuna has nothing to search. Give a setting values: "
                "'weighting.alpha=interval(0,3)', or weighting=equal,gradnorm."
            )
        fixed = axes(override for override in overrides if override not in swept)
        path = Path(self.path) if self.path else self._path(fixed, space)
        with Watch([], self.config.tracking.progress) as watch:
            alone = self._baselines(fixed, watch)
            study = self._study(path, next(iter(alone.values())))
            while (left := self.trials - _tried(study)) > 0:
                self._try(study, space, fixed, alone, min(left, self.at_once), watch)
                _write_trials(path.with_suffix(".csv"), study)
        self._say_best(study, path)

    def _path(self, fixed: Sequence[Axis], space: Sequence[Searched]) -> Path:
        """The study's file: another one for other settings, the same for more trials."""
        words = [text for axis in fixed for text in axis.overrides]
        keys = [setting.key for setting in space]
        text = " ".join([*sorted(words), *sorted(keys), self.config.objective])
        digest = blake2b(text.encode(), digest_size=4).hexdigest()
        names = "-".join(key.replace(".", "_") for key in keys)
        return Path(str(self.config.hydra.sweep.dir)) / "optuna" / f"{names}-{digest}.log"

    def _baselines(self, fixed: Sequence[Axis], watch: Watch) -> dict[str, Path]:
        """For each seed the folder of its baseline, which is run where it is missing."""
        named = self.config.tracking.baseline
        jobs = [job for job in self.composed(expand([], fixed, self.baseline)) if job.baseline]
        if named:
            return {_seed(job): Path(named) for job in jobs}
        watch.add(jobs)
        failures = self.run_all(jobs, watch)
        if failures:
            raise SweepError(f"The search has no baseline: {failures[0].reason}")
        return {_seed(job): job.folder for job in jobs}

    def _study(self, path: Path, example: Path) -> Any:
        optuna = needed("optuna", "hydra/sweeper=optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        direction = "maximize" if is_maximised(self.config.objective, example) else "minimize"
        path.parent.mkdir(parents=True, exist_ok=True)
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning):
            warnings.simplefilter("ignore")
            study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="mtlrun",
                direction=direction,
                load_if_exists=True,
            )
            # Another seed after a restart, which would draw the same proposals again.
            study.sampler = getattr(optuna.samplers, SAMPLERS[self.sampler])(
                seed=self.seed + len(study.trials)
            )
        for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
            study._storage.set_trial_user_attr(trial._trial_id, LOST, True)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _try(
        self,
        study: Any,
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
            jobs = self.composed(expand([], [*fixed, *chosen], []))
            names = " ".join(override for axis in chosen for override in axis.overrides)
            asked.append((trial, [_named(job, trial.number, names) for job in jobs]))
        all_jobs = [job for _, jobs in asked for job in jobs]
        watch.add(all_jobs)
        failed = {failure.job.folder for failure in self.run_all(all_jobs, watch)}
        for trial, jobs in asked:
            if any(job.folder in failed for job in jobs):
                study.tell(trial, None)  # a failure
                continue
            values = [
                objective_value(self.config.objective, job.folder, alone[_seed(job)])
                for job in jobs
            ]
            trial.set_user_attr("folder", str(jobs[0].folder.parent))
            study.tell(trial, fmean(values))  # Optuna takes NaN for a failure

    def _say_best(self, study: Any, path: Path) -> None:
        complete = [trial for trial in study.trials if trial.value is not None]
        if not complete:
            raise SweepError("Every trial of the search failed; their run.log files say why.")
        best = study.best_trial
        settings = " ".join(f"{key}={value}" for key, value in best.params.items())
        print(
            f"Best of {len(complete)} trials by {self.config.objective} on the split that selects "
            f"models: {settings} ({best.value:.4g}), in {best.user_attrs['folder']}\n"
            f"All trials: {path.with_suffix('.csv')}. The figure is of the data that was searched "
            "on: compare test figures over seeds of their own."
        )


def _named(job: Job, number: int, names: str) -> Job:
    """A trial's job as it is shown: settings that it tries, with few digits."""
    seed = f" {job.name}" if job.name.startswith("seed=") else ""
    return replace(job, name=f"trial {number}: {_short(names)}{seed}")


def _short(names: str) -> str:
    return re.sub(r"(\d+\.\d{4})\d+", r"\1", names)


def _seed(job: Job) -> str:
    """What tells replicates of a trial from each other."""
    return next((text for text in job.overrides if text.startswith("seed=")), "")


def _tried(study: Any) -> int:
    """Trials that ended with a figure or failed; those of a killed command are tried again."""
    return sum(trial.state.is_finished() and LOST not in trial.user_attrs for trial in study.trials)


def _write_trials(path: Path, study: Any) -> None:
    """The study as a table: a row a trial."""
    keys = list(dict.fromkeys(key for trial in study.trials for key in trial.params))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "value", *keys, "folder"])
    for trial in study.trials:
        state = LOST if LOST in trial.user_attrs else trial.state.name.lower()
        value = "" if trial.value is None else trial.value
        chosen = [trial.params.get(key, "") for key in keys]
        row = [trial.number, state, value, *chosen, trial.user_attrs.get("folder", "")]
        writer.writerow(row)
    replace_file(path, text.getvalue().encode())
