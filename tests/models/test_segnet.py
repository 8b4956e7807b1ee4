"""SegNet: MTAN's layout, and pooling whose indices the decoder gets back."""

from typing import Any

import architecture_cases
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.backbones.convolutions import pooled_with_places, unpooled
from mtlrun.models.backbones.segnet import SegNet
from mtlrun.models.sharing.reading import stage_outputs

SIZES = [(8, 12), (9, 7), (1, 5)]


def small(**settings: Any) -> SegNet:
    """Three blocks of one, two and three convolutions, in double precision."""
    torch.manual_seed(3)
    settings = {"widths": [4, 5, 6], "depths": [1, 2, 3], **settings}
    backbone = SegNet(input_shape=(3, 8, 12), **settings).double()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return backbone


def by_hand(
    backbone: SegNet, maps: Tensor, depths: list[int], outside: Tensor | float = 1.0
) -> list[Tensor]:
    """Every stage's output, of the weights in their order; each is multiplied by ``outside``
    on its way to the next."""
    weights = iter(list(backbone.parameters()))
    statistics = iter([m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)])

    def convolve(maps: Tensor) -> Tensor:
        maps = F.conv2d(maps, next(weights), padding=1)
        norm = next(statistics)
        scale, shift = next(weights), next(weights)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        maps = (maps - mean) / (variance + 1e-5).sqrt()
        return (maps * scale[:, None, None] + shift[:, None, None]).clamp(min=0)

    outputs, kept = [], []
    for depth in depths:
        for _ in range(depth):
            maps = convolve(maps)
        pooled, places = F.max_pool2d(maps, 2, 2, ceil_mode=True, return_indices=True)
        kept.append((maps.shape, places))
        outputs.append(pooled)
        maps = pooled * outside
    for depth in reversed(depths):
        shape, places = kept.pop()
        batch, channels = maps.shape[:2]
        flat = maps.new_zeros(batch, channels, shape[2] * shape[3])
        for row in range(batch):
            for channel in range(channels):
                flat[row, channel, places[row, channel].flatten()] = maps[row, channel].flatten()
        maps = flat.view(batch, channels, shape[2], shape[3])
        for _ in range(depth):
            maps = convolve(maps)
        outputs.append(maps)
        maps = maps * outside
    return outputs


def test_full_size_has_mtans_parameters() -> None:
    with torch.device("meta"):
        backbone = SegNet(input_shape=(3, 288, 384))
    counts = [sum(p.numel() for p in stage.parameters()) for stage in backbone.stages]
    widths = [[64, 64], [128] * 2, [256] * 3, [512] * 3, [512] * 3]
    widths += [[512] * 3, [256] * 3, [128] * 3, [64] * 2, [64] * 2]
    expected, before = [], 3
    for block in widths:
        expected.append(0)
        for width in block:
            expected[-1] += 9 * before * width + 2 * width
            before = width
    assert counts == expected
    # MTAN's code divides by 24,981,069, the size of SegNet with 13 classes: a head of 3x3 and 1x1
    # convolutions, and a bias for each of the 7,168 channels of the convolutions
    head = 9 * 64 * 64 + 64 + 64 * 13 + 13
    assert sum(counts) == 24_981_069 - head - 7_168
    assert backbone.channels == (64, 128, 256, 512, 512, 512, 256, 128, 64, 64)
    assert backbone.layouts == ("map",) * 10


