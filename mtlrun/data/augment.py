"""Augmentation of whole batches on the device: random scale-crop and flip, for images and dense
targets alike.

What is drawn is a few numbers a row, on the CPU: a GPU run sees the same crops as a CPU run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Crops:
    """For each row of a batch the part of it that is stretched to the whole frame. On the CPU.

    Attributes:
        top: first row of the crop, int64 [N].
        left: first column, int64 [N].
        height: rows of the crop, int64 [N].
        width: columns, int64 [N].
        flip: whether left and right are swapped after cropping, bool [N].
        scale: by how much the crop is magnified, float32 [N].
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    scale: Tensor


def draw_crops(
    rows: int, size: tuple[int, int], scales: Sequence[float], draws: torch.Generator
) -> Crops:
    """Draw a scale, a place and whether to flip (with probability 1/2) for each row.

    Args:
        rows: N.
        size: (H, W) of the frames.
        scales: what to choose from, each at least 1; each is as likely as the others.
        draws: generator on the CPU.
    """
    height, width = size
    chosen = torch.randint(len(scales), (rows,), generator=draws)
    place = torch.rand((2, rows), generator=draws, dtype=torch.float64)
    flip = torch.rand(rows, generator=draws) < 0.5
    # A hair above, so that 120 / 1.2 is 100 whatever its rounding.
    heights = torch.tensor([int(height / scale + 1e-6) for scale in scales])[chosen]
    widths = torch.tensor([int(width / scale + 1e-6) for scale in scales])[chosen]
    return Crops(
        top=(place[0] * (height - heights + 1)).long(),
        left=(place[1] * (width - widths + 1)).long(),
        height=heights,
        width=widths,
        flip=flip,
        scale=torch.tensor(scales, dtype=torch.float32)[chosen],
    )


class Resampler:
    """Applies one set of crops to any number of batches of maps of one size.

    Args:
        crops: one a row.
        size: (H, W) of the maps, before and after.
        device: of the maps.

    Attributes:
        scale: see :class:`Crops`; on the device, [N, 1, 1].
        sign: -1 where a row is flipped, else 1: for what points to the left or right. On the
            device, float32 [N, 1, 1].
    """

    def __init__(self, crops: Crops, size: tuple[int, int], device: torch.device) -> None:
        self.size = size
        # One copy to the device for all of it; every number here is exact in float32.
        packed = torch.stack(
            [
                crops.top.float(),
                crops.left.float(),
                crops.height.float(),
                crops.width.float(),
                1 - 2 * crops.flip.float(),
                crops.scale,
            ]
        )
        if device.type == "cuda":  # from pinned memory the copy makes nobody wait
            packed = packed.pin_memory().to(device, non_blocking=True)
        corner, extent = packed[0:2].long().unsqueeze(2), packed[2:4].long().unsqueeze(2)
        self.sign, self.scale = packed[4].view(-1, 1, 1), packed[5].view(-1, 1, 1)

        # Twice a pixel's middle is the odd number 2 i + 1 here, so that places are whole numbers.
        height, width = size
        row = torch.arange(height, device=device).mul_(2).add_(1).unsqueeze(0)  # [1, H]
        column = torch.arange(width, device=device).mul_(2).add_(1).unsqueeze(0)
        column = torch.where(self.sign.view(-1, 1) < 0, 2 * width - column, column)  # [N, W]
        # For each axis: where the crop starts, how far along it a pixel lies, and in what units.
        self._row = (corner[0], row * extent[0], 2 * height)
        self._column = (corner[1], column * extent[1], 2 * width)

    def nearest(self, maps: Tensor) -> Tensor:
        """Each pixel as its nearest neighbour was.

        Args:
            maps: [N, H, W] or [N, C, H, W], any type.
        """
        flat, places = maps.flatten(-2), self._places
        if flat.dim() == 3:
            places = places.unsqueeze(1).expand(-1, flat.shape[1], -1)
        return flat.gather(-1, places).view(maps.shape)

    def bilinear(self, images: Tensor) -> Tensor:
        """Each pixel between its four neighbours, float32.

        Args:
            images: [N, C, H, W], any type.
        """
        height, width = self.size
        y = self._along(self._row, height)  # [N, H]
        x = self._along(self._column, width)  # [N, W]
        grid = torch.stack(
            (x.unsqueeze(1).expand(-1, height, -1), y.unsqueeze(2).expand(-1, -1, width)), dim=3
        )
        return F.grid_sample(
            images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
        )

    @cached_property
    def _places(self) -> Tensor:
        """Where each pixel's nearest neighbour is in the flattened map, int64 [N, H * W]."""
        rows, columns = (
            corner + twice.div(denominator, rounding_mode="floor")
            for corner, twice, denominator in (self._row, self._column)
        )
        return (rows.unsqueeze(2) * self.size[1] + columns.unsqueeze(1)).flatten(1)

    @staticmethod
    def _along(places: tuple[Tensor, Tensor, int], length: int) -> Tensor:
        """Places along one axis as ``grid_sample`` counts them, from -1 to 1, [N, length]."""
        corner, twice, denominator = places
        return (corner + twice / denominator) * (2 / length) - 1
