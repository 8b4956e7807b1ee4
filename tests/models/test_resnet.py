"""The residual networks: torchvision's layout, its weights, and dilation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.errors import UserError
from mtlrun.models.backbones.base import Kept
from mtlrun.models.backbones.residual_network import BasicBlock, Bottleneck, ResidualNetwork
from mtlrun.models.backbones.resnet import ResNet
from mtlrun.models.backbones.resnet18 import ResNet18
from mtlrun.models.backbones.resnet34 import ResNet34
from mtlrun.models.backbones.resnet50 import ResNet50
from mtlrun.models.backbones.resnet101 import ResNet101

SHAPE = (3, 96, 128)


class Tiny(ResidualNetwork):
    """One block a layer, so that the last block of each has a shortcut with a matrix."""

    block = BasicBlock
    depths = (1, 1, 1, 1)


def torchvision_state(network: type[ResidualNetwork]) -> dict[str, Tensor]:
    """A random state dict with the names and shapes that torchvision's network has.

    Written from the layout of the paper, not from our modules.
    """
    bottleneck = network is ResNet50
    state: dict[str, Tensor] = {}

    def convolution(name: str, in_channels: int, out_channels: int, kernel: int) -> None:
        state[f"{name}.weight"] = torch.randn(out_channels, in_channels, kernel, kernel) * 0.05

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean"):
            state[f"{name}.{part}"] = torch.randn(channels)
        state[f"{name}.running_var"] = torch.rand(channels) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", 3, 64, 7)
    norm("bn1", 64)
    before = 64
    for layer, depth in enumerate((3, 4, 6, 3) if bottleneck else (2, 2, 2, 2)):
        width = 64 << layer
        after = width * 4 if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        for block in range(depth):
            prefix = f"layer{layer + 1}.{block}"
            widths = [before, *[width] * (len(kernels) - 1), after]
            for index, kernel in enumerate(kernels):
                convolution(f"{prefix}.conv{index + 1}", widths[index], widths[index + 1], kernel)
                norm(f"{prefix}.bn{index + 1}", widths[index + 1])
            if block == 0 and before != after:
                convolution(f"{prefix}.downsample.0", before, after, 1)
                norm(f"{prefix}.downsample.1", after)
            before = after
    state["fc.weight"] = torch.randn(1000, before)
    state["fc.bias"] = torch.randn(1000)
    return state


@pytest.mark.parametrize(
    ("network", "parameters", "channels"),
    [
        # torchvision's published counts, less those of fc: 513,000 and 2,049,000
        (ResNet18, 11_689_512 - 513_000, (64, 64, 128, 256, 512)),
        (ResNet34, 21_797_672 - 513_000, (64, 64, 128, 256, 512)),
        (ResNet101, 44_549_160 - 2_049_000, (64, 256, 512, 1024, 2048)),
        (ResNet50, 25_557_032 - 2_049_000, (64, 256, 512, 1024, 2048)),
    ],
)
def test_parameter_counts(
    network: type[ResidualNetwork], parameters: int, channels: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        backbone = network(input_shape=SHAPE)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert backbone.channels == channels
    assert backbone.layouts == ("map",) * 5


@pytest.mark.parametrize("network", [ResNet18, ResNet50])
@pytest.mark.parametrize(
    ("stride", "maps"),
    [
        (None, [(24, 32), (24, 32), (12, 16), (6, 8), (3, 4)]),
        (32, [(24, 32), (24, 32), (12, 16), (6, 8), (3, 4)]),
        (16, [(24, 32), (24, 32), (12, 16), (6, 8), (6, 8)]),
        (8, [(24, 32), (24, 32), (12, 16), (12, 16), (12, 16)]),
    ],
)
def test_output_strides(
    network: type[ResidualNetwork], stride: int | None, maps: list[tuple[int, int]]
) -> None:
    with torch.device("meta"):  # shapes without numbers
        backbone = network(input_shape=SHAPE, output_stride=stride)
        features = torch.randn(1, *SHAPE)
    for stage, size in zip(backbone.stages, maps, strict=True):
        features = stage(features)
        assert features.shape[2:] == size


@pytest.mark.parametrize(
    ("network", "stride", "size"),
    [
        (ResNet18, 8, (96, 128)),
        (ResNet18, 16, (75, 90)),
        (ResNet50, 8, (51, 70)),
        (Tiny, 4, (70, 75)),
    ],
)
def test_dilated_features_hold_the_plain_ones(
    network: type[ResidualNetwork], stride: int, size: tuple[int, int]
) -> None:
    plain = network(input_shape=(3, *size), width=8).eval().double()
    dilated = network(input_shape=(3, *size), width=8, output_stride=stride).eval().double()
    assert [name for name, _ in dilated.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]
    dilated.load_state_dict(plain.state_dict())
    inputs = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        few, many = plain(inputs), dilated(inputs)
    torch.testing.assert_close(many[:, :, :: 32 // stride, :: 32 // stride], few)


def test_dilations_are_torchvisions() -> None:
    with torch.device("meta"):
        backbone = ResNet50(input_shape=SHAPE, output_stride=8)
    for layer, dilations in [(2, [1] * 4), (3, [1] + [2] * 5), (4, [2, 4, 4])]:
        found = [block.conv2.dilation[0] for block in backbone.stages[layer]]
        assert found == dilations


def test_small_input_keeps_the_size_in_the_stem() -> None:
    with torch.device("meta"):
        backbone = ResNet18(input_shape=(3, 32, 32), small_input=True)
        denser = ResNet18(input_shape=(3, 32, 32), small_input=True, output_stride=2)
        inputs = torch.randn(2, 3, 32, 32)
    assert backbone.stages[0](inputs).shape == (2, 64, 32, 32)
    assert backbone(inputs).shape == (2, 512, 4, 4)
    assert denser(inputs).shape == (2, 512, 16, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_stride": 12}, "output_stride=12 is none of 32, 16, 8, 4"),
        ({"output_stride": 32, "small_input": True}, "none of 8, 4, 2, 1.*small_input=true"),
    ],
)
def test_refuses_strides_that_it_does_not_have(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet18(input_shape=SHAPE, **settings)


def counted(kernels: list[int], width: int, depths: list[int], stem: int) -> int:
    """Parameters of a network for 3 channels: the last convolution of a block of three widens."""
    growth = 4 if len(kernels) == 3 else 1
    total, before = 3 * width * stem**2 + 2 * width, width
    for layer, depth in enumerate(depths):
        inside = width * 2**layer
        for _ in range(depth):
            ends = [before, *[inside] * (len(kernels) - 1), inside * growth]
            for kernel, entering, leaving in zip(kernels, ends, ends[1:], strict=False):
                total += entering * leaving * kernel**2 + 2 * leaving
            if before != ends[-1]:
                total += before * ends[-1] + 2 * ends[-1]
            before = ends[-1]
    return total


@pytest.mark.parametrize(
    ("settings", "kernels", "strides"),
    [
        # CIFAR's ResNet-20 of the paper's section 4.2: 0.27 million
        ({"depths": [3, 3, 3], "width": 16, "small_input": True}, [3, 3], [1, 1, 2, 4]),
        ({"depths": [1, 2], "width": 5}, [3, 3], [4, 4, 8]),
        ({"depths": [2, 1, 3, 1, 2], "width": 6, "block": "bottleneck"}, [1, 3, 1], None),
    ],
)
def test_any_depth_and_width(
    settings: dict[str, Any], kernels: list[int], strides: list[int] | None
) -> None:
    backbone = ResNet(input_shape=(3, 64, 64), **settings)
    stem = 3 if settings.get("small_input") else 7
    parameters = sum(p.numel() for p in backbone.parameters())
    assert parameters == counted(kernels, settings["width"], settings["depths"], stem)
    features, kept = torch.randn(2, 3, 64, 64), Kept()
    for number, stride in enumerate(strides or [4, 4, 8, 16, 32, 64]):
        early, late = backbone.inner(number, features, kept)
        features = backbone.step(number, features, kept)
        assert features.shape == (2, backbone.channels[number], 64 // stride, 64 // stride)
        assert early.shape == late.shape == features.shape


def test_names_are_for_depths_widths_and_blocks() -> None:
    named = ResNet34(input_shape=SHAPE, width=4).state_dict()
    free = ResNet(input_shape=SHAPE, width=4, depths=[3, 4, 6, 3]).state_dict()
    assert {n: v.shape for n, v in named.items()} == {n: v.shape for n, v in free.items()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": []}, r"depths=\[\] must name the number of blocks"),
        ({"depths": [2, 0]}, r"depths=\[2, 0\]"),
        ({"block": "wide"}, "block='wide' is none of basic, bottleneck"),
        ({"width": 0}, r"width=\[0\]"),
        ({"depths": [1, 1], "output_stride": 16}, "output_stride=16 is none of 8, 4, which"),
    ],
)
def test_free_resnet_refuses_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(input_shape=SHAPE, **settings)


def normed(features: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch normalisation by the batch's own mean and variance."""
    mean = features.mean((0, 2, 3), keepdim=True)
    variance = features.var((0, 2, 3), correction=0, keepdim=True)
    scale, shift = norm.weight[:, None, None], norm.bias[:, None, None]
    return (features - mean) / (variance + norm.eps).sqrt() * scale + shift


