"""Yes or no for each row."""

from collections.abc import Mapping, Sequence
from typing import Literal

from mtlrun.tasks.base import Metric, Statistics
from mtlrun.tasks.names import names_or_numbers
from mtlrun.tasks.ranking import average_precision, roc_auc
from mtlrun.tasks.zero_one import ZeroOne, f1_parts


class Binary(ZeroOne):
    """One of two classes for each row, by one logit, trained by binary cross-entropy.

    Targets are float32 [N], 0 or 1, or NaN where the label is missing.

    Metrics: ``accuracy``, where the answer is 1 for a logit above 0; ``auc``, the exact area under
    the ROC curve, ties counted half (NaN where one class is absent); ``average_precision``, exact
    and not interpolated (NaN where there is no positive; both are scikit-learn's); ``f1`` of class
    1 (NaN where it occurs neither among the labels nor among the answers).

    The headline is ``accuracy``, or ``auc`` where one class is rare, below a fifth of the training
    labels: there a network that always gives the other class has a high accuracy.

    Args:
        name: the task's name.
        class_names: the names of classes 0 and 1, for reports; None numbers them.
        positive_share: share of class 1 among the training split's labels; None where not known.
        headline: the first metric: ``accuracy``, ``auc``, or ``auto`` as above.
        positive_weight: of class 1 in the loss, class 0 weighing 1; None weighs both alike.

    Raises:
        ValueError: a setting is wrong.
    """

    metrics: Mapping[str, Metric] = {
        "accuracy": Metric(True, 1.0),
        "auc": Metric(True, 1.0),
        "average_precision": Metric(True, 1.0),
        "f1": Metric(True, 1.0),
    }

    def __init__(
        self,
        *,
        name: str,
        class_names: Sequence[str] | None = None,
        positive_share: float | None = None,
        headline: Literal["auto", "accuracy", "auc"] = "auto",
        positive_weight: float | None = None,
    ) -> None:
        super().__init__(
            name=name,
            outputs=1,
            positive_weight=positive_weight,
            positive_share=positive_share,
            headline=headline,
            plain="accuracy",
            ranking="auc",
        )
        self.class_names = names_or_numbers("class_names", class_names, 2, "classes")

    def compute(self, statistics: Statistics) -> dict[str, float]:
        """See :meth:`Task.compute`."""
        scores, known, positive = self.gathered(statistics)
        scores, positive = scores[known], positive[known]  # [labelled rows]
        predicted = scores > 0
        twice_hits, occurrences = f1_parts(predicted, positive)
        figures = {
            "accuracy": (predicted == positive).double().mean().item(),
            "auc": roc_auc(scores, positive),
            "average_precision": average_precision(scores, positive),
            "f1": (twice_hits / occurrences).item(),
        }
        return {metric: figures[metric] for metric in self.metrics}
