"""One class for each token."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.tasks.base import Metric, Statistics, Task
from mtlrun.tasks.confusion import confusion_matrix
from mtlrun.tasks.constants import Constants
from mtlrun.tasks.names import names_or_numbers
from mtlrun.tasks.soft_targets import mean_of_softmax, soft_cross_entropy
from mtlrun.tasks.spans import Spans, Tags, bio_tags, count_by_type, matches, spans

MISSING = -1
Scheme = Literal["auto", "bio", "none"]


class Tagging(Task):
    """One of several classes for each token of a text, trained by cross-entropy.

    Targets are int64 [N, L], L as long as the batch's inputs: 0 to ``classes - 1``, or -1 where a
    row is padded or the label is missing.

    Where the classes are BIO tags (``B-x`` begins an entity of type x, ``I-x`` goes on with it,
    ``O`` is outside; Ramshaw and Marcus 1995), the metrics are those of the CoNLL-2000 shared task
    (Tjong Kim Sang and Buchholz), as shares, not in percent: ``f1``, ``precision`` and ``recall``
    of entities, of all types counted together, an entity being right where its type and both its
    ends are; and ``accuracy`` over tokens. An I without its B starts an entity, in labels and
    answers alike. A token without a label belongs to no entity, whatever is predicted for it. What
    there is none of counts as 0, and where there is neither an entity among the labels nor among
    the answers the three are NaN.

    For other classes (parts of speech) they are ``accuracy`` over tokens and ``f1_macro``, as for
    :class:`~mtlrun.tasks.classification.Classification`.

    Args:
        name: the task's name.
        classes: number of classes, at least 2.
        class_names: their names; None numbers them.
        scheme: ``bio``, ``none``, or ``auto``: ``bio`` where all names are such tags, ``none``
            where none begins like one, and an error in between (BIOES tags are not supported).

    Raises:
        ValueError: a setting is wrong, or names that should be BIO tags are not.
    """

    metrics: Mapping[str, Metric] = {
        "f1": Metric(True, 1.0),
        "precision": Metric(True, 1.0),
        "recall": Metric(True, 1.0),
        "accuracy": Metric(True, 1.0),
    }
    per = "token"
    likelihood = "classification"

    def __init__(
        self,
        *,
        name: str,
        classes: int,
        class_names: Sequence[str] | None = None,
        scheme: Scheme = "auto",
    ) -> None:
        super().__init__(name=name)
        if classes < 2:
            raise ValueError(f"classes={classes}: tagging needs at least 2 classes")
        self.output_size = classes
        self.initial_loss = math.log(classes)
        self.class_names = names_or_numbers("class_names", class_names, classes, "classes")
        self.tags = _tags(scheme, self.class_names)
        if self.tags is None:
            # The base declares them for the class, and here the classes decide which there are.
            self.metrics = {"accuracy": Metric(True, 1.0), "f1_macro": Metric(True, 1.0)}
        else:
            self._begins = Constants(self.tags.begins, torch.bool)
            self._type_of = Constants(self.tags.type_of, torch.int64)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, the mean over labelled tokens, in float32 or better.

        Args:
            prediction: logits [N, L, classes].
            target: int64 [N, L], -1 where padded or missing.
        """
        self._expect_tokens(prediction, target)
        logits = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        total = F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=MISSING, reduction="sum"
        )
        return total / (target != MISSING).sum().clamp(min=1)

    def soft_targets(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """Mean probabilities, [N, L, classes]. See :meth:`Task.soft_targets`."""
        return mean_of_softmax(predictions, temperature, 2)

    def soft_loss(
        self, prediction: Tensor, soft: Tensor, target: Tensor, temperature: float
    ) -> Tensor:
        """See :meth:`Task.soft_loss`."""
        self._expect_tokens(prediction, target)
        return soft_cross_entropy(prediction, soft, target != MISSING, temperature, 2)

    def labelled(self, target: Tensor) -> Tensor:
        """See :meth:`Task.labelled`."""
        return (target != MISSING).any(1)

    def elements(self, target: Tensor) -> Tensor:
        """Labelled tokens. See :meth:`Task.elements`."""
        return (target != MISSING).sum()

    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """The confusion matrix of tokens, int64 [classes (true), classes (predicted)]; and for BIO
        tags the numbers of spans that are ``true``, ``predicted`` and both, ``correct``: int64
        [types] each.

        Args:
            prediction: logits [N, L, classes].
            target: int64 [N, L], -1 where padded or missing.
        """
        self._expect_tokens(prediction, target)
        here = target != MISSING
        confusion = confusion_matrix(prediction.flatten(0, 1), target.flatten(), here.flatten())
        if self.tags is None:
            return {"confusion": confusion}
        types = len(self.tags.types)
        true = self._spans(target, here)
        predicted = self._spans(prediction.argmax(2), here)
        return {
            "confusion": confusion,
            "true": count_by_type(true.starts, true.type, types),
            "predicted": count_by_type(predicted.starts, predicted.type, types),
            "correct": count_by_type(matches(true, predicted), true.type, types),
        }

    def compute(self, statistics: Statistics) -> dict[str, float]:
        """See :meth:`Task.compute`."""
        confusion = statistics["confusion"].double()
        hits = confusion.diagonal()
        accuracy = (hits.sum() / confusion.sum()).item()
        if self.tags is None:
            occurrences = confusion.sum(0) + confusion.sum(1)
            f1 = (2 * hits / occurrences)[occurrences > 0]
            return {"accuracy": accuracy, "f1_macro": f1.mean().item()}
        true, predicted, correct = (
            int(statistics[key].sum()) for key in ("true", "predicted", "correct")
        )
        if true + predicted == 0:
            return {**dict.fromkeys(self.metrics, math.nan), "accuracy": accuracy}
        return {
            "f1": 2 * correct / (true + predicted),
            "precision": correct / max(predicted, 1),
            "recall": correct / max(true, 1),
            "accuracy": accuracy,
        }

    def _spans(self, classes: Tensor, here: Tensor) -> Spans:
        """Spans of classes [N, L]; what is not ``here`` is outside of all."""
        known = torch.where(here, classes, 0)
        type_of, begins = self._type_of.on(classes.device), self._begins.on(classes.device)
        return spans(torch.where(here, type_of[known], -1), begins[known])

    def _expect_tokens(self, prediction: Tensor, target: Tensor) -> None:
        if prediction.shape[:2] != target.shape:
            raise ValueError(
                f"{self.name}: predictions of shape {list(prediction.shape)} and targets of shape "
                f"{list(target.shape)} do not match: there must be one label for each token"
            )


def _tags(scheme: str, class_names: Sequence[str]) -> Tags | None:
    """The classes as BIO tags; None where the scheme says, or ``auto`` finds, that they are not."""
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme={scheme!r}: choose one of {', '.join(get_args(Scheme))}")
    if scheme == "none":
        return None
    try:
        return bio_tags(class_names)
    except ValueError as error:
        if scheme == "bio":
            raise ValueError(f"scheme=bio: {error}") from error
        if any(name.startswith(("B-", "I-")) for name in class_names):
            raise ValueError(
                f"Some classes look like BIO tags, and {error}. Rename it, or set scheme=none for "
                "metrics of tokens instead of entities"
            ) from error
        return None
