"""A Transformer encoder over words, trained from scratch."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from mtlrun.models.backbones.attention import EncoderBlock, expect_encoder
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.layers import only_tokens, token_mask
from mtlrun.types import InputKind


class Transformer(Backbone):
    """A small Transformer encoder (Vaswani et al., NeurIPS 2017) that normalises first.

    Stage 1 gives each word its vector, times sqrt(width), plus the sines of its position, so that
    a row may have any length. Each further stage is a block: x + attention(norm(x)), then
    x + feed-forward(norm(x)), see :mod:`~mtlrun.models.backbones.attention`. The last block ends in
    a normalisation.

    Args:
        vocabulary: numbers that a token may have.
        width: of the words' vectors and of all blocks; even.
        layers: number of blocks.
        attention_heads: of each block; they divide ``width``.
        feedforward: width of the hidden layer in each block.
        dropout: rate of the words' vectors, and at the end of each residual branch.

    Raises:
        ValueError: where a setting is wrong.
    """

    reads: ClassVar[tuple[InputKind, ...]] = ("tokens",)

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int = 128,
        layers: int = 2,
        attention_heads: int = 4,
        feedforward: int = 256,
        dropout: float = 0.1,
    ) -> None:
        expect_encoder(
            width=width,
            attention_heads=attention_heads,
            feedforward=feedforward,
            dropout=dropout,
            layers=layers,
        )
        if width % 2:
            raise ValueError(f"width={width} must be even: positions are pairs of sine and cosine")
        stages: list[nn.Module] = [PlacedWords(vocabulary, width, dropout)]
        for number in range(layers):
            last = number == layers - 1
            stages.append(Block(width, attention_heads, feedforward, dropout, last))
        super().__init__(stages, [width] * len(stages), ["sequence"] * len(stages))


class PlacedWords(nn.Module):
    """Vectors of words and their positions: [N, L] -> [N, L, width], 0 at padding.

    Vectors begin with deviation 1 / sqrt(width), so 1 after the factor.

    Args:
        vocabulary: numbers that a token may have.
        width: of the vectors.
        dropout: rate.
    """

    def __init__(self, vocabulary: int, width: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width, padding_idx=0)
        with torch.no_grad():
            self.table.weight.normal_(std=width**-0.5)[0] = 0
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """A sequence, [N, L, width]."""
        vectors = self.table(tokens) * math.sqrt(self.table.embedding_dim)
        placed = vectors + sinusoids(tokens.shape[1], vectors)
        return only_tokens(self.dropout(placed), tokens != 0)


def sinusoids(length: int, like: Tensor) -> Tensor:
    """Positions as sines and cosines (Vaswani et al., section 3.5), [length, width].

    Args:
        length: number of positions.
        like: a tensor of the kind wanted, its last dimension the width, even.
    """
    width = like.shape[-1]
    halves = torch.arange(0, width, 2, device=like.device, dtype=like.dtype)
    speeds = torch.exp(halves * (-math.log(10_000) / width))
    angles = torch.arange(length, device=like.device, dtype=like.dtype).unsqueeze(1) * speeds
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


class Block(EncoderBlock):
    """A block for padded sequences: [N, L, C] -> [N, L, C], 0 at padding.

    Args:
        width: C.
        attention_heads: number of them.
        feedforward: width of the hidden layer.
        dropout: rate at the end of each branch.
        last: whether what it gives is normalised.
    """

    def __init__(
        self, width: int, attention_heads: int, feedforward: int, dropout: float, last: bool
    ) -> None:
        super().__init__(width, attention_heads, feedforward, dropout, last=last, padded=True)

    def forward(self, features: Tensor) -> Tensor:
        """A sequence, [N, L, C]."""
        return only_tokens(super().forward(features), token_mask(features))
