"""The contract of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mtlrun.types import Likelihood, Per

Statistics = dict[str, Tensor]
"""What a task's metrics follow from, gathered over rows; see :meth:`Task.joined`."""


@dataclass(frozen=True)
class Metric:
    """How to read a figure.

    Attributes:
        higher_is_better: its direction.
        optimum: the value of a perfect prediction (1 for an accuracy, 0 for an error). The
            distance to it is what model selection compares.
    """

    higher_is_better: bool
    optimum: float


class Task(ABC):
    """A named target with its loss, metrics and output size.

    Targets may be missing for some rows or some pixels: every loss is the mean over labelled
    elements, and 0 with zero gradient where nothing is labelled.

    Args:
        name: the task's name.

    Attributes:
        metrics: the task's metrics by name; the first is its headline.
        output_size: numbers that its head must give for each row, pixel or token (``per``).
        per: what it has one prediction for.
        likelihood: see :data:`mtlrun.types.Likelihood`.
        initial_loss: theoretical loss of an untrained network, or None.
    """

    metrics: Mapping[str, Metric]
    per: ClassVar[Per] = "row"
    likelihood: Likelihood
    output_size: int
    initial_loss: float | None = None

    def __init__(self, *, name: str) -> None:
        self.name = name

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Scalar loss, the mean over labelled elements.

        Args:
            prediction: the head's output, [N, output_size], [N, output_size, H, W] for each pixel,
                or [N, L, output_size] for each token.
            target: [N, ...], with missing labels marked as the task defines.
        """

    @abstractmethod
    def labelled(self, target: Tensor) -> Tensor:
        """Which rows carry at least one label: bool, shape [N]."""

    def elements(self, target: Tensor) -> Tensor:
        """How many labelled elements :meth:`loss` is the mean of, rows where a task does not say
        otherwise: a scalar on the target's device.
        """
        return self.labelled(target).sum()

    @abstractmethod
    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """Sums over the labelled elements of a batch, on its device."""

    def joined(self, first: Statistics, second: Statistics) -> Statistics:
        """The statistics of two batches together: their sums, where a task does not say otherwise.

        A metric that needs every row's score (the area under a curve) overrides this and appends.
        """
        return {key: first[key] + value for key, value in second.items()}

    @abstractmethod
    def compute(self, statistics: Statistics) -> dict[str, float]:
        """The metrics of a split from its summed statistics, NaN where nothing is labelled."""

    def soft_targets(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """What several networks say together: what a network that they teach is to come near.

        Of classes it is the mean of the networks' probabilities, of values the mean of these, in
        the target's units.

        Args:
            predictions: of each network its output, as in :meth:`loss`.
            temperature: that logits of classes are divided by; values have none.
        """
        raise TypeError(
            f"{type(self).__name__} does not say what {len(predictions)} networks say together "
            f"(at temperature {temperature:g})"
        )

    def soft_loss(
        self, prediction: Tensor, soft: Tensor, target: Tensor, temperature: float
    ) -> Tensor:
        """Scalar loss against :meth:`soft_targets`, the mean over the elements of :meth:`loss`.

        Of classes it is the cross-entropy at the temperature, times its square; for probabilities
        of 0 and 1 and a temperature of 1 that is :meth:`loss`. Of values it is the task's own loss.

        Args:
            prediction: the head's output, as in :meth:`loss`.
            soft: from :meth:`soft_targets`.
            target: as in :meth:`loss`; says which elements carry a label, and nothing else.
            temperature: that logits of classes are divided by; values have none.
        """
        del prediction, target, temperature
        raise TypeError(
            f"{type(self).__name__} has no loss against targets of shape {list(soft.shape)} that "
            "other networks give"
        )

    def picture(self, values: Tensor) -> Tensor:
        """Colours for a dense task's targets or predictions.

        Args:
            values: targets [N, ...] or predictions [N, output_size, H, W].

        Returns:
            uint8 [N, 3, H, W].
        """
        raise TypeError(
            f"{type(self).__name__} is no task for each pixel: it has no picture of {values.shape}"
        )


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` holds; 0 with zero gradient where it holds nowhere.

    Args:
        values: any shape.
        mask: bool, same shape.
    """
    kept = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return kept.sum() / mask.sum().clamp(min=1)
