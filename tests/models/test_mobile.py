"""MobileNetV2: its size and weights, strides and dilations, and its blocks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.errors import UserError
from mtlrun.models.backbones.base import Kept
from mtlrun.models.backbones.mobile import InvertedResidual, Mobile

SHAPE = (3, 64, 96)
CHANNELS = (16, 24, 32, 96, 320, 1280)


def test_size_from_the_papers_table_by_hand() -> None:
    def widening(entering: int, leaving: int, kernel: int) -> int:
        return entering * leaving * kernel**2 + 2 * leaving  # with its norm

    total, before = widening(3, 32, 3), 32
    rows = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    for expansion, after, blocks in rows:
        for _ in range(blocks):
            hidden = before * expansion
            if expansion > 1:
                total += widening(before, hidden, 1)
            total += hidden * 9 + 2 * hidden + widening(hidden, after, 1)
            before = after
    total += widening(before, 1280, 1)
    assert total == 2_223_872
    with torch.device("meta"):
        backbone = Mobile(input_shape=SHAPE)
    assert sum(p.numel() for p in backbone.parameters()) == total
    assert backbone.channels == CHANNELS


@pytest.mark.parametrize(
    ("multiplier", "millions", "channels"),
    [
        # The paper's table 4 (1.0 and 1.4) and its authors' page, with 1000 classes
        (0.35, 1.66, (8, 8, 16, 32, 112, 1280)),
        (0.5, 1.95, (8, 16, 16, 48, 160, 1280)),
        (0.75, 2.61, (16, 24, 24, 72, 240, 1280)),
        (1.0, 3.47, CHANNELS),
        (1.4, 6.06, (24, 32, 48, 136, 448, 1792)),
    ],
)
def test_widths_are_the_papers(
    multiplier: float, millions: float, channels: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        backbone = Mobile(input_shape=SHAPE, width_multiplier=multiplier)
    assert backbone.channels == channels
    parameters = sum(p.numel() for p in backbone.parameters()) + 1001 * channels[-1]
    assert parameters / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(
    ("settings", "strides"),
    [
        ({}, [2, 4, 8, 16, 32, 32]),
        ({"output_stride": 16}, [2, 4, 8, 16, 16, 16]),
        ({"output_stride": 8}, [2, 4, 8, 8, 8, 8]),
        ({"output_stride": 2}, [2] * 6),
        ({"small_input": True}, [1, 1, 2, 4, 8, 8]),
        ({"small_input": True, "output_stride": 4}, [1, 1, 2, 4, 4, 4]),
    ],
)
def test_strides_of_stages(settings: dict[str, Any], strides: list[int]) -> None:
    with torch.device("meta"):
        backbone = Mobile(input_shape=SHAPE, **settings)
        features = torch.randn(2, *SHAPE)
    for stage, channels, stride in zip(backbone.stages, CHANNELS, strides, strict=True):
        features = stage(features)
        assert features.shape == (2, channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize(
    ("stride", "multiplier"),
    [(16, 0.35), (8, 0.25), (2, 0.1)],  # the narrowest have equal channels where a stride was
)
def test_dilated_maps_hold_the_plain_ones(stride: int, multiplier: float) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(1, 3, 75, 90, dtype=torch.float64)
    plain = Mobile(input_shape=(3, 75, 90), width_multiplier=multiplier).double()
    with torch.no_grad():  # running statistics of these inputs, else features are near 0
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        plain(inputs)
    plain.eval()
    dilated = Mobile(
        input_shape=(3, 75, 90), width_multiplier=multiplier, output_stride=stride
    ).eval()
    dilated.double().load_state_dict(plain.state_dict())
    with torch.no_grad():
        few, many = plain(inputs), dilated(inputs)
    torch.testing.assert_close(many[:, :, :: 32 // stride, :: 32 // stride], few)
    assert few.std() > 0.1


def test_inverted_residual_equals_the_formula() -> None:
    torch.manual_seed(0)
    backbone = Mobile(input_shape=SHAPE, width_multiplier=0.35).eval().double()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
    block = backbone.stages[2][1]
    assert isinstance(block, InvertedResidual)

    def normed(features: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (features - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[
            :, None, None
        ]

    expand, depthwise, project, linear = block.conv
    features = torch.randn(2, 16, 6, 8, dtype=torch.float64)
    hidden = normed(F.conv2d(features, expand[0].weight), expand[1]).clamp(0, 6)
    hidden = F.conv2d(hidden, depthwise[0].weight, padding=1, groups=16 * 6)
    hidden = normed(hidden, depthwise[1]).clamp(0, 6)
    expected = features + normed(F.conv2d(hidden, project.weight), linear)
    torch.testing.assert_close(block(features), expected)
    # No shortcut beside what changes the shape, and no activation behind the last convolution
    opening = backbone.stages[2][0]
    assert not isinstance(opening, InvertedResidual)
    assert (opening(torch.randn(2, 8, 6, 8, dtype=torch.float64)) < 0).any()


def test_opens_before_a_last_block_that_keeps_the_shape() -> None:
    backbone = Mobile(input_shape=SHAPE, width_multiplier=0.35).eval()
    features, kept = torch.randn(2, *SHAPE), Kept()
    opened = []
    for number, stage in enumerate(backbone.stages):
        early, late = backbone.inner(number, features, kept)
        assert early.shape == late.shape
        assert torch.equal(late, stage(features))
        if early is not late:
            opened.append(number)
            assert torch.equal(stage[-1](early), late)
        features = late
    assert opened == [1, 2, 3]


def torchvision_state() -> dict[str, Tensor]:
    """A random state dict with the names that torchvision's mobilenet_v2 has."""
    state: dict[str, Tensor] = {}

    def layer(convolution: str, norm: str, *shape: int) -> None:
        state[f"{convolution}.weight"] = torch.randn(shape) * 0.05
        for part in ("weight", "bias", "running_mean"):
            state[f"{norm}.{part}"] = torch.randn(shape[0])
        state[f"{norm}.running_var"] = torch.rand(shape[0]) + 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(3)

    layer("features.0.0", "features.0.1", 32, 3, 3, 3)
    layer("features.1.conv.0.0", "features.1.conv.0.1", 32, 1, 3, 3)
    layer("features.1.conv.1", "features.1.conv.2", 16, 32, 1, 1)
    afters = [24] * 2 + [32] * 3 + [64] * 4 + [96] * 3 + [160] * 3 + [320]
    for index, (before, after) in enumerate(zip([16, *afters], afters, strict=False), 2):
        name, hidden = f"features.{index}.conv", 6 * before
        layer(f"{name}.0.0", f"{name}.0.1", hidden, before, 1, 1)
        layer(f"{name}.1.0", f"{name}.1.1", hidden, 1, 3, 3)
        layer(f"{name}.2", f"{name}.3", after, hidden, 1, 1)
    layer("features.18.0", "features.18.1", 1280, 320, 1, 1)
    state["classifier.1.weight"] = torch.randn(1000, 1280)
    state["classifier.1.bias"] = torch.randn(1000)
    return state


