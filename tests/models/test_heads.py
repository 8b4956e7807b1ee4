"""Every head of configs/heads on the features of every backbone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.backbones.resnet50 import ResNet50
from mtlrun.models.heads.base import Head
from mtlrun.models.heads.conv import ConvHead
from mtlrun.models.heads.deeplab import ASPP, DeepLabHead
from mtlrun.models.heads.linear import LinearHead
from mtlrun.models.heads.mlp import MLPHead
from mtlrun.models.layers import BatchNorm2d

CONFIGS = Path(__file__).parents[2] / "configs"
HEADS = sorted(path.stem for path in (CONFIGS / "heads").glob("*.yaml"))
BACKBONES = sorted(path.stem for path in (CONFIGS / "backbone").glob("*.yaml"))
SHAPE = (3, 36, 40)


def head_config(name: str) -> Any:
    return OmegaConf.load(CONFIGS / "heads" / f"{name}.yaml")


def is_dense(name: str) -> bool:
    return bool(get_class(head_config(name)._target_).dense)


def build(name: str, in_channels: int, out_channels: int, spatial: bool, size: Any) -> Head:
    torch.manual_seed(0)
    head = instantiate(
        head_config(name),
        in_channels=in_channels,
        out_channels=out_channels,
        spatial=spatial,
        size=size,
        _convert_="all",
    )
    assert isinstance(head, Head)
    return head


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    config = OmegaConf.load(CONFIGS / "backbone" / f"{request.param}.yaml")
    built = instantiate(config, input_shape=SHAPE, _convert_="all").eval()
    assert isinstance(built, Backbone)
    return built


@pytest.mark.parametrize("name", HEADS)
def test_predictions_have_the_tasks_size(backbone: Backbone, name: str) -> None:
    channels, spatial = backbone.channels[-1], backbone.spatial[-1]
    size = SHAPE[1:] if is_dense(name) else None
    if is_dense(name) and not spatial:
        with pytest.raises(Exception, match=f"heads={name} reads maps"):
            build(name, channels, 5, spatial, size)
        return
    head = build(name, channels, 5, spatial, size)
    with torch.no_grad():
        features = backbone(torch.randn(2, *SHAPE))
    before = features.clone()
    expected = (2, 5, *SHAPE[1:]) if is_dense(name) else (2, 5)
    assert head(features).shape == expected
    assert torch.equal(features, before)  # other tasks read the same tensor


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_one(name: str, training: bool) -> None:
    size = (12, 16) if is_dense(name) else None
    head = build(name, 8, 3, True, size).train(training)
    prediction = head(torch.randn(1, 8, 3, 4))
    assert prediction.shape == ((1, 3, 12, 16) if size else (1, 3))
    prediction.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_a_task_of_another_kind_is_refused(name: str) -> None:
    if is_dense(name):
        message = (
            f"heads={name} predicts a map, and this task wants one vector a row: "
            "use heads=linear or heads=mlp"
        )
        size = None
    else:
        message = (
            f"heads={name} gives one vector a row, and this task predicts for each pixel: "
            "use heads=conv or heads=deeplab"
        )
        size = (4, 4)
    with pytest.raises(Exception, match=message):
        build(name, 8, 3, True, size)


def test_every_head_has_a_config() -> None:
    assert {"linear", "mlp", "conv", "deeplab"} <= set(HEADS)


def test_linear_head_averages_maps() -> None:
    head = LinearHead(in_channels=4, out_channels=2, spatial=True)
    features = torch.randn(3, 4, 5, 6)
    linear = head.layers[-1]
    assert isinstance(linear, nn.Linear)
    torch.testing.assert_close(head(features), linear(features.mean((2, 3))))


def test_mlp_head_is_the_task_part_of_multimnist() -> None:
    head = MLPHead(in_channels=50, out_channels=10, spatial=False, hidden=[50], dropout=0.5)
    kinds = [type(layer) for layer in head.layers]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert sum(p.numel() for p in head.parameters()) == 50 * 50 + 50 + 50 * 10 + 10


def test_mlp_head_without_hidden_layers_is_linear() -> None:
    head = MLPHead(in_channels=5, out_channels=2, spatial=False, hidden=[])
    assert [type(layer) for layer in head.layers] == [nn.Linear]
    with pytest.raises(ValueError, match=r"hidden=\[0\]"):
        MLPHead(in_channels=5, out_channels=2, spatial=False, hidden=[0])


def test_conv_head_resizes_bilinearly() -> None:
    head = ConvHead(in_channels=4, out_channels=2, spatial=True, size=(9, 14), depth=0)
    features = torch.randn(1, 4, 3, 7)
    small = head.layers(features)
    expected = F.interpolate(small, (9, 14), mode="bilinear", align_corners=False)
    assert torch.equal(head(features), expected)


@pytest.mark.parametrize(("depth", "parameters"), [(0, 10), (1, 192), (3, 1360)])
def test_conv_head_layers(depth: int, parameters: int) -> None:
    head = ConvHead(
        in_channels=4, out_channels=2, spatial=True, size=(8, 8), hidden=8, depth=depth, norm="none"
    )
    expected = 4 * 2 + 2 if depth == 0 else (4 * 72 + 8) + (depth - 1) * (8 * 72 + 8) + 8 * 2 + 2
    assert sum(p.numel() for p in head.parameters()) == expected
    assert head(torch.randn(2, 4, 8, 8)).shape == (2, 2, 8, 8)


def test_deeplab_head_has_torchvisions_size() -> None:
    # deeplabv3_resnet50 with 21 classes: 42,004,074 by torchvision's own count, of which 2,365,205
    # are its auxiliary classifier's
    with torch.device("meta"):
        head = DeepLabHead(in_channels=2048, out_channels=21, spatial=True, size=(96, 128))
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
    head = DeepLabHead(in_channels=4, out_channels=2, spatial=True, size=(8, 8), channels=3)
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
        (ConvHead, {"spatial": False}, "this backbone ends in vectors: use a backbone that keeps"),
    ],
)
def test_dense_heads_refuse_wrong_settings(
    head: type[Head], settings: dict[str, Any], message: str
) -> None:
    facts = {"in_channels": 4, "out_channels": 2, "spatial": True, "size": (8, 8)}
    with pytest.raises(ValueError, match=message):
        head(**{**facts, **settings})
