"""What the stages of a backbone give, found by a look at one row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.types import InputKind, Layout

LAYOUTS: dict[int, Layout] = {2: "vector", 3: "sequence", 4: "map"}
"""Of features by their dimensions."""


@dataclass(frozen=True)
class Shape:
    """Of features.

    Attributes:
        layout: see :data:`~mtlrun.types.Layout`.
        channels: of each position.
        size: (H, W) of maps; (1, 1) of vectors and sequences.
    """

    layout: Layout
    channels: int
    size: tuple[int, int]


@dataclass(frozen=True)
class StageShape:
    """Of what :meth:`Backbone.inner` and :meth:`Backbone.outer` make at a stage.

    Attributes:
        early: before the stage's last part.
        late: behind it.
        output: of the stage.
    """

    early: Shape
    late: Shape
    output: Shape


@torch.no_grad()
def stage_shapes(
    backbone: Backbone, input_kind: InputKind, input_shape: Sequence[int]
) -> list[StageShape]:
    """The shapes at each stage, from a pass of one row in evaluation, which draws nothing.

    Args:
        backbone: any copy of it.
        input_kind: what the inputs are.
        input_shape: of one of them.
    """
    parameter = next(backbone.parameters(), torch.empty(0))
    dtype = torch.int64 if input_kind in ("tokens", "bags") else parameter.dtype
    # 1 is a word, if an unknown one, and a column of codes or numbers may be 0
    fill = 1 if dtype == torch.int64 else 0
    features = torch.full((1, *input_shape), fill, dtype=dtype, device=parameter.device)
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    found: list[StageShape] = []
    kept: Kept = {}
    for number in range(len(backbone.stages)):
        early, late = backbone.inner(number, features, kept)
        features = backbone.outer(number, late, kept)
        found.append(StageShape(shape_of(early), shape_of(late), shape_of(features)))
    for module in training:
        module.training = True
    return found


def shape_of(features: Tensor) -> Shape:
    """The shape of features."""
    layout = LAYOUTS[features.ndim]
    if layout == "map":
        return Shape(layout, features.shape[1], (features.shape[2], features.shape[3]))
    return Shape(layout, features.shape[-1], (1, 1))
