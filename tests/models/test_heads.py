"""Every head of configs/heads on the features of every backbone."""

from pathlib import Path
from typing import Any

import backbone_inputs
import pytest
import torch
from backbone_inputs import NAMES as BACKBONES
from backbone_inputs import SHAPE
from hydra.utils import get_class, instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.backbones.resnet50 import ResNet50
from mtlrun.models.heads.base import Head
from mtlrun.models.heads.conv import ConvHead
from mtlrun.models.heads.deeplab import ASPP, DeepLabHead
from mtlrun.models.heads.linear import LinearHead
from mtlrun.models.heads.mlp import MLPHead
from mtlrun.models.heads.ordinal import OrdinalHead
from mtlrun.models.heads.tagging import TaggingHead
from mtlrun.models.layers import BatchNorm2d, pooling
from mtlrun.types import Layout, Per

CONFIGS = Path(__file__).parents[2] / "configs"
HEADS = sorted(path.stem for path in (CONFIGS / "heads").glob("*.yaml"))


def head_config(name: str) -> Any:
    return OmegaConf.load(CONFIGS / "heads" / f"{name}.yaml")


def per(name: str) -> Per:
    return get_class(head_config(name)._target_).per


def build(name: str, in_channels: int, out_channels: int, layout: Layout, size: Any) -> Head:
    torch.manual_seed(0)
    head = instantiate(
        head_config(name),
        in_channels=in_channels,
        out_channels=out_channels,
        layout=layout,
        size=size,
        _convert_="all",
    )
    assert isinstance(head, Head)
    return head


@pytest.fixture(scope="module", params=BACKBONES)
def backbone_and_features(request: pytest.FixtureRequest) -> tuple[Backbone, Tensor]:
    backbone = backbone_inputs.build(request.param).eval()
    with torch.no_grad():
        return backbone, backbone(backbone_inputs.inputs_of(backbone.reads[0], 2))


NEEDS = {"row": None, "pixel": "map", "token": "sequence"}
SHAPES = {"vector": (), "map": (3, 4), "sequence": (6,)}


@pytest.mark.parametrize("name", HEADS)
def test_predictions_have_the_tasks_size(
    backbone_and_features: tuple[Backbone, Tensor], name: str
) -> None:
    backbone, features = backbone_and_features
    channels, layout = backbone.channels[-1], backbone.layouts[-1]
    size = SHAPE[1:] if per(name) == "pixel" else None
    needed = NEEDS[per(name)]
    if needed not in (None, layout):
        message = f"heads={name} reads {needed}s, and this backbone ends in {layout}s: use a"
        with pytest.raises(Exception, match=message):
            build(name, channels, 5, layout, size)
        return
    head = build(name, channels, 5, layout, size)
    before = features.clone()
    expected = {"row": (2, 5), "pixel": (2, 5, *SHAPE[1:]), "token": (2, features.shape[1], 5)}
    with torch.no_grad():
        assert head(features).shape == expected[per(name)]
    assert torch.equal(features, before)  # other tasks read the same tensor


