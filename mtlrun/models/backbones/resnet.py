"""Residual networks in torchvision's layout, so that its weights fit."""

import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mtlrun.errors import UserError
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_image
from mtlrun.models.layers import BatchNorm2d

KEYS_SHOWN = 3
"""Names of parameters that an error about a file's contents shows."""

UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
)
"""What torch.load raises on a damaged file, and on one with more than tensors in it."""


def _convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Convolution without bias, padded so that stride 1 keeps the map's size."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=False,
    )


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The projection beside a block whose input and output differ in shape, else None."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        _convolution(in_channels, out_channels, 1, stride), BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 5 left).

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
        super().__init__()
        # Registered first: Backbone.last_layer takes the last matrix for the one applied last
        self.downsample = _shortcut(in_channels, width, stride)
        self.conv1 = _convolution(in_channels, width, 3, stride, dilations[0])
        self.bn1 = BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _convolution(width, width, 3, dilation=dilations[1])
        self.bn2 = BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, width, H / stride, W / stride]."""
        shortcut = features if self.downsample is None else self.downsample(features)
        residual = self.relu(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        residual += shortcut
        output: Tensor = self.relu(residual)
        return output


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3, 1x1 and a shortcut (He et al., CVPR 2016, figure 5 right).

    As in torchvision ("ResNet V1.5") the 3x3 convolution carries the stride.

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
        super().__init__()
        out_channels = width * self.expansion
        # Registered first: Backbone.last_layer takes the last matrix for the one applied last
        self.downsample = _shortcut(in_channels, out_channels, stride)
        self.conv1 = _convolution(in_channels, width, 1)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride, dilations[0])
        self.bn2 = BatchNorm2d(width)
        self.conv3 = _convolution(width, out_channels, 1)
        self.bn3 = BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, 4 * width, H / stride, W / stride]."""
        shortcut = features if self.downsample is None else self.downsample(features)
        residual = self.relu(self.bn1(self.conv1(features)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        residual += shortcut
        output: Tensor = self.relu(residual)
        return output


class ResNet(Backbone):
    """Stem and four layers of residual blocks (He et al., CVPR 2016), as in torchvision.

    Stages are the stem (with its pooling) and torchvision's layer1 to layer4; there is no ``fc``.

    A smaller ``output_stride`` puts dilations in the place of the last layers' strides, as
    torchvision's ``replace_stride_with_dilation`` and DeepLab do. The same weights then give the
    same features, only at more positions: with ``output_stride=8`` every fourth one is the plain
    network's.

    Args:
        input_shape: [C, H, W].
        output_stride: by how much the last maps are smaller than the input; None is the layout's
            own: 32, or 8 with ``small_input``. DeepLabV3 and the NYUv2 literature use 8.
        small_input: a 3x3 stem without stride and pooling, for images of some 32x32 pixels.
        weights: file with a state dict of torchvision's network of the same name.

    Raises:
        ValueError: where inputs are no images, or ``output_stride`` is none that this layout has.
        UserError: where ``weights`` cannot be read or does not fit.
    """

    block: ClassVar[type[BasicBlock] | type[Bottleneck]]
    depths: ClassVar[tuple[int, int, int, int]]

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        output_stride: int | None = None,
        small_input: bool = False,
        weights: str | None = None,
    ) -> None:
        name = type(self).__name__.lower()
        in_channels, _, _ = expect_image(f"backbone={name}", input_shape)
        stem_stride = 1 if small_input else 4
        possible = [stem_stride * factor for factor in (8, 4, 2, 1)]
        if output_stride is not None and output_stride not in possible:
            raise ValueError(
                f"output_stride={output_stride} is none of {', '.join(map(str, possible))}, "
                f"which backbone={name} has with small_input={str(small_input).lower()}"
            )
        layers, channels = self._layers(stem_stride, output_stride or possible[0])
        stages = [_stem(in_channels, small_input), *layers]
        super().__init__(stages, [64, *channels], ["map"] * len(stages))
        self._initialise()
        if weights is not None:
            load_torchvision(self, Path(weights))

    def _layers(self, stride: int, output_stride: int) -> tuple[list[nn.Module], list[int]]:
        """The four layers and their output channels.

        Args:
            stride: of the stem.
            output_stride: of the whole.
        """
        layers: list[nn.Module] = []
        channels: list[int] = []
        in_channels, dilation = 64, 1
        for index, depth in enumerate(self.depths):
            width = 64 * 2**index
            step = 1 if index == 0 else 2
            before = dilation
            if stride * step > output_stride:
                step, dilation = 1, dilation * step
            stride *= step
            blocks: list[nn.Module] = []
            for position in range(depth):
                # The convolution that lost its stride still reads the denser map before it
                dilations = (before, dilation) if position == 0 else (dilation, dilation)
                block_stride = step if position == 0 else 1
                blocks.append(self.block(in_channels, width, block_stride, dilations))
                in_channels = width * self.block.expansion
            layers.append(nn.Sequential(*blocks))
            channels.append(in_channels)
        return layers, channels

    def _initialise(self) -> None:
        """Kaiming's normal initialisation by fan-out, as torchvision's; norms start at 1 and 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stem(in_channels: int, small_input: bool) -> nn.Sequential:
    """The first stage, named as in torchvision."""
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", _convolution(in_channels, 64, 3 if small_input else 7, 1 if small_input else 2)),
        ("bn1", BatchNorm2d(64)),
        ("relu", nn.ReLU(inplace=True)),
    ]
    if not small_input:
        layers.append(("maxpool", nn.MaxPool2d(3, stride=2, padding=1)))
    return nn.Sequential(OrderedDict(layers))


def load_torchvision(backbone: ResNet, path: Path) -> None:
    """Fill ``backbone`` from a file with a state dict of torchvision's network; ``fc`` is left out.

    Raises:
        UserError: where the file cannot be read, or is not of this network.
    """
    state = {
        _stage_name(name): value
        for name, value in _read_state(path).items()
        if not name.startswith("fc.")
    }
    own = backbone.state_dict()
    # Files from before torch 0.4.1 lack the counters, and nothing reads them
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    misshapen = [
        f"{_torchvision_name(n)} is {list(state[n].shape)} there and {list(own[n].shape)} here"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    problems = [
        f"{what} {_first(names)}"
        for what, names in [
            ("missing", [_torchvision_name(n) for n in missing]),
            ("unexpected", [_torchvision_name(n) for n in unexpected]),
            ("of another shape:", misshapen),
        ]
        if names
    ]
    if problems:
        raise UserError(
            f"backbone.weights={path} does not fit backbone={type(backbone).__name__.lower()}: "
            f"{'; '.join(problems)}. It must be a state dict of torchvision's network of that name "
            "(for 3 input channels, and not for small_input); leave out backbone.weights to start "
            "from random weights."
        )
    backbone.load_state_dict(state, strict=False)


def _read_state(path: Path) -> Mapping[str, Any]:
    """The state dict in a file."""
    path = path.expanduser()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"backbone.weights={path} cannot be read ({error.strerror or error}). Save a state "
            "dict of torchvision's network there, or leave out backbone.weights."
        ) from error
    except UNREADABLE as error:
        raise UserError(
            f"backbone.weights={path} is damaged, or holds more than tensors. It must be a state "
            "dict as torch.save(model.state_dict(), path) writes it."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"backbone.weights={path} holds no state dict (tensors by name). It must be one as "
            "torch.save(model.state_dict(), path) writes it."
        )
    return state


def _stage_name(name: str) -> str:
    """Our name of torchvision's parameter: the stem is stage 0, layer1 to layer4 are 1 to 4."""
    head, _, rest = name.partition(".")
    if head in ("conv1", "bn1"):
        return f"stages.0.{name}"
    if head in ("layer1", "layer2", "layer3", "layer4"):
        return f"stages.{head[-1]}.{rest}"
    return name


def _torchvision_name(name: str) -> str:
    """Torchvision's name of our parameter, the inverse of :func:`_stage_name`."""
    if name.startswith("stages.0."):
        return name.removeprefix("stages.0.")
    return f"layer{name.removeprefix('stages.')}" if name.startswith("stages.") else name


def _first(names: Sequence[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    more = len(names) - KEYS_SHOWN
    return ", ".join(names[:KEYS_SHOWN]) + (f" and {more} more" if more > 0 else "")
