"""Words without their order."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_widths
from mtlrun.models.layers import after_linear, dense_stages
from mtlrun.models.text import WordSum
from mtlrun.types import InputKind


class BagOfWords(Backbone):
    """Fully connected layers on how often each word occurs; a stage is one of them.

    A stage is linear - normalisation - activation - dropout. The first layer reads the counts of
    all words and is computed as the sum of its columns for the words that there are, see
    :class:`~mtlrun.models.text.WordSum`.

    Args:
        vocabulary: numbers that a token may have.
        hidden: width of each layer, one or more.
        activation: ``sigmoid``, ``tanh``, ``relu``, ``leaky_relu``, ``elu``, ``gelu`` or ``silu``.
        scale: of the counts: ``count``, ``binary``, ``mean`` (by the number of words in the row) or
            ``sqrt`` (by its root).
        word_dropout: rate at which words of a row are dropped.
        dropout: rate after each layer.
        norm: ``none``, ``batch`` or ``layer``.

    Raises:
        ValueError: where a setting is outside these.
    """

    reads: ClassVar[tuple[InputKind, ...]] = ("tokens", "bags")

    def __init__(
        self,
        *,
        vocabulary: int,
        hidden: Sequence[int] = (200,),
        activation: str = "sigmoid",
        scale: str = "count",
        word_dropout: float = 0.0,
        dropout: float = 0.0,
        norm: str = "none",
    ) -> None:
        first, *others = widths = expect_widths("hidden", hidden)
        words = WordSum(vocabulary, first, scale=scale, dropout=word_dropout, bias=norm != "batch")
        after = after_linear(first, activation, dropout, norm)
        stages = [
            nn.Sequential(words, *after),
            *dense_stages(first, others, activation, dropout, norm),
        ]
        super().__init__(stages, widths, ["vector"] * len(stages))