def test_loads_torchvisions_mobilenet(tmp_path: Path) -> None:
    state = torchvision_state()
    torch.save(state, tmp_path / "weights.pth")
    file = str(tmp_path / "weights.pth")
    loaded = Mobile(input_shape=SHAPE, weights=file, output_stride=16, small_input=False)
    own = loaded.state_dict()
    assert len(own) == len(state) - 2  # without the classifier
    for (mine, value), (theirs, expected) in zip(own.items(), state.items(), strict=False):
        assert torch.equal(value, expected), (mine, theirs)
    message = (
        r"does not fit backbone=mobile: of another shape: features\.0\.0\.weight is \[32, 3, 3, 3\]"
        r" there and \[16, 3, 3, 3\] here.*mobilenet_v2 of this width_multiplier"
    )
    with pytest.raises(UserError, match=message):
        Mobile(input_shape=SHAPE, width_multiplier=0.5, weights=file)
    with pytest.raises(UserError, match=r"\[32, 1, 3, 3\] here.*for 3 input channels"):
        Mobile(input_shape=(1, 32, 32), weights=file)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_widths_that_are_none(multiplier: float) -> None:
    with pytest.raises(ValueError, match=f"width_multiplier={multiplier} must be above 0"):
        Mobile(input_shape=SHAPE, width_multiplier=multiplier)


def test_refuses_output_strides_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="output_stride=12 is none of 32, 16, 8, 4, 2, which"):
        Mobile(input_shape=SHAPE, output_stride=12)
    with pytest.raises(ValueError, match="is none of 8, 4, 2, 1, which backbone=mobile has with"):
        Mobile(input_shape=SHAPE, output_stride=32, small_input=True)
