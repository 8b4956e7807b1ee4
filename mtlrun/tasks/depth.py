"""The distance of each pixel."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.tasks.base import Metric, Statistics, Task, masked_mean
from mtlrun.tasks.soft_targets import mean, precise

FARTHEST_SHOWN = 10.0
"""Metres at and beyond which pictures no longer tell distances apart: the reach of a Kinect."""

# Viridis at five even steps (van der Walt and Smith 2015): even steps in distance look even, in
# black and white print too. In between, a straight line is close enough to it.
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


class Depth(Task):
    """The distance along the camera's axis for each pixel, trained by its absolute error.

    Targets are float [N, H, W], in metres or another unit (inverse depth); a pixel that is not
    above 0 or not finite has no label.

    Metrics, over all labelled pixels of a split: ``absolute_error``, the mean of ``|p - t|`` in
    metres; ``relative_error``, the mean of ``|p - t| / t``; ``rmse``, the square root of the mean
    of ``(p - t)^2``, in metres (Eigen et al., NeurIPS 2014). Much code of the field takes the mean
    of batch means instead, which depends on the batch size.

    Args:
        name: the task's name.
        farthest_shown: distance at and beyond which pictures no longer tell distances apart.
    """

    metrics: Mapping[str, Metric] = {
        "absolute_error": Metric(False, 0.0),
        "relative_error": Metric(False, 0.0),
        "rmse": Metric(False, 0.0),
    }
    per = "pixel"
    likelihood = "laplace"

    def __init__(self, *, name: str, farthest_shown: float = FARTHEST_SHOWN) -> None:
        super().__init__(name=name)
        if not farthest_shown > 0:
            raise ValueError(f"farthest_shown={farthest_shown}: must be above 0")
        self.output_size = 1
        self.farthest_shown = farthest_shown

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Absolute error, the mean over labelled pixels.

        Args:
            prediction: metres [N, 1, H, W].
            target: metres [N, H, W].
        """
        metres, known = known_depth(target)
        # The target is float32, and so is the difference at least, under mixed precision too.
        return masked_mean((prediction.squeeze(1) - metres).abs(), known)

    def soft_targets(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """The mean, in metres, [N, H, W]. See :meth:`Task.soft_targets`."""
        del temperature
        return mean([precise(prediction).squeeze(1) for prediction in predictions])

    def soft_loss(
        self, prediction: Tensor, soft: Tensor, target: Tensor, temperature: float
    ) -> Tensor:
        """See :meth:`Task.soft_loss`."""
        del temperature
        _, known = known_depth(target)  # what the others say may be at the camera, or behind it
        return masked_mean((prediction.squeeze(1) - soft).abs(), known)

    def labelled(self, target: Tensor) -> Tensor:
        """See :meth:`Task.labelled`."""
        return known_depth(target)[1].flatten(1).any(1)

    def elements(self, target: Tensor) -> Tensor:
        """Labelled pixels. See :meth:`Task.elements`."""
        return known_depth(target)[1].sum()

    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """The number of labelled pixels, int64, and sums of their errors, float64, all scalars.

        Args:
            prediction: metres [N, 1, H, W].
            target: metres [N, H, W].
        """
        metres, known = known_depth(target)
        errors = torch.where(known, (prediction.squeeze(1).double() - metres).abs(), 0.0)
        return {
            "count": known.sum(),
            "absolute_error": errors.sum(),
            "relative_error": (errors / torch.where(known, metres, 1.0)).sum(),
            "squared_error": errors.square().sum(),
        }

    def compute(self, statistics: Statistics) -> dict[str, float]:
        """See :meth:`Task.compute`."""
        count = statistics["count"].double()
        return {
            "absolute_error": (statistics["absolute_error"] / count).item(),
            "relative_error": (statistics["relative_error"] / count).item(),
            "rmse": (statistics["squared_error"] / count).sqrt().item(),
        }

    def picture(self, values: Tensor) -> Tensor:
        """Near is bright yellow, ``farthest_shown`` and beyond dark violet, no label black.

        Args:
            values: targets [N, H, W] or predictions [N, 1, H, W], in metres.

        Returns:
            uint8 [N, 3, H, W].
        """
        if values.dim() == 4:  # a prediction is somewhere, if only at the camera
            metres = values.squeeze(1).float().clamp(min=0)
            known = ~metres.isnan()
        else:
            metres, known = known_depth(values)
        colours = torch.tensor(VIRIDIS[::-1], dtype=torch.float32, device=values.device)
        share = torch.where(known, metres / self.farthest_shown, 0).clamp(max=1)
        place = share * (len(VIRIDIS) - 1)
        below = place.long().clamp(max=len(VIRIDIS) - 2)
        mixed = torch.lerp(colours[below], colours[below + 1], (place - below).unsqueeze(-1))
        return (mixed * known.unsqueeze(-1)).round().to(torch.uint8).permute(0, 3, 1, 2)


def known_depth(target: Tensor) -> tuple[Tensor, Tensor]:
    """Depth as float32 with 0 where there is no label, and where there is one, both [N, H, W]."""
    metres = target.float()
    known = metres.isfinite() & (metres > 0)
    # NaN must not enter the loss at all: its gradient is NaN even where it is masked out.
    return torch.where(known, metres, 0.0), known
