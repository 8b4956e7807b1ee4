"""AdaShare on a toy backbone with blocks that can be skipped."""

from collections.abc import Mapping, Sequence
from typing import Any

import architecture_cases
import torch
from architecture_cases import ONE_STREAM, maker
from torch import Tensor, nn

from mtlrun.models.architectures.adashare import AdaShare
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.layers import BatchNorm1d
from mtlrun.models.residual import Residual


class Block(Residual):
    """A residual block of a layer and batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), BatchNorm1d(4)
        self.passes = 0

    def branch(self, features: Tensor) -> Tensor:
        self.passes += 1
        output: Tensor = self.norm(self.linear(features))
        return output


class Toy(Backbone):
    """A layer, two residual blocks, and a stage that can be skipped as a whole."""

    def __init__(self) -> None:
        stages = [nn.Linear(6, 4), nn.Sequential(Block(), Block()), nn.Linear(4, 4)]
        super().__init__(stages, [4, 4, 4], ["vector"] * 3)


def make_toy(copy: int) -> Backbone:
    torch.manual_seed(copy)
    return Toy()


def build(
    streams: Mapping[str, Sequence[str]] = ONE_STREAM, backbone: str = "toy", **settings: Any
) -> AdaShare:
    make = make_toy if backbone == "toy" else maker(backbone)
    where = "mlp" if backbone == "toy" else backbone
    made = architecture_cases.build(
        "adashare", streams, where, **{"make": make, "epochs": 10, **settings}
    )
    assert isinstance(made, AdaShare)
    return made


def set_policies(architecture: AdaShare, keep: Sequence[Sequence[int]]) -> None:
    """Logits that are as good as certain, for each task."""
    with torch.no_grad():
        for logits, mine in zip(architecture.logits, keep, strict=True):
            kept = torch.tensor(mine) * 200.0 - 100
            logits.copy_(torch.stack([kept, -kept], 1))


def with_policy(architecture: AdaShare, inputs: Tensor, keep: Sequence[int]) -> Tensor:
    """The toy's features, worked out by hand."""
    first, (one, two), last = architecture.backbone.stages  # type: ignore[misc]
    features: Tensor = first(inputs)
    for block, kept in zip((one, two), keep, strict=False):
        features = features + block.norm(block.linear(features)) if kept else features
    return last(features) if keep[2] else features
