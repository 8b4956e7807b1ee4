"""A small convolutional network for phones, in torchvision's layout, so that its weights fit."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.backbones.residual_network import kaiming_by_fan_out, plain_convolution
from mtlrun.models.backbones.strides import steps
from mtlrun.models.backbones.torchvision_weights import load_torchvision
from mtlrun.models.checks import expect_image
from mtlrun.models.layers import BatchNorm2d
from mtlrun.models.residual import Residual, around_last_block

STEM, LAST = 32, 1280
"""Channels of the first and of the last convolution."""

GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Groups of blocks: expansion, channels, number and stride (Sandler et al., table 2)."""


class Mobile(Backbone):
    """MobileNetV2 (Sandler et al., CVPR 2018, table 2).

    A new stage begins where maps become smaller: at 1/2 of the image (stem and the first block),
    1/4, 1/8, 1/16 and 1/32. Stage 6 is the convolution to 1280 channels. For segmentation the paper
    puts its DeepLab head on the 320 channels before that (section 6.3): ``heads.stages=[5]``.

    A smaller ``output_stride`` puts dilations in the place of the last strides. The same weights
    then give the same features, only at more positions.

    Args:
        input_shape: [C, H, W].
        width_multiplier: of all channels, which are rounded to multiples of 8; the last 1280 only
            grow. The paper tries 0.35 to 1.4.
        output_stride: by how much the last maps are smaller than the input; None is the layout's
            own: 32, or 8 with ``small_input``. The paper's segmentation uses 16.
        small_input: the stem and the first group of blocks behind it keep the size, for images of
            some 32x32 pixels.
        weights: file with a state dict of torchvision's mobilenet_v2.

    Raises:
        ValueError: where inputs are no images, or a setting is none that this layout has.
        UserError: where ``weights`` cannot be read or does not fit.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        width_multiplier: float = 1.0,
        output_stride: int | None = None,
        small_input: bool = False,
        weights: str | None = None,
    ) -> None:
        in_channels, _, _ = expect_image("backbone=mobile", input_shape)
        if not 0 < width_multiplier < float("inf"):
            raise ValueError(f"width_multiplier={width_multiplier} must be above 0")
        stem = 1 if small_input else 2
        strides = [stride for _, _, _, stride in GROUPS]
        if small_input:
            strides[strides.index(2)] = 1
        plan = steps("backbone=mobile", stem, strides, output_stride, small_input)
        width = _rounded(STEM * width_multiplier)
        stages: list[list[nn.Module]] = [[_activated(in_channels, width, 3, stem)]]
        channels = [width]
        for (expansion, base, count, own_stride), step in zip(GROUPS, plan, strict=True):
            if own_stride > 1:  # whatever the stride became
                stages.append([])
                channels.append(0)
            out_channels = _rounded(base * width_multiplier)
            for position in range(count):
                first = position == 0
                block = _inverted(
                    width,
                    out_channels,
                    expansion,
                    step.stride if first else 1,
                    step.entered if first else step.dilation,
                    may_skip=not first or own_stride == 1,
                )
                stages[-1].append(block)
                width = out_channels
            channels[-1] = width
        last = _rounded(LAST * max(1.0, width_multiplier))
        stages.append([_activated(width, last, 1)])
        super().__init__(
            [nn.Sequential(*blocks) for blocks in stages], [*channels, last], ["map"] * len(stages)
        )
        kaiming_by_fan_out(self)
        if weights is not None:
            self._load(Path(weights))

    def inner(self, number: int, features: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        """The features before a stage's last block, and its output; the output twice where that
        block has no shortcut, and so may change the number of channels."""
        del kept
        return around_last_block(self.stages[number], features)

    def _load(self, path: Path) -> None:
        """Fill from a file of torchvision's, which numbers all blocks in one row."""
        own = [
            f"stages.{number}.{position}."
            for number, stage in enumerate(self.stages)
            for position, _ in enumerate(stage.children())
        ]
        load_torchvision(
            self,
            path,
            prefixes={prefix: f"features.{index}." for index, prefix in enumerate(own)},
            classifier="classifier.",
            network="torchvision's mobilenet_v2 of this width_multiplier (for 3 input channels)",
        )


class InvertedResidual(Residual):
    """A block with a shortcut between its narrow ends (Sandler et al., section 3.3).

    Args:
        conv: the branch, which keeps the map's shape.
    """

    def __init__(self, conv: nn.Sequential) -> None:
        super().__init__()
        self.conv = conv

    def branch(self, features: Tensor) -> Tensor:
        """The convolutions."""
        output: Tensor = self.conv(features)
        return output


def _inverted(
    in_channels: int,
    out_channels: int,
    expansion: int,
    stride: int,
    dilation: int,
    *,
    may_skip: bool,
) -> nn.Module:
    """Convolutions 1x1 to more channels, 3x3 each channel by itself, 1x1 to fewer, linear.

    Args:
        in_channels: that come in.
        out_channels: that go out.
        expansion: by how much more channels there are in between; 1 leaves the first one out.
        stride: of the 3x3 convolution.
        dilation: likewise.
        may_skip: whether there is a shortcut where channels are equal; not where the layout has a
            stride, be it dilated instead, so that the same weights give the same features.
    """
    hidden = in_channels * expansion
    layers = [_activated(in_channels, hidden, 1)] if expansion > 1 else []
    conv = nn.Sequential(
        *layers,
        _activated(hidden, hidden, 3, stride, dilation, groups=hidden),
        plain_convolution(hidden, out_channels, 1),
        BatchNorm2d(out_channels),
    )
    if may_skip and in_channels == out_channels:
        return InvertedResidual(conv)
    return nn.Sequential(OrderedDict(conv=conv))


def _activated(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution, normalisation and ReLU6."""
    return nn.Sequential(
        plain_convolution(in_channels, out_channels, kernel_size, stride, dilation, groups),
        BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below, as in the authors' code."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
