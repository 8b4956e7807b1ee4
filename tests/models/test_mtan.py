"""MTAN's features, parameters and masks."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, build, inputs_of, reached_by
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.architectures.mtan import MTAN
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.backbones.resnet50 import ResNet50
from mtlrun.models.backbones.segnet import SegNet
from mtlrun.models.sharing.attention import resized

TASKS = ("a", "b", "c")


def mtan(name: str, **settings: Any) -> MTAN:
    """On a small backbone, with three tasks of one stream."""
    made = build("mtan", settings.pop("streams", ONE_STREAM), name, **settings)
    assert isinstance(made, MTAN)
    return made


def of_images(backbone: type[Backbone], *shape: int, **settings: Any) -> MTAN:
    """On a backbone that reads images of a shape."""
    return MTAN(
        make_backbone=lambda _: backbone(input_shape=shape, **settings),
        streams=ONE_STREAM,
        input_kind="values",
        input_shape=shape,
    )


def fix_masks(architecture: MTAN, logits: Sequence[float]) -> None:
    """All masks of each task are the sigmoid of a number."""
    for masks, logit in zip(architecture.masks, logits, strict=True):
        for norm in (m for m in masks.modules() if isinstance(m, nn.Sequential)):
            nn.init.zeros_(norm[-2].weight)
            nn.init.constant_(norm[-2].bias, logit)


# -- against the authors' code ---------------------------------------------------------------------


def test_segnet_has_the_parameters_of_the_authors_code() -> None:
    with torch.device("meta"):
        architecture = of_images(SegNet, 3, 32, 32)
    ours = sum(p.numel() for p in architecture.parameters())
    # Theirs has a bias in each convolution before a normalisation, the heads (3x3 and 1x1 to 13, 1
    # and 3 channels) and three weights of losses
    norms = [m for m in architecture.modules() if isinstance(m, nn.BatchNorm2d)]
    idle = sum(norm.num_features for norm in norms)
    heads = 3 * (64 * 64 * 9 + 64) + (64 + 1) * (13 + 1 + 3)
    theirs = ours + idle + heads + 3
    assert theirs == 44_229_076
    assert f"{theirs / 24_981_069:.2f}" == "1.77"  # the paper's table 2, of the single-task network


def test_resnet50_has_the_parameters_of_the_authors_code() -> None:
    with torch.device("meta"):
        architecture = of_images(ResNet50, 3, 32, 32)
    assert architecture.attended == (1, 2, 3, 4)
    masks = sum(p.numel() for p in architecture.masks.parameters())
    links = sum(p.numel() for p in architecture.links.parameters())
    assert masks + links == 20_444_800  # encoder_att and encoder_block_att without idle biases


def test_equals_the_authors_forward_pass_on_segnet() -> None:
    torch.manual_seed(0)
    architecture = of_images(SegNet, 3, 8, 12, widths=(4, 6))
    images = torch.randn(2, 3, 8, 12)
    expected = {task: authors_pass(architecture, task, images) for task in TASKS}
    features = architecture({"images": images}, TASKS)
    for task in TASKS:
        torch.testing.assert_close(features[task], expected[task])
    assert not torch.equal(features["a"], features["b"])


def authors_pass(architecture: MTAN, task: str, images: Tensor) -> Tensor:
    """Features of a task on a SegNet of two and two blocks, written out."""
    blocks: Any = architecture.backbone.stages
    links: Any = architecture.links
    masks: Any = [mask.layers for mask in architecture.masks[TASKS.index(task)]]
    # The shared network
    p1, u1 = blocks[0].halves(images)
    pooled1, places1 = F.max_pool2d(u1, 2, return_indices=True)
    p2, u2 = blocks[1].halves(pooled1)
    pooled2, places2 = F.max_pool2d(u2, 2, return_indices=True)
    p3 = F.max_unpool2d(pooled2, places2, 2)
    u3 = blocks[2](p3)
    p4 = F.max_unpool2d(u3, places1, 2)
    u4 = blocks[3](p4)
    # The task's: encoder, then decoder
    r2 = F.max_pool2d(links[0].before(masks[0](p1) * u1), 2)
    r3 = F.max_pool2d(links[1].before(masks[1](torch.cat([p2, r2], 1)) * u2), 2)
    r3 = links[1].behind(F.interpolate(r3, scale_factor=2, mode="bilinear", align_corners=True))
    attended: Tensor = masks[2](torch.cat([p3, r3], 1)) * u3
    r4 = F.interpolate(attended, scale_factor=2, mode="bilinear", align_corners=True)
    r4 = links[2].behind(r4)
    assert links[2].before is None
    output: Tensor = masks[3](torch.cat([p4, r4], 1)) * u4
    return output


# -- on any backbone -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm", "lenet", "text_cnn", "transformer"])
def test_open_masks_give_what_hps_does(name: str) -> None:
    architecture = mtan(name, streams=TWO_STREAMS).eval()
    shared = build("hps", TWO_STREAMS, name).eval()
    shared.backbone.load_state_dict(architecture.backbone.state_dict())
    fix_masks(architecture, (50, 50, 50))
    inputs = inputs_of(TWO_STREAMS, name)
    expected = shared(inputs, TASKS)
    for task, value in architecture(inputs, TASKS).items():
        assert torch.equal(value, expected[task])


def test_open_masks_give_hps_the_pooled_stages_that_heads_read() -> None:
    reads = {"a": [1, 4], "b": [2]}
    made = of_images(SegNet, 3, 8, 12, widths=(4, 6))
    architecture = MTAN(
        make_backbone=lambda _: made.backbone,
        streams=ONE_STREAM,
        reads=reads,
        input_kind="values",
        input_shape=(3, 8, 12),
    ).eval()
    fix_masks(architecture, (50, 50, 50))
    shared = build("hps", make=lambda _: made.backbone, reads=reads).eval()
    inputs = {"images": torch.randn(2, 3, 8, 12)}
    expected = shared(inputs, TASKS)
    for task, value in architecture(inputs, TASKS).items():
        assert torch.equal(value, expected[task])
        assert value.shape[1] == architecture.out_channels(task)


@pytest.mark.parametrize("reduction", [1, 4])
def test_all_tasks_train_what_stands_between_masks(reduction: int) -> None:
    architecture = mtan("cnn", reduction=reduction)
    between = {id(p) for p in architecture.links.parameters()}
    reached = reached_by(architecture, inputs_of(ONE_STREAM, "cnn"), TASKS)
    assert between
    assert all(between <= reached[task] for task in TASKS)
    assert between <= {id(p) for p in architecture.shared_parameters()}
    assert all(p.shape[0] for p in architecture.last_shared_layer())


def test_stages_belong_to_the_tasks_that_go_there() -> None:
    architecture = mtan("mlp", reads={"a": [1], "b": [1]})
    reached = reached_by(architecture, inputs_of(ONE_STREAM), TASKS)
    first, second = architecture.backbone.stages
    assert {id(p) for p in architecture.shared_parameters()} == {id(p) for p in first.parameters()}
    own = {id(p) for p in architecture.task_parameters("c")}
    assert own >= {id(p) for p in (*second.parameters(), *architecture.links.parameters())}
    for task in TASKS:
        mine = {id(p) for p in architecture.task_parameters(task)}
        assert mine == reached[task] - {id(p) for p in first.parameters()}
    assert architecture.last_shared_layer()[0] is next(first.parameters())


def test_stages_that_no_head_reads_are_let_go() -> None:
    architecture = mtan("mlp", reads={"a": [1], "b": [1], "c": [1]})
    assert not list(architecture.backbone.stages[1].parameters())
    assert not list(architecture.links.parameters())


def test_masks_stand_at_the_stages_asked_for() -> None:
    architecture = mtan("mlp", after=[2])
    assert [len(masks) for masks in architecture.masks] == [1, 1, 1]
    assert not list(architecture.links.parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"after": [1]}, r"leaves out stage 2.*use architecture.after=\[1, 2\]"),
        ({"after": [2, 3]}, "between 1 and 2"),
        ({"after": []}, "between 1 and 2"),
        ({"reduction": 0}, "reduction=0 must be 1 or more"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mtan("mlp", **settings)


# -- masks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "lstm"])
def test_structure_is_the_mean_mask_over_the_evaluation(name: str) -> None:
    architecture = mtan(name).eval()
    fix_masks(architecture, (0, 1, -2))
    expected = torch.tensor([0.0, 1.0, -2.0]).sigmoid()
    for rows in (4, 3):
        architecture.start_evaluation()
        architecture(inputs_of(ONE_STREAM, name, rows), TASKS)
        architecture(inputs_of(ONE_STREAM, name, 1), ["a"])
        (table,) = architecture.structure()
        assert (table.rows, table.name) == (TASKS, "attention")
        torch.testing.assert_close(table.values, expected[:, None].expand_as(table.values))
    assert not any("mask_" in key for key in architecture.state_dict())


def test_padding_counts_for_no_mask() -> None:
    architecture = mtan("lstm").eval()
    tokens = torch.tensor([[3, 4, 5, 6], [7, 0, 0, 0]])
    means = []
    for rows in (tokens, tokens[:, :1], F.pad(tokens, (0, 5))):
        architecture.start_evaluation()
        architecture({"images": rows}, TASKS)
        means.append(architecture.structure()[0].values)
    torch.testing.assert_close(means[0], means[2])
    assert not torch.allclose(means[0], means[1])


def test_building_draws_nothing_but_weights_and_leaves_statistics() -> None:
    architecture = mtan("resnet18")
    for name, value in architecture.backbone.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 0
    assert all(module.training for module in architecture.modules())


@pytest.mark.parametrize("size", [(4, 5), (3, 4), (2, 2), (1, 1), (7, 9)])
def test_maps_shrink_by_max_pooling(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, 7, 9).abs()
    small = resized(maps, size)
    assert small.shape[2:] == size
    assert set(small.flatten().tolist()) <= set(maps.flatten().tolist())
    if size == (4, 5):
        assert torch.equal(small, F.max_pool2d(maps, 2, ceil_mode=True))
    if size == (3, 4):
        assert torch.equal(small, F.max_pool2d(maps, 2))
