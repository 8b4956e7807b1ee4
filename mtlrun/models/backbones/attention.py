"""The parts of a Transformer's block: self-attention and a feed-forward network."""

from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.checks import expect_probability
from mtlrun.models.layers import token_mask
from mtlrun.models.residual import Residual


class SelfAttention(Residual):
    """``x + attention(norm(x))``: [N, L, C] -> [N, L, C] (Vaswani et al., NeurIPS 2017).

    Normalising inside the branch (Xiong et al., ICML 2020) trains without a warm-up.

    Args:
        width: C.
        attention_heads: number of them; they divide ``width``.
        dropout: rate at the end of the branch.
        padded: whether vectors of zeros are padding, at which no token looks. What the branch gives
            there means nothing; whoever calls sets it to 0.
    """

    def __init__(self, width: int, attention_heads: int, dropout: float, padded: bool) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.padded = padded
        self.norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attended = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def branch(self, features: Tensor) -> Tensor:
        """What each place gathers from the tokens of its row."""
        rows, length, width = features.shape
        joined = self.queries_keys_values(self.norm(features))
        parts = joined.view(rows, length, 3, self.attention_heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts.unbind(0)
        seen = None
        if self.padded:
            here = token_mask(features)
            # A row without tokens has nothing to gather, and a softmax over nothing would be NaN
            seen = (here | ~here.any(1, keepdim=True))[:, None, None]  # [N, 1, 1, L]
        gathered = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
        output: Tensor = self.attended(gathered.transpose(1, 2).reshape(rows, length, width))
        return output


class FeedForward(Residual):
    """``x + linear(GELU(linear(norm(x))))``, each token by itself: [N, L, C] -> [N, L, C].

    Args:
        width: C.
        hidden: width of the hidden layer.
        dropout: rate at the end of the branch.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def branch(self, features: Tensor) -> Tensor:
        """What the network makes of each token."""
        output: Tensor = self.layers(features)
        return output


class EncoderBlock(nn.Module):
    """Self-attention and a feed-forward part: [N, L, C] -> [N, L, C].

    Args:
        width: C.
        attention_heads: number of them.
        feedforward: width of the hidden layer.
        dropout: rate at the end of each branch.
        last: whether what it gives is normalised.
        padded: see :class:`SelfAttention`; what the block gives at padding means nothing.
    """

    def __init__(
        self,
        width: int,
        attention_heads: int,
        feedforward: int,
        dropout: float,
        *,
        last: bool,
        padded: bool,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width, attention_heads, dropout, padded)
        self.feedforward = FeedForward(width, feedforward, dropout)
        self.final = nn.LayerNorm(width) if last else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        output: Tensor = self.final(self.feedforward(self.attention(features)))
        return output


def expect_encoder(
    *, width: int, attention_heads: int, feedforward: int, dropout: float, **counts: int
) -> None:
    """Raise a ValueError where an encoder's settings are wrong.

    Args:
        width: see :class:`EncoderBlock`.
        attention_heads: likewise.
        feedforward: likewise.
        dropout: likewise.
        counts: further settings that must be 1 or more.
    """
    sizes = {"width": width, "attention_heads": attention_heads, "feedforward": feedforward}
    for name, size in {**sizes, **counts}.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be 1 or more")
    expect_probability("dropout", dropout)
    if width % attention_heads:
        raise ValueError(f"width={width} must be a multiple of attention_heads={attention_heads}")
