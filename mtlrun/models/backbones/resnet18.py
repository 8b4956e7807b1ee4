"""ResNet-18."""

from mtlrun.models.backbones.resnet import BasicBlock, ResNet


class ResNet18(ResNet):
    """ResNet-18 (He et al., CVPR 2016). See :class:`~mtlrun.models.backbones.resnet.ResNet`."""

    block = BasicBlock
    depths = (2, 2, 2, 2)