def test_a_stage_pools_or_unpools_its_map() -> None:
    with torch.device("meta"):
        backbone = SegNet(input_shape=(3, 288, 384))
        outputs = stage_outputs(backbone, torch.randn(1, 3, 288, 384))
    sides = [144, 72, 36, 18, 9, 18, 36, 72, 144, 288]
    assert [out.shape[1:] for out in outputs] == [
        (channels, side, side * 4 // 3)
        for channels, side in zip(backbone.channels, sides, strict=True)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_network_written_out(size: tuple[int, int]) -> None:
    backbone = small()
    inputs = torch.randn(2, 3, *size, dtype=torch.float64)
    backbone.train()(torch.randn(4, 3, 8, 8, dtype=torch.float64))  # moves the running statistics
    backbone.eval()
    with torch.no_grad():
        expected = by_hand(backbone, inputs, [1, 2, 3])
        found = stage_outputs(backbone, inputs)
        assert torch.equal(backbone(inputs), found[-1])
    for value, output in zip(found, expected, strict=True):
        torch.testing.assert_close(value, output)
    assert found[-1].shape == (2, 4, *size)


def test_indices_are_those_of_the_copy_whatever_becomes_of_the_maps() -> None:
    # A change between stages that turns the maps' order round: maxima become minima
    backbone = small().eval()
    inputs = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    kept: dict[str, Tensor] = {}
    features, found = inputs, []
    with torch.no_grad():
        for number in range(len(backbone.stages)):
            found.append(backbone.step(number, features, kept))
            features = found[-1] * -2
        expected = by_hand(backbone, inputs, [1, 2, 3], outside=-2)
    for value, output in zip(found, expected, strict=True):
        torch.testing.assert_close(value, output)


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1), (3, 1)])
def test_unpooling_puts_maxima_back(size: tuple[int, int]) -> None:
    maps = torch.rand(2, 3, *size) + 1
    pooled, places = pooled_with_places(maps)
    height, width = size
    assert pooled.shape == (2, 3, -(-height // 2), -(-width // 2))
    back = unpooled(pooled, places, size)
    window = pooled.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :height, :width]
    assert torch.equal(back, torch.where(maps == window, maps, torch.zeros(())))
    assert (back > 0).sum() == pooled.numel()


def test_halves_are_what_masks_read_and_multiply() -> None:
    backbone = small().eval()
    kept: dict[str, Tensor] = {}
    features = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    depths = [1, 2, 3, 3, 2, 1]
    for number, depth in enumerate(depths):
        early, late = backbone.inner(number, features, kept)
        assert early.shape[2:] == late.shape[2:]
        stage = backbone.stages[number]
        assert len(stage.rest) == depth - 1
        if number < 3:
            assert torch.equal(stage.rest(early), late)
        else:  # the decoder's masks read what was unpooled
            assert torch.equal(stage(early), late)
            assert (early == 0).double().mean() >= 0.7
        features = backbone.outer(number, late, kept)
        assert (features is late) == (number >= 3)
    assert early.shape[2:] == (9, 7)


def test_weights_start_as_xaviers() -> None:
    torch.manual_seed(0)
    backbone = SegNet(input_shape=(3, 32, 32), widths=[64, 96], norm="none")
    layers = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [64, 64, 96, 96, 64, 64, 64, 64]
    for layer in layers[1:]:
        deviation = (2 / (9 * (layer.in_channels + layer.out_channels))) ** 0.5
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert layer.bias is not None
        assert (layer.bias == 0).all()


def test_mirrors_any_number_of_blocks() -> None:
    for widths, channels in [([7], (7, 7)), ([8, 16, 4], (8, 16, 4, 16, 8, 8))]:
        backbone = SegNet(input_shape=(3, 60, 80), widths=widths)
        assert backbone.channels == channels
        assert backbone(torch.randn(2, 3, 60, 80)).shape == (2, widths[0], 60, 80)


def test_copies_of_segnet_are_captured_as_one_graph() -> None:
    make = architecture_cases.maker("segnet", widths=[4, 4])
    architecture = architecture_cases.build("single_task", backbone="segnet", make=make).eval()
    inputs = architecture_cases.inputs_of({"images": ("a",)}, "segnet")
    compiled = torch.compile(architecture, backend="eager", fullgraph=True)
    expected = architecture(inputs, ["a", "b"])
    for task, value in compiled(inputs, ["a", "b"]).items():
        assert value.shape == (3, 4, 36, 40)
        assert torch.equal(value, expected[task])
    torch.compiler.reset()


def test_gradients_reach_every_weight_in_bfloat16() -> None:
    backbone = SegNet(input_shape=(3, 9, 7), widths=[4, 5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(torch.randn(2, 3, 9, 7))
    assert features.dtype == torch.bfloat16
    features.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": []}, r"widths=\[\]"),
        ({"widths": [4, 0]}, r"widths=\[4, 0\]"),
        ({"depths": [2, 2]}, r"depths=\[2, 2\] must name .* each of the 3 blocks .*: use depths="),
        ({"depths": [2, 0, 1]}, r"depths=\[2, 0, 1\]"),
        ({"norm": "layer"}, "norm='layer' is none of batch, group, none"),
    ],
)
def test_segnet_refuses_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)
