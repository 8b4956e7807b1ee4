"""What backbones for text have in common: tokens, int64 [N, L] with 0 as padding, to features."""

import torch
from torch import Tensor, nn

from mtlrun.models.checks import expect_choice, expect_probability
from mtlrun.models.layers import only_tokens

SCALES = ("count", "binary", "mean", "sqrt")


def without_repeats(tokens: Tensor) -> Tensor:
    """The same words in each row, [N, L], sorted, each once and with 0 in place of the others."""
    ordered = tokens.sort(1).values
    repeats = ordered[:, 1:] == ordered[:, :-1]
    return torch.cat([ordered[:, :1], ordered[:, 1:].masked_fill(repeats, 0)], 1)


class WordEmbedding(nn.Module):
    """A vector for each word: [N, L] -> [N, L, width], 0 at padding.

    The vectors begin uniform in [-0.25, 0.25], as Kim's (EMNLP 2014) that are learned from scratch.

    Args:
        vocabulary: numbers that a token may have.
        width: of the vectors.
        dropout: rate of their entries.
    """

    def __init__(self, vocabulary: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        expect_probability("dropout", dropout)
        self.table = nn.Embedding(vocabulary, width, padding_idx=0)
        with torch.no_grad():
            self.table.weight.uniform_(-0.25, 0.25)[0] = 0
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """A sequence, [N, L, width]."""
        return only_tokens(self.dropout(self.table(tokens)), tokens != 0)


class WordSum(nn.Module):
    """A linear layer on how often each word occurs in a row, as the sum of a vector for each word.

    [N, L] -> [N, C]. No count vector, [N, vocabulary], is ever formed. With n words in a row
    (padding is none), ``scale`` says what stands for a word that occurs k times:

    * ``count``: k;
    * ``binary``: 1;
    * ``mean``: k / n;
    * ``sqrt``: k / sqrt(n), which keeps the size of the sum whatever the row's length.

    ``nn.Linear(vocabulary, width)`` would begin with entries of deviation 1 / sqrt(3 vocabulary),
    made for inputs that are all different from 0: a sentence of 20 among 20,000 words then gives
    sums of 0.02, which say next to nothing. Here entries begin normal with deviation ``spread``.

    Args:
        vocabulary: numbers that a token may have.
        width: C.
        scale: see above.
        spread: deviation of the initial vectors.
        dropout: rate at which occurrences of words are dropped; those left are scaled up.
        bias: whether there is one; it begins at 0.

    Raises:
        ValueError: where ``scale`` or ``dropout`` is wrong.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        *,
        scale: str = "count",
        spread: float = 0.1,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        expect_choice("scale", scale, SCALES)
        expect_probability("word_dropout", dropout)
        self.scale = scale
        self.table = nn.Embedding(vocabulary, width, padding_idx=0)
        with torch.no_grad():
            self.table.weight.normal_(std=spread)[0] = 0
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors, [N, C]; the bias alone for a row without tokens."""
        if self.scale == "binary":
            tokens = without_repeats(tokens)
        vectors = self.table(tokens)  # 0 at padding
        if self.dropout is not None and self.training:
            vectors = vectors * self.dropout(torch.ones_like(vectors[..., :1]))
        total: Tensor = vectors.sum(1)
        if self.scale in ("mean", "sqrt"):
            words = (tokens != 0).sum(1, keepdim=True).clamp(min=1).to(total.dtype)
            total = total / (words if self.scale == "mean" else words.sqrt())
        return total if self.bias is None else total + self.bias
