"""ResNet-50."""

from mtlrun.models.backbones.resnet import Bottleneck, ResNet


class ResNet50(ResNet):
    """ResNet-50 (He et al., CVPR 2016). See :class:`~mtlrun.models.backbones.resnet.ResNet`."""

    block = Bottleneck
    depths = (3, 4, 6, 3)
