"""One unit a step, first by its number of rows, later nearly evenly."""

from collections.abc import Sequence

from torch import Tensor

from mtlrun.sampling.base import Sampler, by_size
from mtlrun.sampling.units import Unit


class Annealed(Sampler):
    """Annealed sampling (PALs: Stickland and Murray, ICML 2019).

    With n_i training rows, in epoch e of E, counted from 0,

        alpha = 1 - (1 - final) e / (E - 1)
        p_i = n_i^alpha / sum over j of n_j^alpha

    so training begins in proportion to the rows and ends with chances that are more equal. A run of
    one epoch has alpha = 1.

    The rule and ``final`` are those of the authors' code (``run_multi_task.py``), which takes 2400
    steps an epoch (here ``sampler.epoch=2400``). It knows its number of epochs beforehand, and so
    does this: early stopping ends a run before alpha reaches ``final``.

    Args:
        final: alpha in the last epoch, from 0 (equal chances) to 1 (no annealing).
        units: what there is to draw.
        epochs: of the run.
        seed: the run's.

    Raises:
        ValueError: ``final`` is not between 0 and 1.
    """

    def __init__(
        self, final: float = 0.2, *, units: Sequence[Unit], epochs: int = 1, seed: int = 0
    ) -> None:
        super().__init__(units=units, epochs=epochs, seed=seed)
        if not 0 <= final <= 1:
            raise ValueError(f"final={final}: must be between 0 and 1; the paper has 0.2")
        self.final = final

    def probabilities(self, epoch: int) -> Tensor:
        """By size to the power alpha. See :meth:`Sampler.probabilities`."""
        progress = epoch / (self.epochs - 1) if self.epochs > 1 else 0.0
        return by_size(self.units, 1 - (1 - self.final) * progress)
