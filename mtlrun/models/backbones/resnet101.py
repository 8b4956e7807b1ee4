"""ResNet-101."""

from mtlrun.models.backbones.residual_network import Bottleneck, ResidualNetwork


class ResNet101(ResidualNetwork):
    """ResNet-101 (He et al., CVPR 2016, table 1).

    See :class:`~mtlrun.models.backbones.residual_network.ResidualNetwork`.
    """

    block = Bottleneck
    depths = (3, 4, 23, 3)
