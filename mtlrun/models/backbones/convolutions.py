"""What encoder-decoder networks have in common."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.layers import convolution

POOL = 2
"""Factor by which a pooling shrinks a map."""


class Convolutions(nn.Module):
    """Convolutions 3x3 - normalisation - ReLU: [N, in_channels, H, W] -> [N, out_channels, H, W].

    The first one changes the channels.

    Args:
        in_channels: channels that come in.
        out_channels: of every convolution.
        depth: how many of them, one or more.
        norm: ``batch``, ``group`` or ``none``.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int, norm: str) -> None:
        super().__init__()
        self.first = nn.Sequential(*convolution(in_channels, out_channels, 3, norm))
        rest = (convolution(out_channels, out_channels, 3, norm) for _ in range(depth - 1))
        self.rest = nn.Sequential(*(nn.Sequential(*layers) for layers in rest))

    def halves(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features behind the first convolution, and behind all of them."""
        early = self.first(features)
        return early, self.rest(early)

    def forward(self, features: Tensor) -> Tensor:
        """Features behind all of them."""
        return self.halves(features)[1]


def pooled_with_places(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The maxima of windows of 2x2, and where in the map they stood, counted along its rows.

    What is left over at the end of an odd side is a window, too, so maps of one position stay.

    Args:
        maps: [N, C, H, W].

    Returns:
        both [N, C, ceil(H / 2), ceil(W / 2)].
    """
    return F.max_pool2d(maps, POOL, ceil_mode=True, return_indices=True)


def unpooled(maps: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Maps with their values at ``places`` and 0 elsewhere, see :func:`pooled_with_places`.

    Args:
        maps: [N, C, ceil(H / 2), ceil(W / 2)].
        places: of the same shape, int64.
        size: H, W.

    Returns:
        [N, C, H, W].
    """
    return F.max_unpool2d(maps, places, (POOL, POOL), output_size=list(size))