def with_random_norms(block: nn.Module) -> nn.Module:
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return block.double()


@pytest.mark.parametrize("stride", [1, 2])
def test_basic_block_equals_the_formula(stride: int) -> None:
    torch.manual_seed(0)
    block = BasicBlock(6, 6 * stride, stride, (1, 2))
    with_random_norms(block)
    features = torch.randn(3, 6, 8, 10, dtype=torch.float64)
    hidden = F.conv2d(features, block.conv1.weight, stride=stride, padding=1)
    hidden = normed(hidden, block.bn1).relu()
    branch = normed(F.conv2d(hidden, block.conv2.weight, padding=2, dilation=2), block.bn2)
    shortcut = features
    if block.downsample is not None:
        projection, norm = block.downsample
        shortcut = normed(F.conv2d(features, projection.weight, stride=stride), norm)
    assert (block.downsample is None) == (stride == 1)
    torch.testing.assert_close(block(features), (branch + shortcut).relu())


def test_bottleneck_equals_the_formula() -> None:
    torch.manual_seed(0)
    block = Bottleneck(8, 2, 1, (2, 1))
    with_random_norms(block)
    features = torch.randn(3, 8, 7, 9, dtype=torch.float64)
    hidden = normed(F.conv2d(features, block.conv1.weight), block.bn1).relu()
    hidden = F.conv2d(hidden, block.conv2.weight, padding=2, dilation=2)
    branch = normed(F.conv2d(normed(hidden, block.bn2).relu(), block.conv3.weight), block.bn3)
    assert block.downsample is None
    torch.testing.assert_close(block(features), (branch + features).relu())


