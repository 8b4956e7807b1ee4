"""The parts of MTAN: masks, and the layers that take attended features to the next stage."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.layers import (
    BatchNorm1d,
    BatchNorm2d,
    channel_dimension,
    only_tokens,
    pooled,
    token_mask,
)
from mtlrun.models.residual import Residual
from mtlrun.models.sharing.probing import LAYOUTS, Shape, StageShape
from mtlrun.types import Layout


class Mask(nn.Module):
    """sigmoid(norm(1x1(ReLU(norm(1x1([p ; r])))))): what a task lets through at a stage.

    Args:
        late: shape of what the mask multiplies.
        in_channels: of p and r together.
        reduction: by how much the hidden layer is narrower than the mask.
    """

    def __init__(self, late: Shape, in_channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(late.channels // reduction, 1)
        self.dimension = channel_dimension(late.layout)
        self.layers = nn.Sequential(
            *linear_norm(late.layout, in_channels, hidden),
            nn.ReLU(inplace=True),
            *linear_norm(late.layout, hidden, late.channels),
            nn.Sigmoid(),
        )

    def forward(self, early: Tensor, received: Tensor | None, late: Tensor) -> Tensor:
        """The mask, of the shape of ``late``.

        Args:
            early: p, the shared features.
            received: r, the task's features of the stage before; None at the first.
            late: u, which it is for.
        """
        read = [brought(part, late) for part in (early, received) if part is not None]
        mask: Tensor = self.layers(torch.cat(read, self.dimension))
        return mask


class Link(nn.Module):
    """From a task's attended features at a stage to r, what its mask of the next one reads.

    Where the next stage's map is no larger, a layer and then max-pooling (an encoder); where it is,
    bilinear upsampling and then a layer (a decoder); where a stage pools at its end and the next
    one brings the map back, both.

    Args:
        stage: shapes of the stage.
        target: shape of what the next mask multiplies.
        reduction: see :func:`refinement`.
    """

    def __init__(self, stage: StageShape, target: Shape, reduction: int) -> None:
        super().__init__()
        layout, channels = stage.late.layout, stage.late.channels
        self.before: nn.Module | None = None
        self.behind: nn.Module | None = None
        grows = target.size > stage.output.size and layout == target.layout == "map"
        if not grows:
            self.before = refinement(layout, channels, target.channels, reduction)
        elif stage.output.size != stage.late.size:
            self.before = refinement(layout, channels, channels, reduction)
        if grows:
            self.behind = refinement(layout, channels, target.channels, reduction)

    def forward(self, attended: Tensor, output: Tensor, target: Tensor) -> Tensor:
        """Features like ``target``.

        Args:
            attended: of the task at the stage.
            output: of the stage, shared.
            target: what the next mask multiplies.
        """
        if self.before is not None:
            attended = brought(self.before(attended), output)
        attended = brought(attended, target)
        return attended if self.behind is None else self.behind(attended)


def refinement(layout: Layout, in_channels: int, out_channels: int, reduction: int) -> nn.Module:
    """The layer f between two masks, which all tasks share: a 3x3 convolution, normalisation and
    ReLU, or a residual bottleneck; vectors and sequences get linear layers.

    Args:
        layout: of the features.
        in_channels: that come in.
        out_channels: that go out.
        reduction: above 1, a bottleneck with a hidden layer so many times narrower.
    """
    if reduction > 1:
        return Bottleneck(layout, in_channels, out_channels, reduction)
    plain = nn.Sequential(*linear_norm(layout, in_channels, out_channels, 3), nn.ReLU(inplace=True))
    return OnlyTokens(plain) if layout == "sequence" else plain


class Bottleneck(Residual):
    """Convolutions 1x1, 3x3 and 1x1 beside a projection; without the middle one off maps.

    Args:
        layout: of the features.
        in_channels: that come in.
        out_channels: that go out.
        reduction: by how much the hidden layers are narrower.
    """

    def __init__(self, layout: Layout, in_channels: int, out_channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(out_channels // reduction, 1)
        layers = [*linear_norm(layout, in_channels, hidden), nn.ReLU(inplace=True)]
        if layout == "map":
            layers += [*linear_norm(layout, hidden, hidden, 3), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, *linear_norm(layout, hidden, out_channels))
        self.projection = nn.Sequential(*linear_norm(layout, in_channels, out_channels))
        self.padded = layout == "sequence"

    def branch(self, features: Tensor) -> Tensor:
        """What stands beside the projection."""
        output: Tensor = self.layers(features)
        return output

    def shortcut(self, features: Tensor) -> Tensor:
        """The projection."""
        output: Tensor = self.projection(features)
        return output

    def close(self, features: Tensor) -> Tensor:
        """ReLU."""
        return F.relu(features)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same layout, with ``out_channels`` channels."""
        output = super().forward(features)
        return only_tokens(output, token_mask(features)) if self.padded else output


