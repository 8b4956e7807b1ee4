"""One of several ordered classes for each row."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.tasks.base import Metric, Statistics, Task, masked_mean
from mtlrun.tasks.confusion import confusion_matrix
from mtlrun.tasks.names import names_or_numbers
from mtlrun.tasks.soft_targets import mean_of_sigmoid, precise

MISSING = -1


class Ordinal(Task):
    """One of several ordered classes for each row, by cumulative probabilities.

    Targets are int64 [N], 0 (lowest) to ``classes - 1``, or -1 where the label is missing. The head
    gives for each class k but the highest the logit of P(y > k), and the loss is the mean of these
    binary cross-entropies (CORAL; Cao, Mirjalili and Raschka, Pattern Recognition Letters 2020, who
    sum them). The class given is the number of logits above 0. ``heads=ordinal`` is made for it:
    one score and ordered thresholds (McCullagh's proportional odds, 1980), so that P(y > k) never
    rises with k.

    Metrics: ``mae``, the mean distance between the class given and the right one, in classes;
    ``accuracy``; ``quadratic_kappa``, agreement above chance weighted by squared distance
    (Cohen 1968), NaN where all labels and answers are one class.

    Args:
        name: the task's name.
        classes: number of classes, at least 2.
        class_names: their names, from the lowest, for reports; None numbers them.

    Raises:
        ValueError: a setting is wrong.
    """

    metrics: Mapping[str, Metric] = {
        "mae": Metric(False, 0.0),
        "accuracy": Metric(True, 1.0),
        "quadratic_kappa": Metric(True, 1.0),
    }
    likelihood = "classification"
    initial_loss = math.log(2)  # every P(y > k) is one half

    def __init__(
        self, *, name: str, classes: int, class_names: Sequence[str] | None = None
    ) -> None:
        super().__init__(name=name)
        if classes < 2:
            raise ValueError(f"classes={classes}: an ordinal task needs at least 2 classes")
        self.classes = classes
        self.output_size = classes - 1
        self.class_names = names_or_numbers("class_names", class_names, classes, "classes")

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean over labelled rows and thresholds of the cross-entropies, in float32 or better.

        Args:
            prediction: logits of P(y > k), [N, classes - 1].
            target: int64 [N], -1 where missing.
        """
        logits = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        known = self.labelled(target)
        # Row y of the table holds the answers to y > k; a label beyond it is an IndexError.
        table = torch.ones(self.classes, self.output_size, dtype=logits.dtype, device=logits.device)
        above = F.embedding(torch.where(known, target, 0), table.tril(-1))
        return _mean_error(logits, above, known)

    def soft_targets(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """Mean P(y > k), [N, classes - 1]. See :meth:`Task.soft_targets`."""
        return mean_of_sigmoid(predictions, temperature)

    def soft_loss(
        self, prediction: Tensor, soft: Tensor, target: Tensor, temperature: float
    ) -> Tensor:
        """See :meth:`Task.soft_loss`."""
        logits = precise(prediction) / temperature
        return temperature**2 * _mean_error(logits, soft, self.labelled(target))

    def labelled(self, target: Tensor) -> Tensor:
        """See :meth:`Task.labelled`."""
        return target != MISSING

    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """The confusion matrix, int64 [classes (true), classes (predicted)].

        Args:
            prediction: logits of P(y > k), [N, classes - 1].
            target: int64 [N], -1 where missing.
        """
        predicted = (prediction > 0).sum(1, keepdim=True)
        nearness = -(predicted - torch.arange(self.classes, device=predicted.device)).abs()
        return {"confusion": confusion_matrix(nearness, target, self.labelled(target))}

    def compute(self, statistics: Statistics) -> dict[str, float]:
        """See :meth:`Task.compute`."""
        confusion = statistics["confusion"].double()
        number = torch.arange(self.classes, dtype=torch.float64)
        distance = (number.unsqueeze(1) - number).abs()  # [classes, classes]
        total = confusion.sum()
        by_chance = confusion.sum(1, keepdim=True) * confusion.sum(0) / total
        disagreement = (distance.square() * confusion).sum()
        kappa = 1 - disagreement / (distance.square() * by_chance).sum()
        return {
            "mae": ((distance * confusion).sum() / total).item(),
            "accuracy": (confusion.diagonal().sum() / total).item(),
            "quadratic_kappa": kappa.item(),
        }


def _mean_error(logits: Tensor, above: Tensor, known: Tensor) -> Tensor:
    """Mean over known rows [N] and thresholds of the cross-entropies, [N, classes - 1]."""
    errors = F.binary_cross_entropy_with_logits(logits, above, reduction="none")
    return masked_mean(errors, known.unsqueeze(1).expand_as(errors))