def test_a_layer_opens_before_its_last_block() -> None:
    backbone = ResNet(input_shape=SHAPE, width=4, depths=[1, 3]).eval()
    features = torch.randn(1, *SHAPE)
    stem, kept = backbone.stages[0](features), Kept()
    early, late = backbone.inner(0, features, kept)
    assert early is late
    assert torch.equal(late, stem)
    early, late = backbone.inner(1, stem, kept)  # one block, which may change the channels
    assert early is late
    first, second, third = backbone.stages[2]
    early, late = backbone.inner(2, backbone.stages[1](stem), kept)
    assert torch.equal(early, second(first(backbone.stages[1](stem))))
    assert torch.equal(late, third(early))
    assert torch.equal(backbone(features), late)


def test_last_layer_is_not_the_shortcut() -> None:
    backbone = Tiny(input_shape=SHAPE)
    (last,) = backbone.last_layer()
    assert last is backbone.get_parameter("stages.4.0.conv2.weight")


def test_initial_weights_are_kaimings_by_fan_out() -> None:
    torch.manual_seed(0)
    backbone = ResNet18(input_shape=SHAPE)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 30_000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            expected = (2 / fan_out) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.02), name
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize("network", [ResNet18, ResNet50])
def test_loads_torchvisions_state_dict(network: type[ResidualNetwork], tmp_path: Path) -> None:
    state = torchvision_state(network)
    torch.save(state, tmp_path / "weights.pth")
    backbone = network(input_shape=SHAPE, weights=str(tmp_path / "weights.pth"), output_stride=8)
    loaded = backbone.state_dict()
    assert len(loaded) == len(state) - 2  # without fc
    for name, value in state.items():
        if name.startswith("layer"):
            assert torch.equal(loaded[f"stages.{name.removeprefix('layer')}"], value)
        elif not name.startswith("fc."):
            assert torch.equal(loaded[f"stages.0.{name}"], value)


