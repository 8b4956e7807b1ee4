"""Trunks that per-task gradients must be right for, each giving WIDTH features a row."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from engine_toys import WIDTH
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

ROWS = 7


@dataclass(frozen=True)
class Trunk:
    """How to make a trunk and its input.

    Attributes:
        make: the trunk.
        inputs: its input, ROWS rows, from a generator.
        random: whether it draws: then only the same draws in float32 can be compared with.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Tensor]
    random: bool = False


def vectors(draws: torch.Generator) -> Tensor:
    return torch.randn(ROWS, 5, generator=draws)


def images(draws: torch.Generator) -> Tensor:
    return torch.randn(ROWS, 3, 8, 8, generator=draws)


def sequences(draws: torch.Generator) -> Tensor:
    return torch.randn(ROWS, 4, 8, generator=draws)


def words(draws: torch.Generator) -> Tensor:
    return torch.randint(9, (ROWS, 4), generator=draws)


def batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, bias=False),  # with a bias its gradient would be 0, up to rounding
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(16, WIDTH),
    )


def dropout() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, WIDTH), nn.Dropout(0.2)
    )


def inplace_relu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(4 * 36, WIDTH),
        nn.ReLU(inplace=True),
    )


def upsampling() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.GroupNorm(2, 4),
        nn.GELU(),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Conv2d(4, WIDTH, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.layers = kind(8, WIDTH, num_layers=2, batch_first=True, bidirectional=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)[0][:, -1]


class Attention(nn.Module):
    """A Transformer layer with dropout, then scaled dot-product attention on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        self.last = nn.Linear(8, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.layer(inputs)
        mixed = F.scaled_dot_product_attention(hidden, hidden, hidden)
        return self.last(mixed.mean(dim=1))


class Embedded(nn.Module):
    """Embedded words, whose table is used a second time, transposed, as a tied weight."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.last = nn.Linear(9 if tied else 8, WIDTH)
        self.tied = tied

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.table(inputs).sum(dim=1))
        if self.tied:
            hidden = hidden @ self.table.weight.T
        return self.last(hidden)


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, WIDTH)
        self.again = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.again(torch.tanh(self.again(torch.tanh(self.first(inputs)))))


class Partly(nn.Module):
    """A layer that nothing reaches, and a frozen one in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.frozen = nn.Linear(8, 8)
        self.unused = nn.Linear(4, 4)
        self.last = nn.Linear(8, WIDTH)
        self.frozen.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.tanh(self.frozen(torch.tanh(self.first(inputs)))))


class Checkpointed(nn.Module):
    """Recomputes its middle in each backward pass, dropout masks included."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.middle = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 8))
        self.last = nn.Linear(8, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(checkpoint(self.middle, self.first(inputs), use_reentrant=False))


class Raw(nn.Module):
    """Parameters outside any layer; their gradients come expanded and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(WIDTH, 5))
        self.shift = nn.Parameter(torch.randn(WIDTH))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.summed = nn.Parameter(torch.randn(2, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.scale * (inputs @ self.matrix.T) + self.shift
        return features + self.summed.sum()


TRUNKS = {
    "batch_norm": Trunk(batch_norm, images),
    "dropout": Trunk(dropout, vectors, random=True),
    "inplace_relu": Trunk(inplace_relu, images),
    "upsampling": Trunk(upsampling, images),
    "gru": Trunk(lambda: Recurrent(nn.GRU), sequences),
    "lstm": Trunk(lambda: Recurrent(nn.LSTM), sequences),
    "attention": Trunk(Attention, sequences, random=True),
    "embedding": Trunk(lambda: Embedded(tied=False), words),
    "tied_weight": Trunk(lambda: Embedded(tied=True), words),
    "called_twice": Trunk(CalledTwice, vectors),
    "unused_and_frozen": Trunk(Partly, vectors),
    "checkpointed": Trunk(Checkpointed, vectors, random=True),
    "raw_parameters": Trunk(Raw, vectors),
}
