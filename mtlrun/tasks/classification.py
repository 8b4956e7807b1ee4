"""One class for each row."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.tasks.base import Metric, Statistics, Task
from mtlrun.tasks.confusion import confusion_matrix
from mtlrun.tasks.soft_targets import mean_of_softmax, soft_cross_entropy

MISSING = -1


class Classification(Task):
    """One of several classes for each row, trained by cross-entropy.

    Targets are int64 [N], 0 to ``classes - 1``, or -1 where the label is missing.

    Metrics: ``accuracy``; ``f1_macro``, the mean F1 score over the classes that occur among the
    labels or the predictions (scikit-learn's ``f1_score(average="macro")``).

    Args:
        name: the task's name.
        classes: number of classes, at least 2.
        class_names: their names, for reports; None numbers them.
    """

    metrics: Mapping[str, Metric] = {"accuracy": Metric(True, 1.0), "f1_macro": Metric(True, 1.0)}
    likelihood = "classification"

    def __init__(
        self, *, name: str, classes: int, class_names: Sequence[str] | None = None
    ) -> None:
        super().__init__(name=name)
        if classes < 2:
            raise ValueError(f"classes={classes}: a classification needs at least 2 classes")
        if class_names is not None and len(class_names) != classes:
            raise ValueError(
                f"class_names={list(class_names)}: needs one name for each of {classes} classes"
            )
        self.output_size = classes
        self.initial_loss = math.log(classes)
        self.class_names = tuple(
            class_names if class_names is not None else map(str, range(classes))
        )

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, the mean over labelled rows, in float32 or better.

        Args:
            prediction: logits [N, classes].
            target: int64 [N], -1 where missing.
        """
        logits = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        total = F.cross_entropy(logits, target, ignore_index=MISSING, reduction="sum")
        return total / self.labelled(target).sum().clamp(min=1)

    def soft_targets(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """Mean probabilities, [N, classes]. See :meth:`Task.soft_targets`."""
        return mean_of_softmax(predictions, temperature, 1)

    def soft_loss(
        self, prediction: Tensor, soft: Tensor, target: Tensor, temperature: float
    ) -> Tensor:
        """See :meth:`Task.soft_loss`."""
        return soft_cross_entropy(prediction, soft, self.labelled(target), temperature, 1)

    def labelled(self, target: Tensor) -> Tensor:
        """See :meth:`Task.labelled`."""
        return target != MISSING

    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """The confusion matrix, int64 [classes (true), classes (predicted)].

        Args:
            prediction: logits [N, classes].
            target: int64 [N], -1 where missing.
        """
        return {"confusion": confusion_matrix(prediction, target, self.labelled(target))}

    def compute(self, statistics: Statistics) -> dict[str, float]:
        """See :meth:`Task.compute`."""
        confusion = statistics["confusion"].double()
        correct = confusion.diagonal()
        # A class's F1 is twice the hits over the times it is the label or the prediction.
        occurrences = confusion.sum(0) + confusion.sum(1)
        f1 = (2 * correct / occurrences)[occurrences > 0]
        return {
            "accuracy": (correct.sum() / confusion.sum()).item(),
            "f1_macro": f1.mean().item(),
        }
