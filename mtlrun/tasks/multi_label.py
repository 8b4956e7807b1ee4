"""Several labels for each row, each of which holds or not."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from mtlrun.tasks.base import Metric, Statistics
from mtlrun.tasks.names import names_or_numbers
from mtlrun.tasks.ranking import roc_auc
from mtlrun.tasks.zero_one import ZeroOne, f1_parts


class MultiLabel(ZeroOne):
    """For each row which of several labels hold, by a logit each, trained by binary cross-entropy.

    Targets are float [N, labels], 0 or 1, or NaN where it is not known whether a label holds.

    Metrics, where a label is given for a logit above 0, over known entries: ``f1_micro``, of the
    entries of all labels counted together; ``f1_macro``, the mean over the labels that hold or are
    given at least once; ``auc_macro``, the mean over labels of the exact area under the ROC curve,
    where a label both holds and does not; ``exact_match``, the share of rows all of whose known
    entries are right.

    The headline is ``f1_micro``, or ``auc_macro`` where labels are rare (or nearly always hold), a
    share below a fifth of the training entries: there a network has no label above the threshold
    for long, and an F1 score of 0, though it has learnt to rank.

    Args:
        name: the task's name.
        labels: number of labels, at least 1.
        label_names: their names, for reports; None numbers them.
        positive_share: share of 1 among the training split's known entries; None where not known.
        headline: the first metric: ``f1_micro``, ``auc_macro``, or ``auto`` as above.

    Raises:
        ValueError: a setting is wrong.
    """

    metrics: Mapping[str, Metric] = {
        "f1_micro": Metric(True, 1.0),
        "f1_macro": Metric(True, 1.0),
        "auc_macro": Metric(True, 1.0),
        "exact_match": Metric(True, 1.0),
    }

    def __init__(
        self,
        *,
        name: str,
        labels: int,
        label_names: Sequence[str] | None = None,
        positive_share: float | None = None,
        headline: Literal["auto", "f1_micro", "auc_macro"] = "auto",
    ) -> None:
        if labels < 1:
            raise ValueError(f"labels={labels}: needs at least 1 label")
        super().__init__(
            name=name,
            outputs=labels,
            positive_weight=None,
            positive_share=positive_share,
            headline=headline,
            plain="f1_micro",
            ranking="auc_macro",
        )
        self.label_names = names_or_numbers("label_names", label_names, labels, "labels")

    def compute(self, statistics: Statistics) -> dict[str, float]:
        """See :meth:`Task.compute`."""
        scores, known, positive = self.gathered(statistics)
        predicted = known & (scores > 0)
        twice_hits, occurrences = f1_parts(predicted, positive)
        wrong = (predicted != positive).any(1)
        figures = {
            "f1_micro": (twice_hits.sum() / occurrences.sum()).item(),
            "f1_macro": (twice_hits / occurrences)[occurrences > 0].mean().item(),
            "auc_macro": _mean_auc(scores, known, positive),
            "exact_match": (~wrong[known.any(1)]).double().mean().item(),
        }
        return {metric: figures[metric] for metric in self.metrics}


def _mean_auc(scores: Tensor, known: Tensor, positive: Tensor) -> float:
    """Mean over the columns with both classes of the area under the ROC curve; NaN for none."""
    areas = []
    for column in range(scores.shape[1]):
        rows = known[:, column]
        labels = positive[rows, column]
        if labels.any() and not labels.all():
            areas.append(roc_auc(scores[rows, column], labels))
    return sum(areas) / len(areas) if areas else math.nan
