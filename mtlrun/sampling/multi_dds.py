"""One unit a step, learnt: those whose gradients serve all validation sets become likelier."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlrun.adam import Adam
from mtlrun.sampling._settings import check_temperature
from mtlrun.sampling.base import Sampler, by_size
from mtlrun.sampling.units import Unit
from mtlrun.settings import check_positive, check_whole


class MultiDDS(Sampler):
    """Differentiable data selection for several data sets (Wang, Tsvetkov and Neubig, ACL 2020).

    p = softmax(logits) over the units. Every ``refresh_every`` steps unit i earns the reward

        R_i = mean over v of cos(gradient of v on a validation batch, of i on a training batch)

    on the shared parameters, and the logits take ``inner_steps`` steps of Adam on

        sum over i of -R_i log p_i

    with R fixed, whose gradient is p_j sum R - R_j. Adam goes on from refresh to refresh. It moves
    each logit by about ``learning_rate`` a step whatever the size of the rewards, so a refresh
    changes a logit by 0.02 with the defaults; what counts is who earns more than its share.

    This is MultiDDS-S, as the authors' scripts for it (``multidds_s.sh``, fairseq's
    ``update_language_sampler_multilin``) have it: cosines with each validation set, averaged. Their
    plain MultiDDS takes the cosine with the summed validation gradient after a trial step of 0.001
    along unit i; it is not offered. Defaults are those of the script, and Adam's own (betas 0.9 and
    0.999, no weight decay).

    Published code departs: it fits the logits to the initial chances with the same Adam, whose
    moments it keeps; here they start there exactly, and Adam at rest. It refreshes after the first
    step too, draws a new training batch for each pair of sets, and mixes sets within a batch, row
    by row; here a step has one unit, and a unit one batch for a refresh.

    Args:
        refresh_every: steps between two refreshes.
        inner_steps: steps of Adam in each.
        learning_rate: of these.
        initial_temperature: at first p_i ~ n_i^(1 / initial_temperature) with n_i training rows.
        weigh_by_probability: multiply each R_i by p_i, held fixed (``--scale-reward`` in the code,
            which its scripts leave out).
        units: what there is to draw.
        epochs: of the run.
        seed: the run's.

    Raises:
        ValueError: a setting is out of its range.
    """

    compares = "validation"

    def __init__(
        self,
        refresh_every: int = 1000,
        inner_steps: int = 200,
        learning_rate: float = 1e-4,
        initial_temperature: float = 1.0,
        weigh_by_probability: bool = False,
        *,
        units: Sequence[Unit],
        epochs: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(units=units, epochs=epochs, seed=seed)
        check_whole("refresh_every", refresh_every, 1)
        check_whole("inner_steps", inner_steps, 1)
        check_positive("learning_rate", learning_rate)
        check_temperature("initial_temperature", initial_temperature)
        self.refresh_every = refresh_every
        self.inner_steps = inner_steps
        self.weigh_by_probability = weigh_by_probability
        self.logits = by_size(units, 1 / initial_temperature).log()  # float64 [units]
        self.adam = Adam(self.logits, learning_rate)

    def probabilities(self, epoch: int) -> Tensor:
        """The softmax of the logits. See :meth:`Sampler.probabilities`."""
        del epoch
        return torch.softmax(self.logits, 0)

    def refresh(self, cosines: Tensor) -> None:
        """Learn from the rewards. See :meth:`Sampler.refresh`."""
        rewards = cosines.double().nan_to_num(0).mean(dim=0)  # [units]
        for _ in range(self.inner_steps):
            chances = torch.softmax(self.logits, 0)
            weights = rewards * chances if self.weigh_by_probability else rewards
            self.adam.step(self.logits, chances * weights.sum() - weights)

    def state_dict(self) -> dict[str, Any]:
        """Logits and Adam's moments. See :meth:`Sampler.state_dict`."""
        moments = {name: value.clone() for name, value in self.adam.state_dict().items()}
        return {"logits": self.logits.clone(), "adam": moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Sampler.load_state_dict`."""
        self.logits.copy_(state["logits"])
        self.adam.load_state_dict(state["adam"])
