"""Layers that backbones and heads have in common."""

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.checks import expect_choice, expect_probability
from mtlrun.types import Layout

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
MAP_NORMS = ("batch", "group", "none")
VECTOR_NORMS = ("none", "batch", "layer")


class _RunningWhereAlone(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation that survives a batch of one.

    Where a training batch holds a single value for each channel (one row whose map is 1x1, or one
    vector) its variance says nothing and torch refuses it. Here such a batch is normalised by the
    running statistics, which it leaves as they are. A run with ``batch_size=1`` throughout thus
    keeps mean 0 and variance 1 in such a layer, in training as in evaluation.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == self.num_features:
            return F.batch_norm(
                input,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=False,
                eps=self.eps,
            )
        normalised: Tensor = super().forward(input)
        return normalised


class BatchNorm1d(_RunningWhereAlone, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` that takes a batch of one row, by its running statistics."""


class BatchNorm2d(_RunningWhereAlone, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that takes a batch of one 1x1 map, by its running statistics."""


class GlobalAveragePool(nn.Module):
    """Mean over the positions of a map: [N, C, H, W] -> [N, C]."""

    def forward(self, features: Tensor) -> Tensor:
        """Vectors, [N, C]."""
        return features.mean((2, 3))


class GlobalMaxPool(nn.Module):
    """Maximum over the positions of a map: [N, C, H, W] -> [N, C]."""

    def forward(self, features: Tensor) -> Tensor:
        """Vectors, [N, C]."""
        return features.amax((2, 3))


class TokenAveragePool(nn.Module):
    """Mean over the tokens of a sequence, padding left out: [N, L, C] -> [N, C]."""

    def forward(self, features: Tensor) -> Tensor:
        """Vectors, [N, C]; 0 for a row without tokens."""
        return mean_of_tokens(features)


class TokenMaxPool(nn.Module):
    """Maximum over the tokens of a sequence, padding left out: [N, L, C] -> [N, C]."""

    def forward(self, features: Tensor) -> Tensor:
        """Vectors, [N, C]; 0 for a row without tokens."""
        here = token_mask(features)
        highest = features.masked_fill(~here.unsqueeze(2), -torch.inf).amax(1)
        return torch.where(here.any(1, keepdim=True), highest, torch.zeros_like(highest))


POOLS: dict[tuple[str, str], type[nn.Module]] = {
    ("map", "mean"): GlobalAveragePool,
    ("map", "max"): GlobalMaxPool,
    ("sequence", "mean"): TokenAveragePool,
    ("sequence", "max"): TokenMaxPool,
}


def pooling(layout: Layout, pool: str) -> list[nn.Module]:
    """From features of any layout to vectors, as a list of at most one module.

    Raises:
        ValueError: where ``pool`` is neither ``mean`` nor ``max``, or there is nothing to pool.
    """
    expect_choice("pool", pool, ("mean", "max"))
    if layout == "vector":
        if pool != "mean":
            raise ValueError(
                f"pool={pool} has no effect: this backbone ends in vectors. Leave it out"
            )
        return []
    return [POOLS[layout, pool]()]


def pooled(features: Tensor, layout: Layout) -> Tensor:
    """The mean over positions of features of any layout, [N, C]."""
    if layout == "map":
        return features.mean((2, 3))
    return mean_of_tokens(features) if layout == "sequence" else features


def mean_of_tokens(features: Tensor) -> Tensor:
    """The mean over the tokens of each row, padding left out, [N, C]; 0 for a row without any."""
    here = token_mask(features)
    tokens = here.sum(1, keepdim=True).clamp(min=1).to(features.dtype)
    # Padding is 0 already; the mask is for the gradient, which the engine may look at here
    return features.masked_fill(~here.unsqueeze(2), 0).sum(1) / tokens


def channel_dimension(layout: Layout) -> int:
    """The dimension of the channels in features of a layout."""
    return 2 if layout == "sequence" else 1


class Pointwise(nn.Module):
    """A linear layer over the channels, at each position by itself, in any layout.

    A sequence's padding stays 0.

    Args:
        layout: of the features.
        in_channels: that come in.
        out_channels: that go out.
        bias: whether there is one.
    """

    def __init__(
        self, layout: Layout, in_channels: int, out_channels: int, bias: bool = True
    ) -> None:
        super().__init__()
        self.layout = layout
        self.linear: nn.Module
        if layout == "map":
            self.linear = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        else:
            self.linear = nn.Linear(in_channels, out_channels, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same layout, with ``out_channels`` channels."""
        mixed: Tensor = self.linear(features)
        return only_tokens(mixed, token_mask(features)) if self.layout == "sequence" else mixed


MARK = 1e-20
"""Stands in all channels of a token whose features would be 0, as padding is."""


def only_tokens(features: Tensor, here: Tensor) -> Tensor:
    """A sequence that is 0 in all channels at padding and nowhere else, so that it can be told.

    Args:
        features: [N, L, C].
        here: where there are tokens, bool [N, L].
    """
    kept = features.masked_fill(~here.unsqueeze(2), 0)
    lost = here & ~token_mask(kept)  # by dropout or an activation, where channels are few
    return kept + lost.unsqueeze(2).to(kept.dtype) * MARK


def token_mask(features: Tensor) -> Tensor:
    """Where a sequence [N, L, C] has tokens, and not padding: bool [N, L]."""
    return (features.detach() != 0).any(2)


def make_activation(name: str) -> nn.Module:
    """The activation of that name.

    Raises:
        ValueError: where there is none.
    """
    expect_choice("activation", name, tuple(ACTIVATIONS))
    return ACTIVATIONS[name]()


def vector_norm(name: str, features: int) -> list[nn.Module]:
    """The normalisation of that name for vectors [N, C], as a list of at most one module.

    Raises:
        ValueError: where ``name`` is none of ``VECTOR_NORMS``.
    """
    expect_choice("norm", name, VECTOR_NORMS)
    if name == "batch":
        return [BatchNorm1d(features)]
    if name == "layer":
        return [nn.LayerNorm(features)]
    return []


def after_linear(features: int, activation: str, dropout: float, norm: str) -> list[nn.Module]:
    """What follows a linear layer: normalisation, activation and dropout.

    Args:
        features: that the layer gives, [N, features].
        activation: one of ``ACTIVATIONS``.
        dropout: rate; 0 leaves the dropout out.
        norm: one of ``VECTOR_NORMS``.

    Raises:
        ValueError: where one of them is wrong.
    """
    expect_probability("dropout", dropout)
    layers = [*vector_norm(norm, features), make_activation(activation)]
    return [*layers, nn.Dropout(dropout)] if dropout > 0 else layers


def dense_stages(
    features: int,
    hidden: Sequence[int],
    activation: str,
    dropout: float,
    norm: str,
    before: Sequence[nn.Module] = (),
) -> list[nn.Module]:
    """Fully connected layers, each with what follows it (see :func:`after_linear`) a Sequential.

    Args:
        features: that come in.
        hidden: width of each layer.
        activation: see :func:`after_linear`.
        dropout: likewise.
        norm: likewise.
        before: modules at the head of the first Sequential.

    Raises:
        ValueError: where one of them is wrong.
    """
    stages: list[nn.Module] = []
    for width in hidden:
        linear = nn.Linear(features, width, bias=norm != "batch")  # the norm's shift makes it idle
        after = after_linear(width, activation, dropout, norm)
        stages.append(nn.Sequential(*(() if stages else before), linear, *after))
        features = width
    return stages


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, norm: str = "batch", dilation: int = 1
) -> list[nn.Module]:
    """Convolution that keeps the map's size, normalisation and ReLU, to be put into a Sequential.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out.
        kernel_size: odd.
        norm: ``batch``, ``group`` (at most 32 groups; Wu and He, ECCV 2018) or ``none``.
        dilation: of the kernel.

    Raises:
        ValueError: where ``norm`` or ``kernel_size`` is wrong.
    """
    expect_choice("norm", norm, MAP_NORMS)
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd, so that maps keep their size")
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias=norm == "none",  # a normalisation's own shift makes it idle
        )
    ]
    if norm == "batch":
        layers.append(BatchNorm2d(out_channels))
    elif norm == "group":
        layers.append(nn.GroupNorm(gcd(32, out_channels), out_channels))
    return [*layers, nn.ReLU(inplace=True)]


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [N, C, h, w] resized to [N, C, H, W] by bilinear interpolation (align_corners=False)."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
