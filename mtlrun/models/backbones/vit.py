"""A small Vision Transformer, trained from scratch."""

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn

from mtlrun.models.backbones.attention import EncoderBlock, expect_encoder
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_image


class ViT(Backbone):
    """A Vision Transformer (Dosovitskiy et al., ICLR 2021, section 3.1).

    Stage 1 cuts the image into patches, gives each its vector by a linear layer, and adds one that
    is learned for the position. Each further stage is a block: x + attention(norm(x)), then
    x + feed-forward(norm(x)), see :mod:`~mtlrun.models.backbones.attention`. The last block ends in
    a normalisation.

    Features are maps, one position for each patch, so that any head reads them. There is no class
    token: heads that want one vector a row take the mean over the patches, which the paper finds to
    do as well (appendix D.3).

    Args:
        input_shape: [C, H, W], whose sides divide into patches.
        width: of the patches' vectors and of all blocks. The paper's smallest network (ViT-B)
            has width 768, depth 12, 12 heads, feedforward 3072 and patch 16.
        depth: number of blocks.
        attention_heads: of each block; they divide ``width``.
        feedforward: width of the hidden layer in each block.
        patch: pixels of a patch's side: by so much the maps are smaller than the image.
        dropout: rate of the patches' vectors, and at the end of each residual branch. (The paper's
            0.1 on ImageNet is also applied to the hidden layer of the feed-forward part.)
        position_deviation: of the positions' vectors at the start. 0.5 is about that of the
            patches' vectors of standardised images. The authors' code has 0.02, with which places
            are hardly told apart for the first epochs: on the 8x8 digits (patch 2, Adam, learning
            rate 0.002) the third epoch ends with 23 % correct instead of 90 %.

    Raises:
        ValueError: where inputs are no images, do not divide into patches, or a setting is wrong.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        width: int = 64,
        depth: int = 4,
        attention_heads: int = 4,
        feedforward: int = 128,
        patch: int = 4,
        dropout: float = 0.0,
        position_deviation: float = 0.5,
    ) -> None:
        in_channels, image_height, image_width = expect_image("backbone=vit", input_shape)
        expect_encoder(
            width=width,
            attention_heads=attention_heads,
            feedforward=feedforward,
            dropout=dropout,
            depth=depth,
            patch=patch,
        )
        if image_height % patch or image_width % patch:
            raise ValueError(_indivisible(image_height, image_width, patch))
        grid = (image_height // patch, image_width // patch)
        if not 0 <= position_deviation < float("inf"):
            raise ValueError(f"position_deviation={position_deviation} must be 0 or more")
        patches = Patches(in_channels, width, patch, grid, dropout)
        nn.init.normal_(patches.positions, std=position_deviation)
        stages: list[nn.Module] = [patches]
        for number in range(depth):
            stages.append(
                MapBlock(
                    width,
                    attention_heads,
                    feedforward,
                    dropout,
                    last=number == depth - 1,
                    padded=False,
                )
            )
        super().__init__(stages, [width] * len(stages), ["map"] * len(stages))


def _indivisible(height: int, width: int, patch: int) -> str:
    """What to say of an image that does not divide into patches."""
    common = gcd(height, width)
    fitting = [str(side) for side in range(2, common + 1) if common % side == 0]
    instead = f"backbone.patch={', '.join(fitting)} or " if fitting else ""
    return (
        f"backbone=vit: inputs of {height}x{width} do not divide into patches of {patch}x{patch}: "
        f"use {instead}images of another size (dataset.size, where the dataset has it)"
    )


class Patches(nn.Module):
    """Vectors of patches and their positions: [N, in_channels, H, W] -> [N, width, *grid].

    Positions begin at 0.

    Args:
        in_channels: of the image.
        width: of the vectors.
        patch: pixels of a patch's side.
        grid: patches in a column and in a row.
        dropout: rate.
    """

    def __init__(
        self, in_channels: int, width: int, patch: int, grid: tuple[int, int], dropout: float
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(width, *grid))
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Tensor) -> Tensor:
        """A map, [N, width, *grid]."""
        placed: Tensor = self.dropout(self.patches(image) + self.positions)
        return placed


class MapBlock(EncoderBlock):
    """A block whose tokens are the positions of a map: [N, C, h, w] -> [N, C, h, w]."""

    def forward(self, features: Tensor) -> Tensor:
        """A map of the same shape."""
        tokens = super().forward(features.flatten(2).transpose(1, 2))  # [N, h * w, C]
        return tokens.transpose(1, 2).reshape(features.shape)
