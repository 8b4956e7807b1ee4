"""One unit a step, by how well its gradient agrees with that of a primary task."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlrun.errors import nearest_hint
from mtlrun.sampling._settings import check_temperature
from mtlrun.sampling.base import Sampler, by_size
from mtlrun.sampling.units import Unit
from mtlrun.settings import check_not_negative, check_whole

REFRESH_EVERY = 100
MOMENTUM = 0.9


class Similarity(Sampler):
    """One stream or task in each step, by its rows and its likeness to a primary one.

    A rule of ours: the literature has no sampler of this name, and MultiDDS (``multi_dds``) is the
    published one that goes by gradients. With n_i training rows,

        p_i ~ n_i^(1 / temperature) exp(sharpness s_i)

    s_i is the cosine between the gradients of unit i and of the primary unit on the shared
    parameters, on batches of the training split. It is measured every ``refresh_every`` steps, as
    the mean of two measurements on batches of their own, and averaged:

        s_i <- momentum s_i + (1 - momentum) cosine_i

    beginning with the first measurement. The primary unit has s = 1. Before the first measurement
    all are taken to be alike. Cosines of single batches are small where gradients are noisy, which
    favours the primary unit.

    With ``similarities`` given nothing is measured, and s_i is what the user says.

    Args:
        primary: the unit, or a task of it, that the others are compared with.
        similarities: instead of it, s of each unit, any finite numbers.
        temperature: above 0; see ``temperature``. Infinity leaves the number of rows out.
        sharpness: 0 or more; with 0 only the rows count.
        refresh_every: steps between two measurements; None for 100. Not with ``similarities``.
        momentum: of the average, at least 0 and below 1; None for 0.9. Not with ``similarities``.
        units: what there is to draw.
        epochs: of the run.
        seed: the run's.

    Raises:
        ValueError: neither or both of ``primary`` and ``similarities`` are given; a setting is none
            of these; a name that there is not, or a unit without a similarity.
    """

    def __init__(
        self,
        primary: str | None = None,
        similarities: Mapping[str, float] | None = None,
        temperature: float = 1.0,
        sharpness: float = 1.0,
        refresh_every: int | None = None,
        momentum: float | None = None,
        *,
        units: Sequence[Unit],
        epochs: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(units=units, epochs=epochs, seed=seed)
        check_temperature("temperature", temperature)
        check_not_negative(sharpness=sharpness)
        self.temperature = temperature
        self.sharpness = sharpness
        self.similarities: Tensor | None = None  # float64 [units]
        if (primary is None) == (not similarities):
            names = ", ".join(unit.name for unit in units)
            raise ValueError(
                "give either primary, what the others are compared with, or similarities, as in "
                f"sampler.similarities={{name:0.5}}. What is drawn are {names}"
            )
        if similarities:
            for setting, value in (("refresh_every", refresh_every), ("momentum", momentum)):
                if value is not None:
                    raise ValueError(
                        f"{setting}={value} is of similarities that are measured, and these are "
                        "given; leave it out"
                    )
            self.similarities = _given(similarities, self.units)
            return
        assert primary is not None
        self.compares = "training"
        self.primary = _number_of(primary, self.units)
        self.refresh_every = REFRESH_EVERY if refresh_every is None else refresh_every
        self.momentum = MOMENTUM if momentum is None else momentum
        check_whole("refresh_every", self.refresh_every, 1)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={momentum}: must be at least 0 and below 1")

    def probabilities(self, epoch: int) -> Tensor:
        """By size and similarity. See :meth:`Sampler.probabilities`."""
        del epoch
        sizes = by_size(self.units, 1 / self.temperature)
        if self.similarities is None:
            return sizes
        return torch.softmax(sizes.log() + self.sharpness * self.similarities, 0)

    def refresh(self, cosines: Tensor) -> None:
        """Average the cosines with the primary unit. See :meth:`Sampler.refresh`."""
        measured = (cosines[self.primary] + cosines[:, self.primary]).double().nan_to_num(0) / 2
        measured[self.primary] = 1
        if self.similarities is not None:
            measured = self.momentum * self.similarities + (1 - self.momentum) * measured
        self.similarities = measured

    def state_dict(self) -> dict[str, Any]:
        """The averages; None before the first. See :meth:`Sampler.state_dict`."""
        return {"similarities": self.similarities}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Sampler.load_state_dict`."""
        self.similarities = state["similarities"]


def _number_of(primary: str, units: Sequence[Unit]) -> int:
    """Number of the unit of that name, or with the task of that name."""
    for number, unit in enumerate(units):
        if primary == unit.name or primary in unit.tasks:
            return number
    names = [unit.name for unit in units]
    raise ValueError(
        f"primary={primary}: there is none of that name. {nearest_hint(primary, names)}What is "
        f"drawn are {', '.join(names)}"
    )


def _given(similarities: Mapping[str, float], units: Sequence[Unit]) -> Tensor:
    """The user's similarities in the order of the units, float64 [units]."""
    names = [unit.name for unit in units]
    for name, value in similarities.items():
        if name not in names:
            raise ValueError(
                f"similarities names {name}. {nearest_hint(name, names)}What is drawn are "
                f"{', '.join(names)}"
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value)):
            raise ValueError(f"similarities: {name} has {value}; use a finite number")
    missing = [name for name in names if name not in similarities]
    if missing:
        raise ValueError(f"similarities has none for {', '.join(missing)}; give one to each")
    return torch.tensor([similarities[name] for name in names], dtype=torch.float64)