def test_loads_files_without_batch_counters(tmp_path: Path) -> None:
    state = {k: v for k, v in torchvision_state(ResNet18).items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    backbone = ResNet18(input_shape=SHAPE, weights=str(tmp_path / "old.pth"))
    assert torch.equal(backbone.get_parameter("stages.0.conv1.weight"), state["conv1.weight"])


def test_another_networks_file_is_named(tmp_path: Path) -> None:
    torch.save(torchvision_state(ResNet50), tmp_path / "weights.pth")
    with pytest.raises(UserError) as caught:
        ResNet18(input_shape=SHAPE, weights=str(tmp_path / "weights.pth"))
    message = str(caught.value)
    assert "weights.pth does not fit backbone=resnet18: unexpected layer1.0." in message
    assert " more" in message
    assert "layer1.0.conv1.weight is [64, 64, 1, 1] there and [64, 64, 3, 3] here" in message


def test_free_resnet_loads_the_network_of_its_depths(tmp_path: Path) -> None:
    state = torchvision_state(ResNet18)
    torch.save(state, tmp_path / "weights.pth")
    file = str(tmp_path / "weights.pth")
    backbone = ResNet(input_shape=SHAPE, weights=file)
    assert torch.equal(
        backbone.get_parameter("stages.4.1.conv2.weight"), state["layer4.1.conv2.weight"]
    )
    message = (
        r"backbone=resnet: missing layer3.2.conv1.weight.* It must be a state dict of "
        r"torchvision's network of that name, or of these depths and blocks \(for 3 input "
        r"channels, width=64"
    )
    with pytest.raises(UserError, match=message):
        ResNet(input_shape=SHAPE, depths=[2, 2, 3, 2], weights=file)
    with pytest.raises(UserError, match=r"backbone=resnet18: of another shape: conv1.weight is"):
        ResNet18(input_shape=SHAPE, width=32, weights=file)


def test_missing_and_misspelt_names_are_named(tmp_path: Path) -> None:
    state = torchvision_state(ResNet18)
    state["layer2.0.conv9.weight"] = state.pop("layer2.0.conv1.weight")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(
        UserError, match=r"missing layer2.0.conv1.weight; unexpected layer2.0.conv9.weight\."
    ):
        ResNet18(input_shape=SHAPE, weights=str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("settings", [{"small_input": True}, {"input_shape": (1, 32, 32)}])
def test_weights_for_another_stem_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.save(torchvision_state(ResNet18), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"shape: conv1.weight is \[64, 3, 7, 7\] there"):
        ResNet18(**{"input_shape": SHAPE, **settings}, weights=str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("content", [b"", b"hello\n", b"PK\x03\x04cut", b"\x80\x02garbage"])
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth is damaged"):
        ResNet18(input_shape=SHAPE, width=8, weights=str(tmp_path / "weights.pth"))


def test_files_that_are_no_state_dict_are_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        ResNet18(input_shape=SHAPE, width=8, weights=str(tmp_path / "checkpoint.pth"))
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match="holds more than tensors"):
        ResNet18(input_shape=SHAPE, width=8, weights=str(tmp_path / "module.pth"))


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.pth cannot be read \(No such file or directory\)"):
        ResNet18(input_shape=SHAPE, width=8, weights=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        ResNet18(input_shape=SHAPE, width=8, weights=str(tmp_path))
