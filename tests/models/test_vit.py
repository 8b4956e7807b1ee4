"""The Vision Transformer: its size, its formula, and what it makes of images."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.backbones.vit import MapBlock, ViT

SHAPE = (3, 12, 20)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_size_is_the_papers() -> None:
    with torch.device("meta"):
        base = ViT(
            input_shape=(3, 224, 224),
            width=768,
            depth=12,
            attention_heads=12,
            feedforward=3072,
            patch=16,
        )
    # ViT-B/16: 86,567,656, of which the classifier's 769,000, the class token and its position
    assert count(base) == 86_567_656 - 769_000 - 2 * 768
    assert base.channels == (768,) * 13
    assert base.layouts == ("map",) * 13


def test_each_stage_counted_by_hand() -> None:
    backbone = ViT(input_shape=SHAPE, width=8, depth=2, attention_heads=2, feedforward=10, patch=4)
    places = 3 * 5
    block = 2 * 8 + (8 * 24 + 24) + (8 * 8 + 8) + 2 * 8 + (8 * 10 + 10) + (10 * 8 + 8)
    expected = [3 * 16 * 8 + 8 + 8 * places, block, block + 2 * 8]
    assert [count(stage) for stage in backbone.stages] == expected
    assert backbone(torch.randn(2, *SHAPE)).shape == (2, 8, 3, 5)


def test_patches_equal_the_formula() -> None:
    torch.manual_seed(0)
    stage = ViT(input_shape=SHAPE, width=8, patch=4).double().stages[0]
    weight, bias = stage.patches.weight.flatten(1), stage.patches.bias
    image = torch.randn(2, *SHAPE, dtype=torch.float64)
    found = stage(image)
    for row, column in [(0, 0), (1, 3), (2, 4)]:
        patch = image[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        expected = patch @ weight.T + bias + stage.positions[:, row, column]
        torch.testing.assert_close(found[:, :, row, column], expected)


def test_positions_begin_with_the_deviation_asked_for() -> None:
    assert ViT(input_shape=(1, 64, 64)).stages[0].positions.std().item() == pytest.approx(
        0.5, rel=0.03
    )
    backbone = ViT(input_shape=(1, 64, 64), position_deviation=0.02)
    assert backbone.stages[0].positions.std().item() == pytest.approx(0.02, rel=0.03)


def attended(tokens: Tensor, block: MapBlock, heads: int) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of each head, side by side, then a linear layer: [L, C]."""
    part = block.attention
    joined = part.queries_keys_values(part.norm(tokens))
    queries, keys, values = joined.chunk(3, 1)
    width = tokens.shape[1] // heads
    found = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = queries[:, own] @ keys[:, own].T / width**0.5
        found.append(scores.softmax(1) @ values[:, own])
    projected: Tensor = part.attended[0](torch.cat(found, 1))
    return projected


@pytest.mark.parametrize("last", [True, False])
def test_block_equals_the_formula_also_for_a_patch_of_zeros(last: bool) -> None:
    torch.manual_seed(0)
    block = MapBlock(8, 2, 12, 0.0, last=last, padded=False).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    features = torch.randn(2, 8, 2, 3, dtype=torch.float64)
    features[1, :, 1, 0] = 0  # is a patch like any other, not padding
    found = block(features)
    _, entering, _, leaving, _ = block.feedforward.layers
    norm = block.feedforward.layers[0]
    for row in range(2):
        tokens = features[row].flatten(1).T
        tokens = tokens + attended(tokens, block, 2)
        tokens = tokens + leaving(F.gelu(entering(norm(tokens))))
        if last:
            tokens = F.layer_norm(tokens, (8,), block.final.weight, block.final.bias)
        torch.testing.assert_close(found[row], tokens.T.reshape(8, 2, 3))


def test_only_positions_tell_patches_apart() -> None:
    torch.manual_seed(0)
    backbone = ViT(input_shape=SHAPE, width=8, depth=2, attention_heads=2, patch=4).double()
    image = torch.randn(1, *SHAPE, dtype=torch.float64)
    mirrored = image.unflatten(3, (5, 4)).flip(3).flatten(3)  # patches in another order
    assert (backbone(mirrored).flip(3) - backbone(image)).abs().max() > 1e-4
    nn.init.zeros_(backbone.stages[0].positions)
    torch.testing.assert_close(backbone(mirrored).flip(3), backbone(image))


def test_last_block_ends_normalised_and_dropout_is_off_in_evaluation() -> None:
    backbone = ViT(input_shape=SHAPE, dropout=0.5).double()
    image = torch.randn(2, *SHAPE, dtype=torch.float64)
    features = backbone(image)
    torch.testing.assert_close(features.mean(1), torch.zeros(2, 3, 5, dtype=torch.float64))
    assert not torch.equal(backbone(image), features)
    backbone.eval()
    assert torch.equal(backbone(image), backbone(image))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 10, "attention_heads": 4}, "width=10 must be a multiple of attention_heads=4"),
        ({"depth": 0}, "depth=0 must be 1 or more"),
        ({"patch": 0}, "patch=0 must be 1 or more"),
        ({"feedforward": 0}, "feedforward=0 must be 1 or more"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0"),
        ({"position_deviation": -0.1}, "position_deviation=-0.1 must be 0 or more"),
        (
            {"input_shape": (1, 36, 48), "patch": 16},
            "36x48 do not divide into patches of 16x16: use backbone.patch=2, 3, 4, 6, 12 or im",
        ),
        (
            {"input_shape": (1, 37, 48)},
            "37x48 do not divide into patches of 4x4: use images of another size",
        ),
    ],
)
def test_refuses_what_does_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViT(**{"input_shape": SHAPE, **settings})