@pytest.mark.parametrize(
    ("name", "layout"),
    [(name, layout) for name in HEADS for layout in SHAPES if NEEDS[per(name)] in (None, layout)],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_one(name: str, layout: Layout, training: bool) -> None:
    head = build(name, 8, 3, layout, (12, 16) if per(name) == "pixel" else None).train(training)
    shape = (1, *SHAPES[layout], 8) if layout == "sequence" else (1, 8, *SHAPES[layout])
    prediction = head(torch.randn(shape))
    expected = {"row": (1, 3), "pixel": (1, 3, 12, 16), "token": (1, 6, 3)}
    assert prediction.shape == expected[per(name)]
    prediction.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_a_task_of_another_kind_is_refused(name: str) -> None:
    per_pixel = "use heads=conv or heads=deeplab"
    messages = {
        "row": f"heads={name} gives one vector a row, and this task predicts for each pixel: "
        f"{per_pixel}",
        "pixel": f"heads={name} predicts a map, and this task wants one vector a row: "
        "use heads=linear or heads=mlp",
        "token": f"heads={name} predicts for each token, and this task for each pixel: {per_pixel}",
    }
    size = None if per(name) == "pixel" else (4, 4)
    with pytest.raises(Exception, match=messages[per(name)]):
        build(name, 8, 3, NEEDS[per(name)] or "map", size)


def test_every_head_has_a_config() -> None:
    assert {"linear", "mlp", "conv", "deeplab", "ordinal", "tagging"} <= set(HEADS)


def test_linear_head_averages_maps() -> None:
    head = LinearHead(in_channels=4, out_channels=2, layout="map")
    features = torch.randn(3, 4, 5, 6)
    linear = head.layers[-1]
    assert isinstance(linear, nn.Linear)
    torch.testing.assert_close(head(features), linear(features.mean((2, 3))))


def test_mlp_head_is_the_task_part_of_multimnist() -> None:
    head = MLPHead(in_channels=50, out_channels=10, layout="vector", hidden=[50], dropout=0.5)
    kinds = [type(layer) for layer in head.layers]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert sum(p.numel() for p in head.parameters()) == 50 * 50 + 50 + 50 * 10 + 10


def test_mlp_head_without_hidden_layers_is_linear() -> None:
    head = MLPHead(in_channels=5, out_channels=2, layout="vector", hidden=[])
    assert [type(layer) for layer in head.layers] == [nn.Linear]
    with pytest.raises(ValueError, match=r"hidden=\[0\]"):
        MLPHead(in_channels=5, out_channels=2, layout="vector", hidden=[0])


def test_conv_head_resizes_bilinearly() -> None:
    head = ConvHead(in_channels=4, out_channels=2, layout="map", size=(9, 14), depth=0)
    features = torch.randn(1, 4, 3, 7)
    small = head.layers(features)
    expected = F.interpolate(small, (9, 14), mode="bilinear", align_corners=False)
    assert torch.equal(head(features), expected)


@pytest.mark.parametrize(("depth", "parameters"), [(0, 10), (1, 192), (3, 1360)])
def test_conv_head_layers(depth: int, parameters: int) -> None:
    head = ConvHead(
        in_channels=4, out_channels=2, layout="map", size=(8, 8), hidden=8, depth=depth, norm="none"
    )
    expected = 4 * 2 + 2 if depth == 0 else (4 * 72 + 8) + (depth - 1) * (8 * 72 + 8) + 8 * 2 + 2
    assert sum(p.numel() for p in head.parameters()) == expected
    assert head(torch.randn(2, 4, 8, 8)).shape == (2, 2, 8, 8)


def test_deeplab_head_has_torchvisions_size() -> None:
    # deeplabv3_resnet50 with 21 classes: 42,004,074 by torchvision's own count, of which 2,365,205
    # are its auxiliary classifier's
    with torch.device("meta"):
        head = DeepLabHead(in_channels=2048, out_channels=21, layout="map", size=(96, 128))
        backbone = ResNet50(input_shape=(3, 96, 128))
    parameters = [*backbone.parameters(), *head.parameters()]
    assert sum(p.numel() for p in parameters) == 42_004_074 - 2_365_205


def test_pyramid_equals_the_formula() -> None:
    torch.manual_seed(0)
    pyramid = ASPP(4, 3, rates=(2, 30), dropout=0.5).eval()
    for module in pyramid.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    features = torch.randn(2, 4, 7, 9)
    image = pyramid.image(features.mean((2, 3), keepdim=True))
    branches = [branch(features) for branch in pyramid.branches]
    branches.append(F.interpolate(image, (7, 9), mode="bilinear", align_corners=False))
    torch.testing.assert_close(pyramid(features), pyramid.project(torch.cat(branches, 1)))
    # A dilation beyond the map leaves the kernel's centre alone
    far = pyramid.branches[2]
    assert isinstance(far, nn.Sequential)
    centre = F.conv2d(features, far[0].weight[:, :, 1:2, 1:2])
    torch.testing.assert_close(branches[2], far[1](centre).relu())


def test_deeplab_normalises_a_batch_of_one_by_running_statistics() -> None:
    head = DeepLabHead(in_channels=4, out_channels=2, layout="map", size=(8, 8), channels=3)
    pyramid = head.layers[0]
    assert isinstance(pyramid, ASPP)
    norm = pyramid.image[1]
    assert isinstance(norm, BatchNorm2d)
    assert norm.running_mean is not None
    head(torch.randn(1, 4, 5, 5))
    assert (norm.running_mean == 0).all()
    head(torch.randn(2, 4, 5, 5))
    assert (norm.running_mean != 0).any()


@pytest.mark.parametrize(
    ("head", "settings", "message"),
    [
        (ConvHead, {"depth": -1}, "depth=-1"),
        (ConvHead, {"norm": "layer"}, "norm='layer'"),
        (DeepLabHead, {"rates": []}, r"rates=\[\]"),
        (DeepLabHead, {"rates": [0]}, r"rates=\[0\]"),
        (DeepLabHead, {"dropout": -0.1}, "dropout=-0.1"),
        (
            ConvHead,
            {"layout": "vector"},
            "this backbone ends in vectors: use a backbone that keeps",
        ),
    ],
)
def test_dense_heads_refuse_wrong_settings(
    head: type[Head], settings: dict[str, Any], message: str
) -> None:
    facts = {"in_channels": 4, "out_channels": 2, "layout": "map", "size": (8, 8)}
    with pytest.raises(ValueError, match=message):
        head(**{**facts, **settings})


@given(
    steps=st.lists(st.floats(-200, 200), min_size=1, max_size=8),
    score=st.floats(-50, 50),
)
def test_ordinal_logits_never_rise_whatever_is_learnt(steps: list[float], score: float) -> None:
    head = OrdinalHead(in_channels=1, out_channels=len(steps), layout="vector")
    with torch.no_grad():
        head.steps.copy_(torch.tensor(steps))
        head.layers[-1].weight.fill_(1)
    assert (head.thresholds().diff() >= 0).all()
    logits = head(torch.tensor([[score]]))
    assert (logits.diff() <= 0).all()
    torch.testing.assert_close(logits, score - head.thresholds().unsqueeze(0))


@pytest.mark.parametrize("classes", [2, 5])
def test_ordinal_head_starts_with_equal_classes_at_score_0(classes: int) -> None:
    head = OrdinalHead(in_channels=3, out_channels=classes - 1, layout="map")
    above = head(torch.zeros(1, 3, 2, 2)).sigmoid()
    expected = torch.arange(classes - 1, 0, -1).unsqueeze(0) / classes
    torch.testing.assert_close(above, expected)
    assert sum(p.numel() for p in head.parameters()) == 3 + classes - 1


def test_ordinal_head_needs_a_threshold() -> None:
    with pytest.raises(ValueError, match="at least one threshold, and this task asks for 0"):
        OrdinalHead(in_channels=3, out_channels=0, layout="vector")


def test_tagging_head_predicts_each_token_by_itself() -> None:
    torch.manual_seed(0)
    head = TaggingHead(in_channels=4, out_channels=2, layout="sequence", hidden=[7], dropout=0.5)
    kinds = [type(layer) for layer in head.layers]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    head.eval()
    features = torch.randn(3, 5, 4)
    alone = torch.stack([head(features[:, [i]])[:, 0] for i in range(5)], 1)
    torch.testing.assert_close(head(features), alone)
    plain = TaggingHead(in_channels=4, out_channels=2, layout="sequence")
    torch.testing.assert_close(
        plain(features), features @ plain.layers[0].weight.T + plain.layers[0].bias
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": [0]}, r"hidden=\[0\]"),
        ({"hidden": [3], "dropout": 1.0}, "dropout=1.0"),
        ({"dropout": 0.5}, "dropout=0.5 has no effect without hidden layers"),
        (
            {"layout": "vector"},
            r"ends in vectors: use a backbone that keeps tokens \(backbone=lstm",
        ),
    ],
)
def test_tagging_head_refuses_wrong_settings(settings: dict[str, Any], message: str) -> None:
    facts = {"in_channels": 4, "out_channels": 2, "layout": "sequence"}
    with pytest.raises(ValueError, match=message):
        TaggingHead(**{**facts, **settings})


def test_the_highest_token_may_be_below_0() -> None:
    (pool,) = pooling("sequence", "max")
    features = torch.tensor([[[-1.0, 2.0], [-3.0, -4.0], [0.0, 0.0]]])
    assert pool(features).tolist() == [[-1, 2]]
