"""Residual networks of any depth and width, in torchvision's layout, so that its weights fit."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.backbones.strides import steps
from mtlrun.models.backbones.torchvision_weights import load_torchvision
from mtlrun.models.checks import expect_image, expect_widths
from mtlrun.models.layers import BatchNorm2d
from mtlrun.models.residual import Residual, around_last_block


def plain_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Conv2d:
    """Convolution without bias, padded so that stride 1 keeps the map's size."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
        bias=False,
    )


class _Block(Residual):
    """What both kinds of block share: the projection beside them, and the ReLU behind the sum.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out.
        stride: of the whole.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        # Registered first: Backbone.last_layer takes the last matrix for the one applied last
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                plain_convolution(in_channels, out_channels, 1, stride), BatchNorm2d(out_channels)
            )
        # In place: it only ever sees what this block has just made, never the block's input
        self.relu = nn.ReLU(inplace=True)

    def shortcut(self, features: Tensor) -> Tensor:
        """The features, or their projection where the branch changes their shape."""
        return features if self.downsample is None else self.downsample(features)

    def close(self, features: Tensor) -> Tensor:
        """ReLU."""
        output: Tensor = self.relu(features)
        return output


class BasicBlock(_Block):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 5 left).

    [N, in_channels, H, W] -> [N, width, H / stride, W / stride].

    Args:
        in_channels: channels that come in.
        width: channels of both convolutions.
        stride: of the first convolution.
        dilations: of the first and of the second convolution.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, dilations: tuple[int, int]
    ) -> None:
        super().__init__(in_channels, width, stride)
        self.conv1 = plain_convolution(in_channels, width, 3, stride, dilations[0])
        self.bn1 = BatchNorm2d(width)
        self.conv2 = plain_convolution(width, width, 3, dilation=dilations[1])
        self.bn2 = BatchNorm2d(width)

    def branch(self, features: Tensor) -> Tensor:
        """Both convolutions."""
        hidden = self.relu(self.bn1(self.conv1(features)))
        output: Tensor = self.bn2(self.conv2(hidden))
        return output


class Bottleneck(_Block):
    """Convolutions 1x1, 3x3, 1x1 and a shortcut (He et al., CVPR 2016, figure 5 right).

    [N, in_channels, H, W] -> [N, 4 * width, H / stride, W / stride]. As in torchvision ("ResNet
    V1.5") the 3x3 convolution carries the stride.

    Args:
        in_channels: channels that come in.
        width: channels of the 3x3 convolution; four times as many go out.
        stride: of the 3x3 convolution.
        dilations: of its first and second 3x3 convolution, of which this block has one.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, dilations: tuple[int, int]
    ) -> None:
        out_channels = width * self.expansion
        super().__init__(in_channels, out_channels, stride)
        self.conv1 = plain_convolution(in_channels, width, 1)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = plain_convolution(width, width, 3, stride, dilations[0])
        self.bn2 = BatchNorm2d(width)
        self.conv3 = plain_convolution(width, out_channels, 1)
        self.bn3 = BatchNorm2d(out_channels)

    def branch(self, features: Tensor) -> Tensor:
        """The three convolutions."""
        hidden = self.relu(self.bn1(self.conv1(features)))
        hidden = self.relu(self.bn2(self.conv2(hidden)))
        output: Tensor = self.bn3(self.conv3(hidden))
        return output


class ResidualNetwork(Backbone):
    """Stem and layers of residual blocks (He et al., CVPR 2016), as in torchvision.

    Stages are the stem (with its pooling) and torchvision's layer1 to layer4; there is no ``fc``.
    Each layer has twice as many channels as the one before, and maps of half the size.

    A smaller ``output_stride`` puts dilations in the place of the last layers' strides, as
    torchvision's ``replace_stride_with_dilation`` and DeepLab do. The same weights then give the
    same features, only at more positions: with ``output_stride=8`` every fourth one is the plain
    network's.

    Args:
        input_shape: [C, H, W].
        width: channels of the stem, and of the 3x3 convolutions of the first layer.
        output_stride: by how much the last maps are smaller than the input; None is the layout's
            own: 32, or 8 with ``small_input``. DeepLabV3 and the NYUv2 literature use 8.
        small_input: a 3x3 stem without stride and pooling, for images of some 32x32 pixels.
        weights: file with a state dict of torchvision's network of the same name.

    Attributes:
        block: the kind of block.
        depths: how many there are in each layer.

    Raises:
        ValueError: where inputs are no images, or a setting is none that this layout has.
        UserError: where ``weights`` cannot be read or does not fit.
    """

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, ...]

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        width: int = 64,
        output_stride: int | None = None,
        small_input: bool = False,
        weights: str | None = None,
    ) -> None:
        choice = f"backbone={type(self).__name__.lower()}"
        in_channels, _, _ = expect_image(choice, input_shape)
        expect_widths("width", [width])
        strides = [1] + [2] * (len(self.depths) - 1)
        layers: list[nn.Module] = []
        channels = [width]
        for number, step in enumerate(
            steps(choice, 1 if small_input else 4, strides, output_stride, small_input)
        ):
            blocks: list[nn.Module] = []
            before, inside = channels[-1], width * 2**number
            for position in range(self.depths[number]):
                first = position == 0
                stride, entered = (step.stride, step.entered) if first else (1, step.dilation)
                blocks.append(self.block(before, inside, stride, (entered, step.dilation)))
                before = inside * self.block.expansion
            layers.append(nn.Sequential(*blocks))
            channels.append(before)
        stages = [_stem(in_channels, width, small_input), *layers]
        super().__init__(stages, channels, ["map"] * len(stages))
        kaiming_by_fan_out(self)
        if weights is not None:
            self._load(Path(weights))

    def inner(self, number: int, features: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
        """The features before a layer's last block, and its output; of the stem the output."""
        del kept
        return around_last_block(self.stages[number], features)

    def _load(self, path: Path) -> None:
        """Fill from a file of torchvision's."""
        layers = {f"stages.{n}.": f"layer{n}." for n in range(1, len(self.stages))}
        load_torchvision(
            self,
            path,
            prefixes={"stages.0.conv1.": "conv1.", "stages.0.bn1.": "bn1.", **layers},
            classifier="fc.",
            network=(
                "torchvision's network of that name, or of these depths and blocks (for 3 input "
                "channels, width=64, and not for small_input)"
            ),
        )


def _stem(in_channels: int, width: int, small_input: bool) -> nn.Sequential:
    """The first stage, named as in torchvision."""
    kernel_size, stride = (3, 1) if small_input else (7, 2)
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", plain_convolution(in_channels, width, kernel_size, stride)),
        ("bn1", BatchNorm2d(width)),
        ("relu", nn.ReLU(inplace=True)),
    ]
    if not small_input:
        layers.append(("maxpool", nn.MaxPool2d(3, stride=2, padding=1)))
    return nn.Sequential(OrderedDict(layers))


def kaiming_by_fan_out(network: nn.Module) -> None:
    """Kaiming's normal initialisation by fan-out, as torchvision's; norms start at 1 and 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
