"""ResNet-50."""

from mtlrun.models.backbones.residual_network import Bottleneck, ResidualNetwork


class ResNet50(ResidualNetwork):
    """ResNet-50 (He et al., CVPR 2016, table 1).

    See :class:`~mtlrun.models.backbones.residual_network.ResidualNetwork`.
    """

    block = Bottleneck
    depths = (3, 4, 6, 3)
