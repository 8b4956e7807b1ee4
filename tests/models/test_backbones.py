"""Every backbone of configs/backbone, and what is particular to the small ones."""

from typing import Any

import pytest
import torch
from backbone_inputs import NAMES, build, inputs_of, kind_of
from torch import Tensor, nn

from mtlrun.models.backbones.base import Kept
from mtlrun.models.backbones.cnn import CNN
from mtlrun.models.backbones.lenet import LeNet
from mtlrun.models.backbones.mlp import MLP

IMAGES = [name for name in NAMES if kind_of(name) == "values" and name != "mlp"]
SIDE_BY_SIDE = {"text_cnn": 3, "lstm": 4}
"""Matrices of the last layer, where it has more than one."""


def in_double(inputs: Tensor) -> Tensor:
    return inputs.double() if inputs.is_floating_point() else inputs


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_stages_give_what_they_declare(name: str, training: bool) -> None:
    backbone = build(name).train(training)
    features, kept = inputs_of(kind_of(name), 2), Kept()
    for number, (channels, layout) in enumerate(
        zip(backbone.channels, backbone.layouts, strict=True)
    ):
        features = backbone.step(number, features, kept)
        assert len(features) == 2
        assert features.shape[2 if layout == "sequence" else 1] == channels
        assert features.dim() == {"map": 4, "sequence": 3, "vector": 2}[layout]


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_stages_in_turn_and_deterministic(name: str) -> None:
    backbone, again = build(name).eval(), build(name).eval()
    inputs = inputs_of(kind_of(name), 2)
    expected, kept = inputs, Kept()
    for number in range(len(backbone.stages)):
        expected = backbone.step(number, expected, kept)
    assert torch.equal(backbone(inputs), expected)
    assert torch.equal(again(inputs), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_a_batch_equals_a_batch_of_one_in_evaluation(name: str) -> None:
    backbone = build(name).eval().double()
    inputs = in_double(inputs_of(kind_of(name), 3))
    torch.testing.assert_close(backbone(inputs)[:1], backbone(inputs[:1]))


@pytest.mark.parametrize("name", NAMES)
def test_trains_on_a_batch_of_one_with_a_map_of_one_position(name: str) -> None:
    side = {"lenet": 16, "tutorial_cnn": 17}.get(name, 8)
    shape = (3, side, side)
    backbone = build(name, shape).train()
    backbone(inputs_of(kind_of(name), 1, shape)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_last_layer_is_the_matrix_applied_last(name: str) -> None:
    backbone = build(name)
    applied: list[nn.Parameter] = []

    def note(module: nn.Module, *_: Any) -> None:
        applied.extend(p for p in module.parameters(recurse=False) if p.dim() >= 2)

    for module in backbone.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding | nn.LSTM):
            module.register_forward_hook(note)
    features: Tensor = backbone(inputs_of(kind_of(name), 2))
    last = backbone.last_layer()
    expected = applied[-SIDE_BY_SIDE.get(name, 1) :]
    assert [id(p) for p in last] == [id(p) for p in expected]
    for gradient in torch.autograd.grad(features.square().mean(), last):
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_gives_the_same_features(name: str) -> None:
    backbone = build(name).eval().double()
    inputs = in_double(inputs_of(kind_of(name), 2))
    expected = backbone(inputs)
    backbone.to(memory_format=torch.channels_last)
    if inputs.dim() == 4:
        inputs = inputs.to(memory_format=torch.channels_last)
    torch.testing.assert_close(backbone(inputs), expected)


@pytest.mark.parametrize("name", IMAGES)
def test_image_backbones_refuse_vectors(name: str) -> None:
    family = name.removesuffix("_dilated")
    with pytest.raises(
        Exception, match=rf"backbone={family} reads images .*\[64\]: use backbone=mlp"
    ):
        build(name, (64,))


def test_every_backbone_has_a_config() -> None:
    assert {"mlp", "lenet", "cnn", "resnet18", "resnet50"} <= set(NAMES)
    assert {"bag_of_words", "text_cnn", "lstm", "transformer", "pretrained_text"} <= set(NAMES)
    assert "tabular_mlp" in NAMES


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 8)])
def test_mlp_reads_any_shape_alike(shape: tuple[int, ...]) -> None:
    inputs = torch.randn(4, 64)
    expected = build("mlp", (64,))(inputs)
    assert torch.equal(build("mlp", shape)(inputs.reshape(4, *shape)), expected)


