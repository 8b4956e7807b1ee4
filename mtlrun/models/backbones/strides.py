"""By how much a convolutional network shrinks its maps, and dilations in the place of strides."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul


@dataclass(frozen=True)
class Step:
    """How a group of blocks moves over its map.

    Attributes:
        stride: of the group's first block.
        entered: dilation of the first block's first 3x3 convolution. One that lost its stride still
            reads the denser map before it.
        dilation: of all others.
    """

    stride: int
    entered: int
    dilation: int


def steps(
    choice: str, stem: int, strides: Sequence[int], output_stride: int | None, small_input: bool
) -> list[Step]:
    """Strides and dilations of a network's groups of blocks.

    Args:
        choice: what the user chose, for example ``backbone=resnet18``.
        stem: stride of what comes before the groups.
        strides: of the layout's own groups.
        output_stride: of the whole that is wanted; None for the layout's own.
        small_input: the setting that ``stem`` and ``strides`` follow from, for the error.

    Raises:
        ValueError: where ``output_stride`` is none that the layout has.
    """
    reached = list(accumulate(strides, mul, initial=stem))
    possible = sorted(set(reached), reverse=True)
    if output_stride is not None and output_stride not in possible:
        raise ValueError(
            f"output_stride={output_stride} is none of {', '.join(map(str, possible))}, "
            f"which {choice} has with small_input={str(small_input).lower()}"
        )
    found, wanted, dilation = [], output_stride or possible[0], 1
    for plain, stride in zip(reached[1:], strides, strict=True):
        entered = dilation
        dilation = max(plain // wanted, 1)
        found.append(Step(stride if plain <= wanted else 1, entered, dilation))
    return found
