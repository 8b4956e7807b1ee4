"""The direction in which the surface at each pixel faces."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.tasks.base import Metric, Statistics, Task, masked_mean
from mtlrun.tasks.soft_targets import mean

BIN_DEGREES = 0.01
BINS = round(180 / BIN_DEGREES)
THRESHOLDS = (11.25, 22.5, 30.0)
SHORTEST = 1e-6
"""Length below which a prediction is no longer stretched to 1, which keeps its gradient finite."""


class SurfaceNormals(Task):
    """The unit vector at right angles to the surface for each pixel, trained by 1 - cosine.

    Targets are float [N, 3, H, W]; a pixel whose vector is 0, or has a NaN or infinite component,
    has no label. Neither targets nor predictions need have length 1. The axes are the dataset's.

    Metrics, over all labelled pixels of a split, of the angle between prediction and target in
    degrees: ``mean_angle``; ``median_angle``; ``within_11.25``, ``within_22.5``, ``within_30``: the
    shares below these angles, 0 to 1 (Fouhey et al., ICCV 2013). The median is read from a
    histogram with bins of 0.01 degrees, even inside a bin, so that no prediction has to be kept: it
    is within 0.01 degrees of the median of the angles.

    Args:
        name: the task's name.
    """

    metrics: Mapping[str, Metric] = {
        "mean_angle": Metric(False, 0.0),
        "median_angle": Metric(False, 0.0),
        "within_11.25": Metric(True, 1.0),
        "within_22.5": Metric(True, 1.0),
        "within_30": Metric(True, 1.0),
    }
    per = "pixel"
    likelihood = "laplace"

    def __init__(self, *, name: str) -> None:
        super().__init__(name=name)
        self.output_size = 3

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """1 - cosine of the angle, the mean over labelled pixels.

        Args:
            prediction: [N, 3, H, W], of any length.
            target: [N, 3, H, W].
        """
        normals, known = known_normals(target)
        return masked_mean(1 - (unit(prediction) * normals).sum(1), known)

    def soft_targets(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """The mean of the unit vectors, [N, 3, H, W]. See :meth:`Task.soft_targets`."""
        del temperature
        return mean([unit(prediction) for prediction in predictions])

    def soft_loss(
        self, prediction: Tensor, soft: Tensor, target: Tensor, temperature: float
    ) -> Tensor:
        """See :meth:`Task.soft_loss`."""
        del temperature
        _, known = known_normals(target)
        return masked_mean(1 - (unit(prediction) * unit(soft)).sum(1), known)

    def labelled(self, target: Tensor) -> Tensor:
        """See :meth:`Task.labelled`."""
        return known_normals(target)[1].flatten(1).any(1)

    def elements(self, target: Tensor) -> Tensor:
        """Labelled pixels. See :meth:`Task.elements`."""
        return known_normals(target)[1].sum()

    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """``angle``, the sum of angles in degrees, float64 scalar; ``within``, counts below each
        threshold, int64 [3]; ``histogram`` of the angles, int64 [18000].

        Args:
            prediction: [N, 3, H, W], of any length.
            target: [N, 3, H, W].
        """
        normals, known = known_normals(target)
        degrees = angles(unit(prediction), normals)
        place = (degrees / BIN_DEGREES).long().clamp(max=BINS - 1)
        # Pixels without a label fall into one bin more, which is cut off.
        place = torch.where(known, place, BINS).flatten()
        histogram = torch.zeros(BINS + 1, dtype=torch.int64, device=place.device)
        histogram.scatter_add_(0, place, torch.ones_like(place))
        return {
            "angle": torch.where(known, degrees.double(), 0.0).sum(),
            "within": torch.stack([((degrees < limit) & known).sum() for limit in THRESHOLDS]),
            "histogram": histogram[:-1],
        }

    def compute(self, statistics: Statistics) -> dict[str, float]:
        """See :meth:`Task.compute`."""
        count = statistics["histogram"].sum().double()
        shares = statistics["within"].double() / count
        return {
            "mean_angle": (statistics["angle"] / count).item(),
            "median_angle": histogram_median(statistics["histogram"].cpu()),
            **{f"within_{t:g}": share.item() for t, share in zip(THRESHOLDS, shares, strict=True)},
        }

    def picture(self, values: Tensor) -> Tensor:
        """Each axis as a colour, from -1 (0) to 1 (255); no label is black.

        Args:
            values: targets or predictions, [N, 3, H, W].

        Returns:
            uint8 [N, 3, H, W].
        """
        normals, known = known_normals(values)
        return ((normals + 1) * 127.5 * known.unsqueeze(1)).round().to(torch.uint8)


def unit(vectors: Tensor) -> Tensor:
    """Vectors [N, 3, H, W] at length 1, in float32 or better; those near 0 stay short."""
    precise = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return F.normalize(precise, dim=1, eps=SHORTEST)


def known_normals(target: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals [N, 3, H, W], 0 where there is no label, and where there is one [N, H, W]."""
    vectors = target.float()
    known = vectors.isfinite().all(1) & (vectors != 0).any(1)
    return F.normalize(torch.where(known.unsqueeze(1), vectors, 0.0), dim=1), known


def angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles in degrees between vectors [N, 3, H, W]: [N, H, W]; 0 where one is 0.

    By the arc tangent, which is exact for small angles as well, where the arc cosine is not.
    """
    sine = torch.linalg.vector_norm(torch.linalg.cross(first, second, dim=1), dim=1)
    cosine = (first * second).sum(1)
    return torch.atan2(sine, cosine) * (180 / math.pi)


def histogram_median(histogram: Tensor) -> float:
    """The median of angles that were counted in bins, int64 [bins] on the CPU; NaN for none.

    The mean of the two middle angles (the same one twice for an odd number), each taken to lie
    where it would if the angles of its bin were spread evenly: within one bin of the exact median.
    """
    cumulative = histogram.cumsum(0)
    count = int(cumulative[-1])
    if count == 0:
        return math.nan
    middle = torch.tensor([(count - 1) // 2, count // 2])  # ranks, counted from 0
    place = torch.searchsorted(cumulative, middle, right=True)
    inside = histogram[place]
    below = cumulative[place] - inside
    return ((place + (middle - below + 0.5) / inside) * BIN_DEGREES).mean().item()
