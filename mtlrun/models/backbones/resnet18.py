"""ResNet-18."""

from mtlrun.models.backbones.residual_network import BasicBlock, ResidualNetwork


class ResNet18(ResidualNetwork):
    """ResNet-18 (He et al., CVPR 2016, table 1).

    See :class:`~mtlrun.models.backbones.residual_network.ResidualNetwork`.
    """

    block = BasicBlock
    depths = (2, 2, 2, 2)
