"""U-Net: an encoder and a decoder that reads the encoder's maps as well."""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.backbones.convolutions import POOL, Convolutions
from mtlrun.models.checks import expect_choice, expect_image, expect_widths
from mtlrun.models.layers import resize

UPSAMPLINGS = ("transposed", "bilinear")
DEPTH = 2
"""Convolutions of a block."""


class UNet(Backbone):
    """U-Net (Ronneberger, Fischer and Brox, MICCAI 2015, figure 1), with padded convolutions.

    Stages are the encoder's blocks of two 3x3 convolutions, each but the first behind a 2x2
    max-pooling, and then the decoder's, from the second deepest to the first: the map is brought to
    twice its size, the encoder's map of that size is put beside it (the skip), and two 3x3
    convolutions follow. The paper's are not padded, so that its maps lose their borders, and have
    no normalisation (``norm=none``). Here the last stage ends in maps at the input's size,
    whatever that is: what is left over at the end of an odd side is pooled by itself, and cut off
    again where the decoder comes back to it.

    Pooling stands at the beginning of a stage, and a stage of the encoder keeps the map that it
    receives, before it pools it, as the skip in ``kept``. So where an architecture changes or mixes
    features between stages, the skip is what it made of them, as for the next stage.

    Weights start from normal numbers of variance 2 / N, where N numbers go into each output (He et
    al., ICCV 2015, as the paper has it), biases from 0.

    :meth:`inner` gives the features behind a block's first convolution, and behind its second.

    Args:
        input_shape: [C, H, W].
        widths: channels of each block of the encoder; the decoder's has those of its skip.
        norm: ``batch``, ``group`` or ``none``.
        upsampling: ``transposed``, a transposed 2x2 convolution to the skip's channels (the paper's
            up-convolution), or ``bilinear``, interpolation, which keeps the channels.

    Raises:
        ValueError: where inputs are no images, or a setting is wrong.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        norm: str = "batch",
        upsampling: str = "transposed",
    ) -> None:
        in_channels, _, _ = expect_image("backbone=unet", input_shape)
        widths = expect_widths("widths", widths)
        expect_choice("upsampling", upsampling, UPSAMPLINGS)
        before = (in_channels, *widths[:-1])
        encoder = [Convolutions(*pair, DEPTH, norm) for pair in zip(before, widths, strict=True)]
        decoder = [
            Expansion(below, width, norm, upsampling)
            for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        ]
        channels = [*widths, *widths[-2::-1]]
        super().__init__([*encoder, *decoder], channels, ["map"] * len(channels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                _initialise(module)

    def inner(self, number: int, features: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        """See the class, and :meth:`Backbone.inner`."""
        block = self.stages[number]
        if isinstance(block, Expansion):
            return block.halves(features, kept[f"skip{len(self.stages) - 1 - number}"])
        assert isinstance(block, Convolutions)
        if number > 0:
            kept[f"skip{number - 1}"] = features
            features = F.max_pool2d(features, POOL, ceil_mode=True)
        return block.halves(features)


class Expansion(nn.Module):
    """A block of the decoder.

    Args:
        in_channels: of the map that comes from below.
        channels: of the skip, and of the output.
        norm: ``batch``, ``group`` or ``none``.
        upsampling: one of ``UPSAMPLINGS``.
    """

    def __init__(self, in_channels: int, channels: int, norm: str, upsampling: str) -> None:
        super().__init__()
        self.upsampling: nn.ConvTranspose2d | None = None
        if upsampling == "transposed":
            self.upsampling = nn.ConvTranspose2d(in_channels, channels, POOL, POOL)
            in_channels = channels
        self.block = Convolutions(channels + in_channels, channels, DEPTH, norm)

    def halves(self, features: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Features behind the first convolution, and behind both: [N, channels, H, W].

        Args:
            features: [N, in_channels, ceil(H / 2), ceil(W / 2)].
            skip: [N, channels, H, W].
        """
        height, width = skip.shape[2:]
        if self.upsampling is None:
            larger = resize(features, (height, width))
        else:
            larger = self.upsampling(features)[:, :, :height, :width]
        return self.block.halves(torch.cat([skip, larger], 1))


def _initialise(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """He's normal initialisation by the numbers that go into each output."""
    # Windows of a transposed convolution do not overlap: one position goes into each output
    positions = 1 if isinstance(layer, nn.ConvTranspose2d) else layer.weight[0, 0].numel()
    nn.init.normal_(layer.weight, std=sqrt(2 / (layer.in_channels * positions)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