def test_mlp_layers_in_order() -> None:
    backbone = MLP(input_shape=(5,), hidden=(7, 3), activation="gelu", dropout=0.5, norm="layer")
    kinds = [type(layer) for layer in backbone.stages[1]]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.GELU, nn.Dropout]
    assert backbone.channels == (7, 3)
    assert count(backbone) == (5 * 7 + 7) + 2 * 7 + (7 * 3 + 3) + 2 * 3


def test_mlp_batch_norm_takes_the_place_of_the_bias() -> None:
    backbone = MLP(input_shape=(5,), hidden=(7,), norm="batch")
    assert count(backbone) == 5 * 7 + 2 * 7
    features = backbone(torch.randn(1, 5))  # one row: by the running statistics, 0 and 1
    assert features.shape == (1, 7)


def test_batch_of_one_leaves_the_running_statistics_alone() -> None:
    backbone = MLP(input_shape=(5,), hidden=(7,), norm="batch")
    backbone(torch.randn(8, 5))
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    inputs = torch.randn(1, 5)
    in_training = backbone.train()(inputs)
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    assert torch.equal(in_training, backbone.eval()(inputs))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": []}, r"hidden=\[\]"),
        ({"hidden": [8, 0]}, r"hidden=\[8, 0\]"),
        ({"activation": "rleu"}, "activation='rleu' is none of relu"),
        ({"norm": "group"}, "norm='group' is none of none, batch, layer"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
    ],
)
def test_mlp_refuses_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(input_shape=(5,), **settings)


@pytest.mark.parametrize(("side", "vector"), [(28, 320), (36, 720)])
def test_lenet_is_sener_and_koltuns(side: int, vector: int) -> None:
    backbone = LeNet(input_shape=(1, side, side))
    assert [count(stage) for stage in backbone.stages] == [
        10 * 25 + 10,
        10 * 20 * 25 + 20,
        vector * 50 + 50,
    ]
    assert backbone.channels == (10, 20, 50)


def test_lenet_equals_the_formula() -> None:
    backbone = LeNet(input_shape=(1, 36, 36))
    weights = [p.detach() for p in backbone.parameters()]
    inputs = torch.randn(2, 1, 36, 36)
    maps = torch.conv2d(inputs, weights[0], weights[1]).relu()
    maps = torch.conv2d(nn.functional.max_pool2d(maps, 2), weights[2], weights[3]).relu()
    vectors = nn.functional.max_pool2d(maps, 2).flatten(1)
    expected = (vectors @ weights[4].T + weights[5]).relu()
    torch.testing.assert_close(backbone(inputs), expected)


@pytest.mark.parametrize(("side", "positions"), [(16, 1), (17, 1), (28, 16), (32, 25), (36, 36)])
def test_lenet_fits_any_size_from_16(side: int, positions: int) -> None:
    backbone = LeNet(input_shape=(1, side, side))
    assert backbone(torch.randn(2, 1, side, side)).shape == (2, 50)
    assert count(backbone.stages[2]) == 20 * positions * 50 + 50


def test_lenet_refuses_small_images() -> None:
    with pytest.raises(ValueError, match="16x16 pixels or more, and these have 8x8"):
        LeNet(input_shape=(1, 8, 8))


def test_lenet_drops_whole_channels() -> None:
    backbone = LeNet(input_shape=(1, 36, 36), dropout=0.5)
    maps = backbone.stages[1](torch.randn(4, 10, 16, 16).abs())
    dead = (maps == 0).flatten(2).all(2)
    assert 0 < dead.sum() < dead.numel()


def test_cnn_shrinks_by_pool() -> None:
    backbone = CNN(input_shape=(3, 24, 36), channels=(4, 8), kernel_size=5, pool=3, norm="group")
    assert backbone(torch.randn(2, 3, 24, 36)).shape == (2, 8, 2, 4)
    assert count(backbone) == 3 * 4 * 25 + 8 + 4 * 8 * 25 + 16
    flat = CNN(input_shape=(3, 24, 36), channels=(4,), pool=1, norm="none")
    assert flat(torch.randn(2, 3, 24, 36)).shape == (2, 4, 24, 36)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": []}, r"channels=\[\]"),
        ({"kernel_size": 4}, "kernel_size=4 must be odd"),
        ({"pool": 0}, "pool=0"),
        ({"norm": "layer"}, "norm='layer' is none of batch, group, none"),
        ({"channels": [4] * 4}, "8x8 are too small for 4 stages"),
    ],
)
def test_cnn_refuses_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CNN(input_shape=(1, 8, 8), **settings)
