"""One unit a step, by its number of rows, with a temperature that changes from epoch to epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mtlrun.sampling._headlines import headline_metrics, tasks_of
from mtlrun.sampling.base import Sampler, by_size
from mtlrun.sampling.units import Unit
from mtlrun.settings import check_choice, check_positive, check_whole
from mtlrun.types import Evaluation

MODES = ("ramp", "performance")
PUBLISHED_RAMP = 5


class DynamicTemperature(Sampler):
    """Temperature-based sampling whose temperature moves.

    With n_i training rows, p_i ~ n_i^(1 / T), and T follows ``mode``.

    ``ramp``: T rises with the epochs i, counted from 1 (Wang, Zhai and Hassan Awadalla,
    "Multi-task Learning for Multilingual Neural Machine Translation", EMNLP 2020):

        T = min(T_m, (i - 1) (T_m - T_0) / N + T_0)

    T_0 = 1, T_m = 5 and N = 5 are those of the training command in the authors' code, which
    computes e (T_m - T_0) / N + T_0 for epochs e up to N and leaves T as it is after that. There T
    sets how often rows are repeated, and a batch mixes the streams; here a step has one of them.

    ``performance``: T follows how evenly the tasks improve. This rule is ours. With r_t the
    remaining error of task t, relative to its first evaluation,

        r_t = |optimum - a_t| / |optimum - a_t at the first evaluation|
        T = T_0 + (T_m - T_0) (1 - min over t of r_t / max over t of r_t)

    where a_t is its headline metric, and the optimum is 1 where higher is better and 0 elsewhere.
    Tasks that improve alike leave T at T_0; where one lags behind, T rises and small streams are
    drawn more often. Before the second evaluation T is T_0. What could not be measured keeps its
    last value; a task whose first error was 0 is left out.

    Args:
        mode: ``ramp`` or ``performance``.
        initial_temperature: T_0, above 0.
        final_temperature: T_m, at least T_0.
        ramp_epochs: N, for ``mode=ramp`` only; None for the published 5.
        units: what there is to draw.
        epochs: of the run.
        seed: the run's.

    Raises:
        ValueError: a setting is none of these.
    """

    def __init__(
        self,
        mode: str = "ramp",
        initial_temperature: float = 1.0,
        final_temperature: float = 5.0,
        ramp_epochs: int | None = None,
        *,
        units: Sequence[Unit],
        epochs: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(units=units, epochs=epochs, seed=seed)
        check_choice("mode", mode, MODES)
        check_positive("initial_temperature", initial_temperature)
        check_positive("final_temperature", final_temperature)
        if final_temperature < initial_temperature:
            raise ValueError(
                f"final_temperature={final_temperature}: must be at least initial_temperature="
                f"{initial_temperature}"
            )
        if ramp_epochs is not None:
            if mode != "ramp":
                raise ValueError(
                    f"ramp_epochs={ramp_epochs} is of mode=ramp, and mode={mode} goes by how the "
                    "tasks perform; leave it out"
                )
            check_whole("ramp_epochs", ramp_epochs, 1)
        self.uses_evaluation = mode == "performance"
        self.initial = initial_temperature
        self.final = final_temperature
        self.ramp_epochs = PUBLISHED_RAMP if ramp_epochs is None else ramp_epochs
        self.first_errors: dict[str, float] = {}
        self.errors: dict[str, float] = {}

    def temperature(self, epoch: int) -> float:
        """T.

        Args:
            epoch: counted from 0.
        """
        span = self.final - self.initial
        if self.uses_evaluation:
            return self.initial + span * (1 - self._evenness())
        return min(self.final, epoch * span / self.ramp_epochs + self.initial)

    def probabilities(self, epoch: int) -> Tensor:
        """By size to the power 1 / T. See :meth:`Sampler.probabilities`."""
        return by_size(self.units, 1 / self.temperature(epoch))

    def after_evaluation(self, evaluation: Evaluation) -> None:
        """Note the tasks' remaining errors. See :meth:`Sampler.after_evaluation`."""
        for task, metric in headline_metrics(evaluation, tasks_of(self.units)).items():
            optimum = 1.0 if metric.higher_is_better else 0.0
            self.errors[task] = math.fabs(optimum - metric.value)
            self.first_errors.setdefault(task, self.errors[task])

    def _evenness(self) -> float:
        """The least remaining share of the first error by the greatest, from 0 to 1."""
        shares = [self.errors[task] / first for task, first in self.first_errors.items() if first]
        greatest = max(shares, default=0.0)
        return min(shares) / greatest if greatest else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Of each task the first error and the latest. See :meth:`Sampler.state_dict`."""
        return {"first_errors": dict(self.first_errors), "errors": dict(self.errors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Sampler.load_state_dict`."""
        self.first_errors = dict(state["first_errors"])
        self.errors = dict(state["errors"])
