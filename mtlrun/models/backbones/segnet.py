"""SegNet, the network of the NYUv2 and Cityscapes tables that follow MTAN."""

from collections.abc import Sequence

from torch import Tensor, nn

from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.backbones.convolutions import Convolutions, pooled_with_places, unpooled
from mtlrun.models.checks import expect_image, expect_widths

SHALLOW, DEEP = 2, 3
"""Convolutions of VGG-16's first two blocks, and of its others."""


class SegNet(Backbone):
    """SegNet (Badrinarayanan, Kendall and Cipolla, TPAMI 2017), an encoder and its mirror image.

    Stages are the encoder's blocks of 3x3 convolutions, each with a 2x2 max-pooling at its end, and
    then the decoder's, from the deepest to the first, each of which first puts its input where the
    maxima of the block that it mirrors had stood, and 0 elsewhere. So the first half of the stages
    shrinks the maps and the second brings them back to the input's size, whatever that is: what is
    left over at the end of an odd side is pooled by itself. The places of the maxima go from stage
    to stage in ``kept``; they are those of the block's own features, whatever an architecture does
    to the maps in between.

    The layout is that of Liu, Johns and Davison (MTAN, CVPR 2019; lorenmt/mtan), which many tables
    of multi-task learning were made with: a decoder's block changes to its channels in its first
    convolution, where the SegNet paper does it in the last one. With 3 input channels, a head of
    3x3 and 1x1 convolutions to 13 classes and idle biases before normalisations it has their
    24,981,069 parameters. Weights start from Xavier's normal initialisation (Glorot and Bengio,
    AISTATS 2010), biases from 0, as in that code.

    :meth:`inner` gives what MTAN's masks read and multiply: the features behind a block's first
    convolution (in the decoder those before it, unpooled), and behind its last, before pooling.

    Args:
        input_shape: [C, H, W].
        widths: channels of each block of the encoder. A block of the decoder has those of the block
            before the one that it mirrors; the last has the first's.
        depths: convolutions of each block of the encoder, and of its mirror image. None is
            VGG-16's: 2 in the first and second block, 3 in the others.
        norm: ``batch``, ``group`` or ``none``.

    Raises:
        ValueError: where inputs are no images, or a setting is wrong.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        depths: Sequence[int] | None = None,
        norm: str = "batch",
    ) -> None:
        in_channels, _, _ = expect_image("backbone=segnet", input_shape)
        widths = expect_widths("widths", widths)
        depths = _expect_depths(depths, len(widths))
        before = (in_channels, *widths[:-1])
        after = (widths[0], *widths[:-1])
        encoder = [Convolutions(*block, norm) for block in zip(before, widths, depths, strict=True)]
        decoder = [Convolutions(*block, norm) for block in zip(widths, after, depths, strict=True)]
        channels = [*widths, *reversed(after)]
        super().__init__([*encoder, *reversed(decoder)], channels, ["map"] * len(channels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def inner(self, number: int, features: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        """See the class, and :meth:`Backbone.inner`."""
        block = self.stages[number]
        assert isinstance(block, Convolutions)
        mirrored = len(self.stages) - 1 - number
        if mirrored > number:
            return block.halves(features)
        size = kept[f"size{mirrored}"].shape[1:]
        features = unpooled(features, kept[f"places{mirrored}"], size)
        return features, block.halves(features)[1]

    def outer(self, number: int, features: Tensor, kept: Kept) -> Tensor:
        """Max-pooling, for a block of the encoder."""
        if 2 * number >= len(self.stages):
            return features
        maps, kept[f"places{number}"] = pooled_with_places(features)
        # Nothing but its shape is kept
        kept[f"size{number}"] = features.new_empty((0, *features.shape[2:]))
        return maps


def _expect_depths(depths: Sequence[int] | None, blocks: int) -> tuple[int, ...]:
    """Convolutions of each block.

    Raises:
        ValueError: where there are not as many numbers as blocks, or one is below 1.
    """
    if depths is None:
        return tuple(SHALLOW if block < 2 else DEEP for block in range(blocks))
    if len(depths) != blocks or min(depths) < 1:
        raise ValueError(
            f"depths={list(depths)} must name the convolutions (1 or more) of each of the {blocks} "
            "blocks that widths=[...] has: use depths=null for VGG-16's"
        )
    return tuple(depths)
