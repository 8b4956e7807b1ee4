import pytest
import torch
from torch import nn

from mtlrun.models.backbones.tutorial_cnn import TutorialCNN


def test_sizes_on_cifar10() -> None:
    backbone = TutorialCNN(input_shape=(3, 32, 32))
    shapes, features = [], torch.randn(2, 3, 32, 32)
    for stage in backbone.stages:
        features = stage(features)
        shapes.append(tuple(features.shape[1:]))
    assert shapes == [(8, 10, 10), (16, 2, 2), (256,), (128,)]
    counts = [sum(p.numel() for p in stage.parameters()) for stage in backbone.stages]
    assert counts == [3 * 8 * 9 + 8, 8 * 16 * 9 + 16, 64 * 256 + 256, 256 * 128 + 128]
    assert sum(counts) == 50_928
    assert backbone.channels == (8, 16, 256, 128)


def test_it_equals_the_formula() -> None:
    backbone = TutorialCNN(input_shape=(3, 32, 32)).eval()
    first, first_bias, second, second_bias, *dense = (p.detach() for p in backbone.parameters())
    inputs = torch.randn(4, 3, 32, 32)
    maps = nn.functional.max_pool2d(torch.conv2d(inputs, first, first_bias).relu(), 3)
    maps = nn.functional.max_pool2d(torch.conv2d(maps, second, second_bias).relu(), 3)
    vectors = (maps.flatten(1) @ dense[0].T + dense[1]).relu()
    torch.testing.assert_close(backbone(inputs), (vectors @ dense[2].T + dense[3]).relu())


def test_dropout_follows_both_linear_layers() -> None:
    backbone = TutorialCNN(input_shape=(3, 32, 32))
    rates = [layer.p for layer in backbone.modules() if isinstance(layer, nn.Dropout)]
    assert rates == [0.3, 0.3]
    assert [isinstance(stage[-1], nn.Dropout) for stage in backbone.stages] == [0, 0, 1, 1]
    without = TutorialCNN(input_shape=(3, 32, 32), dropout=0.0)
    inputs = torch.randn(2, 3, 32, 32)
    assert torch.equal(without(inputs), without(inputs))
    assert not torch.equal(backbone(inputs), backbone(inputs))


@pytest.mark.parametrize(("side", "positions"), [(17, 1), (25, 1), (26, 4), (64, 36)])
def test_other_sizes(side: int, positions: int) -> None:
    backbone = TutorialCNN(input_shape=(1, side, side))
    assert backbone.stages[2][1].in_features == 16 * positions
    assert backbone(torch.randn(2, 1, side, side)).shape == (2, 128)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="17x17 pixels or more, and these have 32x16: use"):
        TutorialCNN(input_shape=(3, 32, 16))
    with pytest.raises(ValueError, match=r"dropout=1\.0 must"):
        TutorialCNN(input_shape=(3, 32, 32), dropout=1.0)
