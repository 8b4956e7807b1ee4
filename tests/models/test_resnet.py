"""The residual networks: torchvision's layout, its weights, and dilation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlrun.errors import UserError
from mtlrun.models.backbones.resnet import BasicBlock, ResNet
from mtlrun.models.backbones.resnet18 import ResNet18
from mtlrun.models.backbones.resnet50 import ResNet50

SHAPE = (3, 96, 128)


class Tiny(ResNet):
    """One block a layer, so that the last block of each has a shortcut with a matrix."""

    block = BasicBlock
    depths = (1, 1, 1, 1)


def torchvision_state(network: type[ResNet]) -> dict[str, Tensor]:
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
        (ResNet50, 25_557_032 - 2_049_000, (64, 256, 512, 1024, 2048)),
    ],
)
def test_parameter_counts(
    network: type[ResNet], parameters: int, channels: tuple[int, ...]
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
    network: type[ResNet], stride: int | None, maps: list[tuple[int, int]]
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
    network: type[ResNet], stride: int, size: tuple[int, int]
) -> None:
    plain = network(input_shape=(3, *size)).eval().double()
    dilated = network(input_shape=(3, *size), output_stride=stride).eval().double()
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
def test_loads_torchvisions_state_dict(network: type[ResNet], tmp_path: Path) -> None:
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
        ResNet18(input_shape=SHAPE, weights=str(tmp_path / "weights.pth"))


def test_files_that_are_no_state_dict_are_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        ResNet18(input_shape=SHAPE, weights=str(tmp_path / "checkpoint.pth"))
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match="holds more than tensors"):
        ResNet18(input_shape=SHAPE, weights=str(tmp_path / "module.pth"))


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.pth cannot be read \(No such file or directory\)"):
        ResNet18(input_shape=SHAPE, weights=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        ResNet18(input_shape=SHAPE, weights=str(tmp_path))
