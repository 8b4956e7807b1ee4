"""One unit a step, by its number of rows, tempered."""

from collections.abc import Sequence

from torch import Tensor

from mtlrun.sampling._settings import check_temperature
from mtlrun.sampling.base import Sampler, by_size
from mtlrun.sampling.units import Unit


class Temperature(Sampler):
    """One stream or task in each step, small ones more often than by their size.

    With n_i training rows,

        p_i = n_i^(1 / temperature) / sum over j of n_j^(1 / temperature)

    Arivazhagan et al., "Massively Multilingual Neural Machine Translation in the Wild" (2019),
    whose temperature is 5. Others write the exponent itself: 0.7 for multilingual BERT, a
    temperature of 1.43.

    Args:
        temperature: above 0. With 1 the chances are proportional to the rows, with 2 to their
            square root, with infinity they are equal; below 1 large units are favoured.
        units: what there is to draw.
        epochs: of the run.
        seed: the run's.

    Raises:
        ValueError: the temperature is not above 0.
    """

    def __init__(
        self, temperature: float = 5.0, *, units: Sequence[Unit], epochs: int = 1, seed: int = 0
    ) -> None:
        super().__init__(units=units, epochs=epochs, seed=seed)
        check_temperature("temperature", temperature)
        self.temperature = temperature

    def probabilities(self, epoch: int) -> Tensor:
        """By size to the power 1 / temperature. See :meth:`Sampler.probabilities`."""
        del epoch
        return by_size(self.units, 1 / self.temperature)
