"""U-Net: the paper's layout, and skips that are what the next stage receives."""

from typing import Any

import architecture_cases
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.backbones.unet import UNet
from mtlrun.models.sharing.reading import stage_outputs

SIZES = [(8, 12), (9, 7), (1, 5)]


def small(**settings: Any) -> UNet:
    """Three blocks without normalisation, in double precision."""
    torch.manual_seed(3)
    settings = {"widths": [4, 5, 6], "norm": "none", **settings}
    return UNet(input_shape=(3, 8, 12), **settings).double()


def by_hand(backbone: UNet, maps: Tensor, outside: float = 1.0) -> list[Tensor]:
    """Every stage's output, of the weights in their order; each is multiplied by ``outside``
    on its way to the next, and on its way into the skip."""
    transposed = any(p.shape[2:] == (2, 2) for p in backbone.parameters())
    weights = iter(list(backbone.parameters()))

    def convolve(maps: Tensor) -> Tensor:
        for _ in range(2):
            maps = F.conv2d(maps, next(weights), next(weights), padding=1).clamp(min=0)
        return maps

    outputs, skips = [convolve(maps)], []
    for _ in range(2):
        skips.append(outputs[-1] * outside)
        outputs.append(convolve(F.max_pool2d(skips[-1], 2, ceil_mode=True)))
    for skip in reversed(skips):
        maps, size = outputs[-1] * outside, skip.shape[2:]
        if transposed:
            weight, bias = next(weights), next(weights)
            rows = []
            for i in range(2):  # each position becomes four
                columns = [torch.einsum("nchw,cd->ndhw", maps, weight[:, :, i, j]) for j in (0, 1)]
                rows.append(torch.stack(columns, 4).flatten(3))
            maps = torch.stack(rows, 3).flatten(2, 3) + bias[:, None, None]
            maps = maps[:, :, : size[0], : size[1]]
        else:
            maps = F.interpolate(maps, size=size, mode="bilinear")
        outputs.append(convolve(torch.cat([skip, maps], 1)))
    return outputs


def test_full_size_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        backbone = UNet(input_shape=(1, 572, 572), norm="none")
        outputs = stage_outputs(backbone, torch.randn(1, 1, 572, 572))
    widths = [64, 128, 256, 512, 1024]
    expected, before = [], 1
    for width in widths:
        expected.append(9 * before * width + 9 * width * width + 2 * width)
        before = width
    for width in widths[-2::-1]:  # up-convolution, skip and map side by side, two convolutions
        expected.append(4 * 2 * width * width + width)
        expected[-1] += 9 * 2 * width * width + 9 * width * width + 2 * width
    counts = [sum(p.numel() for p in stage.parameters()) for stage in backbone.stages]
    assert counts == expected
    assert sum(counts) == 31_030_528
    assert [out.shape[1:] for out in outputs] == [
        (64, 572, 572),
        (128, 286, 286),
        (256, 143, 143),
        (512, 72, 72),
        (1024, 36, 36),
        (512, 72, 72),
        (256, 143, 143),
        (128, 286, 286),
        (64, 572, 572),
    ]
    assert backbone.channels == tuple(out.shape[1] for out in outputs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
@pytest.mark.parametrize("outside", [1.0, -2.0])
def test_equals_the_network_written_out_with_skips_as_the_next_stage_receives_them(
    size: tuple[int, int], upsampling: str, outside: float
) -> None:
    backbone = small(upsampling=upsampling)
    features = inputs = torch.randn(2, 3, *size, dtype=torch.float64)
    kept: dict[str, Tensor] = {}
    found: list[Tensor] = []
    with torch.no_grad():
        expected = by_hand(backbone, inputs, outside)
        for number in range(len(backbone.stages)):
            found.append(backbone.step(number, features, kept))
            features = found[-1] * outside
        if outside == 1:
            assert torch.equal(backbone(inputs), found[-1])
    for value, output in zip(found, expected, strict=True):
        torch.testing.assert_close(value, output)
    assert found[-1].shape == (2, 4, *size)


def test_halves_of_unet_are_behind_each_convolution() -> None:
    backbone = small(norm="batch")
    kept: dict[str, Tensor] = {}
    features = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    backbone.eval()
    for number, stage in enumerate(backbone.stages):
        early, late = backbone.inner(number, features, kept)
        block = stage if number < 3 else stage.block
        assert torch.equal(block.rest(early), late)
        assert early.shape == late.shape
        assert early.shape[1] == backbone.channels[number]
        features = backbone.outer(number, late, kept)
        assert features is late
    assert sorted(kept) == ["skip0", "skip1"]


def test_weights_start_as_hes() -> None:
    torch.manual_seed(0)
    backbone = UNet(input_shape=(3, 32, 32), widths=[64, 96])
    found = {name: p.std().item() for name, p in backbone.named_parameters() if p.dim() == 4}
    for name, fan_in in {
        "stages.0.rest.0.0.weight": 9 * 64,
        "stages.1.first.0.weight": 9 * 64,
        "stages.2.upsampling.weight": 96,
        "stages.2.block.first.0.weight": 9 * 128,
    }.items():
        assert found[name] == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)


def test_last_layer_of_unet_is_its_last_convolution() -> None:
    backbone = small(upsampling="bilinear")
    layers = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    assert backbone.last_layer() == [layers[-1].weight]
    assert [layer.in_channels for layer in layers] == [3, 4, 4, 5, 5, 6, 11, 5, 9, 4]


def test_one_block_is_a_network_too() -> None:
    backbone = UNet(input_shape=(3, 5, 5), widths=[7])
    assert backbone.channels == (7,)
    assert backbone(torch.randn(2, 3, 5, 5)).shape == (2, 7, 5, 5)


def test_copies_of_unet_are_captured_as_one_graph() -> None:
    make = architecture_cases.maker("unet", widths=[4, 4, 4])
    architecture = architecture_cases.build("single_task", backbone="unet", make=make).eval()
    inputs = architecture_cases.inputs_of({"images": ("a",)}, "unet")
    compiled = torch.compile(architecture, backend="eager", fullgraph=True)
    expected = architecture(inputs, ["a", "b"])
    for task, value in compiled(inputs, ["a", "b"]).items():
        assert value.shape == (3, 4, 36, 40)
        assert torch.equal(value, expected[task])
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": []}, r"widths=\[\]"),
        ({"norm": "layer"}, "norm='layer' is none of batch, group, none"),
        ({"upsampling": "nearest"}, "upsampling='nearest' is none of transposed, bilinear"),
    ],
)
def test_unet_refuses_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)
