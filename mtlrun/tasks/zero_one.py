"""What tasks with labels 0 and 1 have in common."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.tasks.base import Statistics, Task, masked_mean
from mtlrun.tasks.soft_targets import mean_of_sigmoid, precise
from mtlrun.tasks.values import as_matrix, known_rows

RARE = 0.2
"""Share of positives, or of negatives, below which a task that always answers alike has a high
accuracy, or no positive to count."""


class ZeroOne(Task):
    """One label 0 or 1 a row, or several, trained by binary cross-entropy on logits.

    Targets are float [N], or [N, outputs], with NaN where a label is missing. Every row's scores
    and labels are kept until the split's end, for metrics of ranking.

    Args:
        name: the task's name.
        outputs: labels for each row.
        positive_weight: of positives in the loss, negatives weighing 1; None weighs both alike.
        positive_share: share of positives among the training split's known labels; None: unknown.
        headline: name of the first metric, or ``auto``: ``ranking`` where the rarer class has a
            share below 0.2, else ``plain``.
        plain: the metric at the threshold 0 that may be the headline.
        ranking: the metric of ranking that may be the headline.

    Raises:
        ValueError: a setting is wrong.
    """

    likelihood = "classification"

    def __init__(
        self,
        *,
        name: str,
        outputs: int,
        positive_weight: float | None,
        positive_share: float | None,
        headline: str,
        plain: str,
        ranking: str,
    ) -> None:
        super().__init__(name=name)
        if headline not in ("auto", plain, ranking):
            raise ValueError(f"headline={headline!r}: choose one of auto, {plain}, {ranking}")
        if positive_share is not None and not 0 <= positive_share <= 1:
            raise ValueError(f"positive_share={positive_share}: must be from 0 to 1")
        if positive_weight is not None and not 0 < positive_weight < math.inf:
            raise ValueError(f"positive_weight={positive_weight}: must be above 0 and finite")
        self.output_size = outputs
        self.positive_weight = positive_weight
        self.initial_loss = _loss_of_ignorance(positive_weight, positive_share)
        if headline == "auto":
            rare = positive_share is not None and min(positive_share, 1 - positive_share) < RARE
            headline = ranking if rare else plain
        # The base declares them for the class, and here the data decide which is first.
        self.metrics = {headline: self.metrics[headline], **self.metrics}

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over known labels, in float32 or better.

        With ``positive_weight`` the sum is weighted, and the mean still over the number of labels.

        Args:
            prediction: logits [N, outputs].
            target: [N] or [N, outputs], NaN where missing.
        """
        labels = as_matrix(self.name, prediction, target)
        known = ~labels.isnan()
        logits = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        # NaN must not enter the loss at all: its gradient is NaN even where it is masked out.
        values = torch.where(known, labels, 0.0).to(logits.dtype)
        return masked_mean(self._errors(logits, values), known)

    def _errors(self, logits: Tensor, values: Tensor) -> Tensor:
        """Cross-entropies of labels or probabilities, weighted; each is least where they agree."""
        errors = F.binary_cross_entropy_with_logits(logits, values, reduction="none")
        if self.positive_weight is None:
            return errors
        return errors * (1 + (self.positive_weight - 1) * values)

    def soft_targets(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """Mean probabilities of 1, [N, outputs]. See :meth:`Task.soft_targets`."""
        return mean_of_sigmoid(predictions, temperature)

    def soft_loss(
        self, prediction: Tensor, soft: Tensor, target: Tensor, temperature: float
    ) -> Tensor:
        """See :meth:`Task.soft_loss`."""
        known = ~as_matrix(self.name, prediction, target).isnan()
        errors = self._errors(precise(prediction) / temperature, soft)
        return temperature**2 * masked_mean(errors, known)

    def labelled(self, target: Tensor) -> Tensor:
        """See :meth:`Task.labelled`."""
        return known_rows(target)

    def elements(self, target: Tensor) -> Tensor:
        """Labelled values. See :meth:`Task.elements`."""
        return (~target.isnan()).sum()

    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """Every row's logits and labels, float32 or better, [N, outputs] both.

        Args:
            prediction: logits [N, outputs].
            target: [N] or [N, outputs], NaN where missing.
        """
        scores = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        return {"scores": scores, "labels": as_matrix(self.name, prediction, target).float()}

    def joined(self, first: Statistics, second: Statistics) -> Statistics:
        """The rows of both."""
        return {key: torch.cat([first[key], value]) for key, value in second.items()}

    def gathered(self, statistics: Statistics) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, which labels are known and which are positive, [N, outputs] each.

        Raises:
            ValueError: a label is none of 0, 1 and NaN.
        """
        labels = statistics["labels"]
        known = ~labels.isnan()
        wrong = labels[known & (labels != 0) & (labels != 1)]
        if len(wrong):
            raise ValueError(
                f"{self.name}: labels must be 0, 1 or NaN (missing), and one is {wrong[0]:g}"
            )
        return statistics["scores"], known, labels == 1


def f1_parts(predicted: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """For each column twice the hits, and how often it is the label or the prediction.

    The F1 score is their ratio.

    Args:
        predicted: bool [N, outputs], False where the label is missing.
        positive: bool [N, outputs].

    Returns:
        both float64 [outputs].
    """
    hits = (predicted & positive).sum(0)
    return 2 * hits.double(), (predicted.sum(0) + positive.sum(0)).double()


def _loss_of_ignorance(weight: float | None, share: float | None) -> float | None:
    """The loss where every probability is one half; None where it hangs on an unknown share."""
    if weight is None:
        return math.log(2)
    return None if share is None else math.log(2) * (1 + (weight - 1) * share)
