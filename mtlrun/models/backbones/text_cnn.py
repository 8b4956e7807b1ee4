"""Convolutions over the words of a sentence."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_probability, expect_widths
from mtlrun.models.layers import token_mask
from mtlrun.models.text import WordEmbedding
from mtlrun.types import InputKind


class TextCNN(Backbone):
    """The convolutional network of Kim (EMNLP 2014, section 2), with vectors learned from scratch.

    Stage 1 gives each word its vector. Stage 2 lets filters of several widths see each run of so
    many words, keeps the largest answer of each (ReLU, maximum over the sentence), and drops some.
    A sentence shorter than a filter is filled up with zeros; otherwise no filter sees padding.
    Kim's bound on the norm of the output layer's weights is not there.

    Args:
        vocabulary: numbers that a token may have.
        embedding: width of the words' vectors. Kim's, pretrained, had 300.
        widths: words that a filter sees, for each group of filters.
        maps: filters of each width.
        dropout: rate after the maximum.

    Raises:
        ValueError: where a setting is wrong.
    """

    reads: ClassVar[tuple[InputKind, ...]] = ("tokens",)

    def __init__(
        self,
        *,
        vocabulary: int,
        embedding: int = 100,
        widths: Sequence[int] = (3, 4, 5),
        maps: int = 100,
        dropout: float = 0.5,
    ) -> None:
        expect_widths("embedding", [embedding])
        expect_widths("maps", [maps])
        expect_probability("dropout", dropout)
        groups = [PhraseMax(embedding, maps, w) for w in expect_widths("widths", widths)]
        stages: list[nn.Module] = [
            WordEmbedding(vocabulary, embedding),
            nn.Sequential(Together(groups), nn.ReLU(), nn.Dropout(dropout)),
        ]
        channels = (embedding, maps * len(groups))
        super().__init__(stages, channels, ("sequence", "vector"))

    def last_layer(self) -> list[nn.Parameter]:
        """The filters of each width: they stand side by side."""
        return [p for p in self.stages[1].parameters() if p.dim() >= 2]


class PhraseMax(nn.Module):
    """A convolution over ``width`` tokens, and its maximum over the sentence: [N, L, C] -> [N, D].

    Args:
        in_channels: C.
        out_channels: D.
        width: tokens that a filter sees.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.filters = nn.Conv2d(in_channels, out_channels, (1, width))

    def forward(self, features: Tensor) -> Tensor:
        """Vectors, [N, D]; -inf for a row without tokens."""
        tokens = token_mask(features).sum(1, keepdim=True)  # [N, 1]
        features = F.pad(features, (0, 0, 0, max(self.width - features.shape[1], 0)))
        answers: Tensor = self.filters(features.transpose(1, 2).unsqueeze(2)).squeeze(
            2
        )  # [N, D, places]
        places = torch.arange(answers.shape[2], device=answers.device)
        inside = places <= (tokens - self.width).clamp(min=0)
        inside &= tokens > 0
        return answers.masked_fill(~inside.unsqueeze(1), -torch.inf).amax(2)


class Together(nn.Module):
    """Several modules on the same features, what they give side by side.

    Args:
        parts: the modules, each giving [N, its channels].
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, features: Tensor) -> Tensor:
        """Vectors, [N, sum of the channels]."""
        return torch.cat([part(features) for part in self.parts], 1)
