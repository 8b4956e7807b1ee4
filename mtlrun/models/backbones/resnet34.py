"""ResNet-34."""

from mtlrun.models.backbones.residual_network import BasicBlock, ResidualNetwork


class ResNet34(ResidualNetwork):
    """ResNet-34 (He et al., CVPR 2016, table 1).

    See :class:`~mtlrun.models.backbones.residual_network.ResidualNetwork`.
    """

    block = BasicBlock
    depths = (3, 4, 6, 3)
