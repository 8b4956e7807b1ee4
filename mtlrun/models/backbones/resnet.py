"""A residual network of one's own depth."""

from collections.abc import Sequence

from mtlrun.models.backbones.residual_network import BasicBlock, Bottleneck, ResidualNetwork
from mtlrun.models.checks import expect_choice

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


class ResNet(ResidualNetwork):
    """A residual network of any depth and width (He et al., CVPR 2016).

    ``depths=[3,3,3] width=16 small_input=true`` is the paper's network of 20 layers for CIFAR-10
    (section 4.2), with projections as shortcuts where the size changes; [9,9,9] is that of 56.

    Args:
        input_shape: [C, H, W].
        depths: number of blocks in each layer; each layer is a stage.
        block: ``basic`` (two 3x3 convolutions) or ``bottleneck`` (1x1, 3x3, 1x1).
        width: see :class:`~mtlrun.models.backbones.residual_network.ResidualNetwork`.
        output_stride: likewise; None is 4 (1 with ``small_input``), doubled by each layer but the
            first.
        small_input: likewise.
        weights: likewise; [3, 4, 23, 3] bottlenecks fit torchvision's resnet101.

    Raises:
        ValueError: where inputs are no images, or a setting is wrong.
        UserError: where ``weights`` cannot be read or does not fit.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        depths: Sequence[int] = (2, 2, 2, 2),
        block: str = "basic",
        width: int = 64,
        output_stride: int | None = None,
        small_input: bool = False,
        weights: str | None = None,
    ) -> None:
        expect_choice("block", block, tuple(BLOCKS))
        if not depths or min(depths) < 1:
            raise ValueError(
                f"depths={list(depths)} must name the number of blocks (1 or more) of each layer"
            )
        self.block = BLOCKS[block]
        self.depths = tuple(depths)
        super().__init__(
            input_shape=input_shape,
            width=width,
            output_stride=output_stride,
            small_input=small_input,
            weights=weights,
        )