class OnlyTokens(nn.Module):
    """A module for sequences, whose padding stays 0.

    Args:
        module: whatever it does to padding.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> Tensor:
        """What the module makes of a sequence."""
        return only_tokens(self.module(features), token_mask(features))


def linear_norm(
    layout: Layout, in_channels: int, out_channels: int, kernel_size: int = 1
) -> list[nn.Module]:
    """A linear layer and a normalisation: batch's, or for sequences each token's own.

    Weights begin by Xavier's normal initialisation, as in lorenmt/mtan.

    Args:
        layout: of the features.
        in_channels: that come in.
        out_channels: that go out.
        kernel_size: of a map's convolution, odd.
    """
    layer: nn.Conv2d | nn.Linear
    norm: nn.Module
    # The normalisation's own shift makes a bias idle
    if layout == "map":
        layer = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
        )
        norm = BatchNorm2d(out_channels)
    else:
        layer = nn.Linear(in_channels, out_channels, bias=False)
        norm = nn.LayerNorm(out_channels) if layout == "sequence" else BatchNorm1d(out_channels)
    nn.init.xavier_normal_(layer.weight)
    return [layer, norm]


def brought(features: Tensor, like: Tensor) -> Tensor:
    """Features in the layout and at the size of others.

    Maps are max-pooled where they shrink and else interpolated. Features of another layout are
    averaged, and the mean then stands at every position.

    Args:
        features: of any layout.
        like: likewise, for as many rows.
    """
    layout, wanted = LAYOUTS[features.ndim], LAYOUTS[like.ndim]
    if layout == wanted == "map":
        return resized(features, (like.shape[2], like.shape[3]))
    if layout == wanted and (layout == "vector" or features.shape[1] == like.shape[1]):
        return features
    mean = pooled(features, layout)
    if wanted == "map":
        return mean[:, :, None, None].expand(-1, -1, like.shape[2], like.shape[3])
    if wanted == "sequence":
        everywhere = mean[:, None].expand(-1, like.shape[1], -1)
        return only_tokens(everywhere, token_mask(like))
    return mean


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps at another size, by max-pooling where they shrink, else bilinear (align_corners=True).

    Args:
        maps: [N, C, h, w].
        size: (H, W).
    """
    height, width = maps.shape[2:]
    if (height, width) == size:
        return maps
    if size[0] > height or size[1] > width:
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    steps = (round(height / size[0]), round(width / size[1]))
    for up in (False, True):  # sides that the step does not divide are rounded one way or other
        if size == (_steps(height, steps[0], up), _steps(width, steps[1], up)):
            return F.max_pool2d(maps, steps, steps, ceil_mode=up)
    return F.adaptive_max_pool2d(maps, size)


def _steps(side: int, step: int, up: bool) -> int:
    """How many windows of ``step`` pixels a side has."""
    return -(-side // step) if up else side // step
