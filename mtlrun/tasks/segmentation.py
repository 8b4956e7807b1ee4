"""One class for each pixel."""

import colorsys
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.tasks.base import Metric, Statistics, Task
from mtlrun.tasks.confusion import confusion_matrix
from mtlrun.tasks.soft_targets import mean_of_softmax, soft_cross_entropy

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class Segmentation(Task):
    """One of several classes for each pixel, trained by cross-entropy.

    Targets are uint8 or int64 [N, H, W], 0 to ``classes - 1``, or ``ignore_index`` where a pixel
    has no label (void).

    Metrics, over all labelled pixels of a split, from one confusion matrix: ``mean_iou``, the mean
    over classes of the intersection over union (Everingham et al., IJCV 2010, with all images
    counted together); ``pixel_accuracy``, the share of pixels that are right. A class that occurs
    neither among the labels nor among the predictions has no intersection over union and is left
    out of the mean; one that occurs among the predictions only counts as 0. Where every class
    occurs among the labels, as in NYUv2's test split, this is what MTAN and LibMTL compute (for an
    absent class they give NaN); torchmetrics' macro Jaccard index agrees in every case.

    Args:
        name: the task's name.
        classes: number of classes, at least 2.
        class_names: their names, for reports; None numbers them.
        ignore_index: what marks a pixel without a label; not the number of a class.
    """

    metrics: Mapping[str, Metric] = {
        "mean_iou": Metric(True, 1.0),
        "pixel_accuracy": Metric(True, 1.0),
    }
    per = "pixel"
    likelihood = "classification"

    def __init__(
        self,
        *,
        name: str,
        classes: int,
        class_names: Sequence[str] | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(name=name)
        if classes < 2:
            raise ValueError(f"classes={classes}: a segmentation needs at least 2 classes")
        if class_names is not None and len(class_names) != classes:
            raise ValueError(
                f"class_names={list(class_names)}: needs one name for each of {classes} classes"
            )
        if 0 <= ignore_index < classes:
            raise ValueError(f"ignore_index={ignore_index} is one of the {classes} classes")
        self.output_size = classes
        self.initial_loss = math.log(classes)
        self.class_names = tuple(
            class_names if class_names is not None else map(str, range(classes))
        )
        self.ignore_index = ignore_index
        self.colours = class_colours(classes)  # [classes + 1, 3], the last for void

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, the mean over labelled pixels, in float32 or better.

        Args:
            prediction: logits [N, classes, H, W].
            target: [N, H, W].
        """
        logits = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        total = F.cross_entropy(
            logits, target.long(), ignore_index=self.ignore_index, reduction="sum"
        )
        return total / (target != self.ignore_index).sum().clamp(min=1)

    def soft_targets(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """Mean probabilities, [N, classes, H, W]. See :meth:`Task.soft_targets`."""
        return mean_of_softmax(predictions, temperature, 1)

    def soft_loss(
        self, prediction: Tensor, soft: Tensor, target: Tensor, temperature: float
    ) -> Tensor:
        """See :meth:`Task.soft_loss`."""
        known = target != self.ignore_index
        return soft_cross_entropy(prediction, soft, known, temperature, 1)

    def labelled(self, target: Tensor) -> Tensor:
        """See :meth:`Task.labelled`."""
        return (target != self.ignore_index).flatten(1).any(1)

    def elements(self, target: Tensor) -> Tensor:
        """Labelled pixels. See :meth:`Task.elements`."""
        return (target != self.ignore_index).sum()

    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """The confusion matrix, int64 [classes (true), classes (predicted)].

        Args:
            prediction: logits [N, classes, H, W].
            target: [N, H, W].
        """
        labelled = target != self.ignore_index
        return {"confusion": confusion_matrix(prediction, target.long(), labelled)}

    def compute(self, statistics: Statistics) -> dict[str, float]:
        """See :meth:`Task.compute`."""
        confusion = statistics["confusion"].double()
        correct = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - correct
        return {
            "mean_iou": (correct / union)[union > 0].mean().item(),
            "pixel_accuracy": (correct.sum() / confusion.sum()).item(),
        }

    def picture(self, values: Tensor) -> Tensor:
        """A colour for each class, black for void.

        Args:
            values: targets [N, H, W] or logits [N, classes, H, W].

        Returns:
            uint8 [N, 3, H, W].
        """
        classes = values.argmax(1) if values.dim() == 4 else values.long()
        classes = torch.where(classes == self.ignore_index, self.output_size, classes)
        return self.colours.to(values.device)[classes].permute(0, 3, 1, 2)


def class_colours(classes: int) -> Tensor:
    """Colours that tell classes apart, the same in every run: uint8 [classes + 1, 3], then black.

    Hues a golden angle apart, so that neighbours in number are far apart in hue, at three levels of
    brightness in turn.
    """
    colours = [
        colorsys.hsv_to_rgb(
            index * GOLDEN_RATIO % 1, (0.9, 0.55, 0.75)[index % 3], (0.95, 1.0, 0.6)[index % 3]
        )
        for index in range(classes)
    ]
    return (torch.tensor([*colours, (0.0, 0.0, 0.0)]) * 255).round().to(torch.uint8)
