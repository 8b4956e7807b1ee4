"""HyperFace's fusion of stages."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from architecture_cases import ONE_STREAM, build, inputs_of
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.architectures.hyperface import HyperFace
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.backbones.segnet import SegNet
from mtlrun.types import OutputShape

TASKS = ("a", "b", "c")
ROWS = {task: OutputShape(2, "row") for task in TASKS}


class AlexNet(Backbone):
    """Of the paper's figure 2: conv1 with its pooling, conv3 and pool5 are stages 1, 3 and 5."""

    def __init__(self) -> None:
        widths = (3, 96, 256, 384, 384, 256)
        stages: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths)):
            kernel, stride, padding = ((11, 4, 0), (5, 1, 2))[number] if number < 2 else (3, 1, 1)
            layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, stride, padding), nn.ReLU()]
            if number in (0, 1, 4):
                layers.append(nn.MaxPool2d(3, 2))
            stages.append(nn.Sequential(*layers))
        super().__init__(stages, widths[1:], ["map"] * 5)


def hyperface(name: str, **settings: Any) -> HyperFace:
    """On a small backbone, with three tasks of one stream."""
    made = build("hyperface", ONE_STREAM, name, **settings)
    assert isinstance(made, HyperFace)
    return made


def test_has_the_layers_of_the_paper_on_alexnet() -> None:
    with torch.device("meta"):
        architecture = HyperFace(
            make_backbone=lambda _: AlexNet(),
            streams=ONE_STREAM,
            input_kind="values",
            input_shape=(3, 227, 227),
            outputs=ROWS,
            hidden=3072,
        )
        features = architecture({"images": torch.zeros(2, 3, 227, 227)}, TASKS)
    shapes = [tuple(p.shape) for p in architecture.parameters() if p.ndim > 1][5:]
    assert shapes == [
        (256, 96, 4, 4),  # conv1a, with stride 4: 27x27 to 6x6
        (256, 384, 2, 2),  # conv3a, with stride 2: 13x13 to 6x6
        (192, 768, 1, 1),  # conv_all
        (3072, 6 * 6 * 192),  # fc_full
    ]
    assert [bring.layer.stride for bring in architecture.bring] == [(4, 4), (2, 2)]
    assert features["a"].shape == (2, 3072)
    assert features["a"] is features["c"]
    assert architecture.one_representation


def test_fuses_maps_of_the_same_size_by_one_linear_layer() -> None:
    architecture = hyperface("cnn", channels=3, stages=[1, 2])
    images = inputs_of(ONE_STREAM, "cnn")
    first = architecture.backbone.step(0, images["images"], {})
    second = architecture.backbone.step(1, first, {})
    bring: Any = architecture.bring[0]
    fuse: Any = architecture.fuse.linear
    beside = F.relu(F.conv2d(first, bring.layer.weight, bring.layer.bias, stride=2))
    expected = F.relu(F.conv2d(torch.cat([beside, second], 1), fuse.weight, fuse.bias))
    assert torch.equal(architecture(images, TASKS)["b"], expected)


@pytest.mark.parametrize("hidden", [None, 7])
def test_stages_of_different_layouts_are_fused_by_their_means(hidden: int | None) -> None:
    architecture = hyperface("lenet", outputs=ROWS, channels=5, hidden=hidden)
    assert architecture.chosen == [0, 1, 2]
    inputs = inputs_of(ONE_STREAM, "lenet")
    parts: list[Tensor] = []
    features = inputs["images"]
    for stage in architecture.backbone.stages:
        features = stage(features)
        parts.append(features if features.ndim == 2 else features.mean((2, 3)))
    beside = [
        F.relu(bring.layer.linear(part))
        for bring, part in zip(architecture.bring, parts[:2], strict=True)
    ]
    expected = F.relu(architecture.fuse.linear(torch.cat([*beside, parts[2]], 1)))
    if architecture.hidden is not None:
        expected = F.relu(architecture.hidden(expected))
    torch.testing.assert_close(architecture(inputs, TASKS)["a"], expected)
    assert architecture.layout("a") == "vector"
    assert architecture.out_channels("a") == (hidden or 5)


def test_a_decoders_features_keep_their_size() -> None:
    architecture = HyperFace(
        make_backbone=lambda _: SegNet(input_shape=(3, 10, 12), widths=(4, 6)),
        streams=ONE_STREAM,
        input_kind="values",
        input_shape=(3, 10, 12),
        outputs={task: OutputShape(2, "pixel", (10, 12)) for task in TASKS},
        channels=8,
    )
    assert architecture.chosen == [0, 1, 3]
    images = {"images": torch.randn(2, 3, 10, 12)}
    assert architecture(images, TASKS)["a"].shape == (2, 8, 10, 12)


def test_what_stands_behind_the_last_stage_chosen_is_let_go() -> None:
    architecture = HyperFace(
        make_backbone=lambda _: SegNet(input_shape=(3, 8, 8), widths=(4, 6)),
        streams=ONE_STREAM,
        input_kind="values",
        input_shape=(3, 8, 8),
        outputs=ROWS,
        stages=[2, 1],
        channels=8,
    )
    assert not list(architecture.backbone.stages[2:].parameters())
    features = architecture({"images": torch.randn(2, 3, 8, 8)}, TASKS)["a"]
    assert features.shape == (2, 8, 2, 2)
    features.sum().backward()
    assert all(p.grad is not None for p in architecture.parameters())


def test_padding_changes_nothing_for_words() -> None:
    architecture = hyperface("lstm", hidden=4).eval()
    tokens = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    expected = architecture({"images": tokens}, TASKS)["a"]
    padded = architecture({"images": F.pad(tokens, (0, 3))}, TASKS)["a"]
    torch.testing.assert_close(padded, expected)
    assert expected.shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("mlp", {"stages": [1, 3]}, "1 to 2: use architecture.stages=null"),
        ("mlp", {"stages": []}, "must name stages"),
        ("mlp", {"channels": 0}, "channels"),
        ("cnn", {"hidden": 3072}, "for each pixel: use architecture.hidden=null"),
        ("lenet", {}, r"different layouts.*use architecture.stages=\[1, 2\]"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hyperface(name, **settings)
