"""A search's study: Optuna's journal of trials, and the table that one reads."""

import csv
import io
import warnings
from pathlib import Path
from typing import Any

from mtlrun.analysis.objective import is_maximised
from mtlrun.durable import replace_file
from mtlrun.errors import UserError
from mtlrun.sweeping.extra import needed

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


SETTINGS = "settings"
"""Attribute of a study: what makes its trials comparable."""


class Study:
    """The trials of a search, in a folder that only one process works in.

    Args:
        folder: the study's; it is locked.
        objective: what is optimised.
        example: a finished run, which tells the objective's direction.
        sampler: one of :data:`SAMPLERS`.
        seed: of the sampler.
        settings: what makes trials comparable.

    Raises:
        UserError: the folder holds a study with other settings.

    Attributes:
        table: the file with a row for each trial.
    """

    def __init__(
        self,
        folder: Path,
        objective: str,
        example: Path,
        sampler: str,
        seed: int,
        settings: str,
    ) -> None:
        self.table = folder / "trials.csv"
        self._optuna = self.check(sampler)
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        (folder / "study.log.lock").unlink(missing_ok=True)  # of a command that was killed
        backend = self._optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            self._study = self._optuna.create_study(
                storage=self._optuna.storages.JournalStorage(backend),
                study_name="mtlrun",
                direction="maximize" if is_maximised(objective, example) else "minimize",
                load_if_exists=True,
            )
            # Another seed after a restart, which would draw the same proposals again.
            self._study.sampler = getattr(self._optuna.samplers, SAMPLERS[sampler])(
                seed=seed + len(self._study.trials)
            )
        held = self._study.user_attrs.get(SETTINGS)
        if held not in (None, settings):
            raise UserError(
                f"{folder} holds a search with other settings ({held}) than this one ({settings}). "
                "Give this one another folder with hydra.sweeper.study, or leave that out."
            )
        self._study.set_user_attr(SETTINGS, settings)
        self._try_lost_ones_again()

    @staticmethod
    def check(sampler: str) -> Any:
        """Optuna, where it has such a sampler.

        Raises:
            UserError: there is no such sampler, or a package is missing.
        """
        if sampler not in SAMPLERS:
            raise UserError(
                f"hydra.sweeper.sampler={sampler}: choose one of {', '.join(SAMPLERS)}."
            )
        if sampler == "cmaes":
            needed("cmaes", "hydra.sweeper.sampler=cmaes", install="cmaes")
        return needed("optuna", "hydra/sweeper=optuna")

    @property
    def tried(self) -> int:
        """Trials that ended with a figure or failed; those of a killed command do not count."""
        trials = self._study.trials
        return sum(trial.state.is_finished() and LOST not in trial.user_attrs for trial in trials)

    @property
    def complete(self) -> int:
        """Trials that ended with a figure."""
        return sum(trial.value is not None for trial in self._study.trials)

    @property
    def best(self) -> Any:
        """Optuna's best trial; None where all failed."""
        return self._study.best_trial if self.complete else None

    def ask(self) -> Any:
        """A new trial of Optuna's."""
        return self._study.ask()

    def tell(self, trial: Any, folder: Path, value: float | None) -> None:
        """How a trial went; None for one that failed."""
        trial.set_user_attr("folder", str(folder))
        if value is None:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, value)
        self._write_table()

    def _try_lost_ones_again(self) -> None:
        """Trials that run although nobody runs them: their command was killed."""
        states = self._optuna.trial.TrialState
        for trial in self._study.get_trials(states=[states.RUNNING]):
            self._study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
            self._study._storage.set_trial_user_attr(trial._trial_id, LOST, True)
            self._study.tell(trial.number, state=states.FAIL)

    def _write_table(self) -> None:
        trials = self._study.trials
        keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", "state", "value", *keys, "folder"])
        for trial in trials:
            state = LOST if LOST in trial.user_attrs else trial.state.name.lower()
            value = "" if trial.value is None else trial.value
            chosen = [trial.params.get(key, "") for key in keys]
            row = [trial.number, state, value, *chosen, trial.user_attrs.get("folder", "")]
            writer.writerow(row)
        replace_file(self.table, text.getvalue().encode())
