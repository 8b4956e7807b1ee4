"""A recurrent network over words."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_probability, expect_widths
from mtlrun.models.layers import only_tokens, token_mask
from mtlrun.models.text import WordEmbedding
from mtlrun.types import InputKind


class LSTM(Backbone):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), in both directions by default.

    Stage 1 gives each word its vector; each further stage is one layer, in both directions side by
    side (Graves and Schmidhuber, 2005). The backward direction starts at each row's last token.

    Args:
        vocabulary: numbers that a token may have.
        embedding: width of the words' vectors.
        hidden: units of a layer, in each direction.
        layers: how many.
        bidirectional: whether there is a backward direction; a layer then gives 2 x ``hidden``.
        dropout: rate of the words' vectors, and after each layer.

    Raises:
        ValueError: where a setting is wrong.
    """

    reads: ClassVar[tuple[InputKind, ...]] = ("tokens",)

    def __init__(
        self,
        *,
        vocabulary: int,
        embedding: int = 100,
        hidden: int = 100,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.2,
    ) -> None:
        for name, count in (("embedding", embedding), ("hidden", hidden), ("layers", layers)):
            expect_widths(name, [count])
        expect_probability("dropout", dropout)
        stages: list[nn.Module] = [WordEmbedding(vocabulary, embedding, dropout)]
        channels = [embedding]
        for _ in range(layers):
            stages.append(RecurrentLayer(channels[-1], hidden, bidirectional, dropout))
            channels.append(hidden * (2 if bidirectional else 1))
        super().__init__(stages, channels, ["sequence"] * len(stages))

    def last_layer(self) -> list[nn.Parameter]:
        """The matrices of the last layer, in both directions."""
        return [p for p in self.stages[-1].parameters() if p.dim() >= 2]


class RecurrentLayer(nn.Module):
    """One layer: [N, L, C] -> [N, L, hidden], or twice as many channels in both directions.

    The directions are two plain ``nn.LSTM``: rows are turned round within their own lengths, so
    nothing has to be packed, which would read the lengths back from the device.

    Args:
        in_channels: C.
        hidden: units in each direction.
        bidirectional: whether there is a backward direction.
        dropout: rate of the outputs.
    """

    def __init__(self, in_channels: int, hidden: int, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        self.onward = nn.LSTM(in_channels, hidden, batch_first=True)
        self.returning = nn.LSTM(in_channels, hidden, batch_first=True) if bidirectional else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """A sequence, [N, L, hidden] or [N, L, 2 x hidden]."""
        here = token_mask(features)
        states, _ = self.onward(features)
        if self.returning is not None:
            turned, _ = self.returning(turned_round(features, here))
            states = torch.cat([states, turned_round(turned, here)], 2)
        return only_tokens(self.dropout(states), here)


def turned_round(features: Tensor, here: Tensor) -> Tensor:
    """Each row's tokens in reversed order, and its padding where it was: [N, L, C].

    Args:
        features: [N, L, C].
        here: where there are tokens, bool [N, L]; padding is at the end.
    """
    places = torch.arange(here.shape[1], device=here.device).expand_as(here)
    mirrored = here.sum(1, keepdim=True) - 1 - places
    order = torch.where(here, mirrored, places).unsqueeze(2).expand_as(features)
    return features.gather(1, order)
