"""MTI-Net: what goes from scale to scale."""

import pytest
import torch
from architecture_cases import ONE_STREAM, build, inputs_of, maker
from torch.nn import functional as F

from mtlrun.models.architectures.mti_net import MTINet
from mtlrun.models.sharing.propagation import FeaturePropagation, SqueezeExcitation
from mtlrun.models.sharing.reading import stage_outputs
from mtlrun.types import OutputShape

TASKS = ("a", "b", "c")
ROW = dict.fromkeys(TASKS, OutputShape(2, "row"))


def test_attention_sums_to_one_over_the_tasks_of_each_channel() -> None:
    torch.manual_seed(0)
    module = FeaturePropagation(3, 4, "tasks")
    weights = module.attention(torch.randn(2, 12, 5, 5)).view(2, 3, 4, 5, 5)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 4, 5, 5))
    assert weights.std() > 0.01


def test_the_codes_attention_sums_to_one_over_neighbouring_channels() -> None:
    torch.manual_seed(0)
    module = FeaturePropagation(3, 4, "neighbours")
    joined = torch.randn(2, 12, 5, 5)
    weights = module.attention(joined)
    for first in range(0, 12, 3):
        torch.testing.assert_close(weights[:, first : first + 3].sum(1), torch.ones(2, 5, 5))
    module.over = "tasks"
    assert not torch.allclose(module.eval().attention(joined), weights)


def test_propagation_by_hand() -> None:
    """Scores 0: each task counts a third; what is shared is added, weighed, to each task's."""
    torch.manual_seed(0)
    module = FeaturePropagation(3, 4, "tasks").eval()
    with torch.no_grad():
        module.scores[-1].weight.zero_()
        module.scores[-1].bias.zero_()
    features = [torch.randn(2, 4, 3, 3) for _ in TASKS]
    shared = module.reduce(torch.cat(features, 1) / 3)
    for own, excite, found in zip(features, module.excite, module(features), strict=True):
        torch.testing.assert_close(found, own + excite(shared))


def test_squeeze_and_excitation_by_hand() -> None:
    module = SqueezeExcitation(2)
    with torch.no_grad():
        module.layers[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        module.layers[0].bias.zero_()
        module.layers[2].weight.copy_(torch.tensor([[2.0], [-1.0]]))
        module.layers[2].bias.zero_()
    maps = torch.tensor([[[[1.0, 3.0]], [[0.0, 1.0]]]])  # means 2 and 0.5: hidden 1.5
    factors = torch.sigmoid(torch.tensor([3.0, -1.5]))
    torch.testing.assert_close(module(maps), maps * factors[None, :, None, None])
    assert SqueezeExcitation(64).layers[0].out_features == 4


def test_from_the_coarsest_scale_to_the_finest() -> None:
    architecture = build("mti_net", ONE_STREAM, "cnn", channels=8).eval()
    inputs = inputs_of(ONE_STREAM, "cnn")
    fine, coarse = stage_outputs(architecture.backbone, inputs["images"])
    first, second = architecture.scales
    low = [branch(coarse) for branch in first.branches]
    brought = [F.interpolate(part, size=(4, 4), mode="bilinear") for part in first.propagate(low)]
    high = [
        branch(torch.cat([fine, part], 1))
        for branch, part in zip(second.branches, brought, strict=True)
    ]
    small = F.interpolate(first.distillation(low, 1), size=(4, 4), mode="bilinear")
    expected = torch.cat([small, second.distillation(high, 1)], 1)
    torch.testing.assert_close(architecture(inputs, TASKS)["b"], expected)
    assert architecture.out_channels("b") == 16
    assert second.propagate is None


def test_there_is_a_term_for_each_task_and_scale() -> None:
    architecture = build("mti_net", ONE_STREAM, "cnn", channels=8, deep_supervision=0.5)
    names = {f"initial_{task}_stage{stage}" for task in TASKS for stage in (1, 2)}
    assert architecture.terms == dict.fromkeys(names, 0.5)
    found = architecture.with_terms(inputs_of(ONE_STREAM, "cnn"), ["c"])
    assert {name: task for name, (task, _) in found.predictions.items()} == {
        "initial_c_stage1": "c",
        "initial_c_stage2": "c",
    }
    assert all(p.shape == (3, 2, 8, 8) for _, p in found.predictions.values())
    assert not build("mti_net", ONE_STREAM, "cnn", deep_supervision=0.0).terms


def test_channels_may_be_those_of_the_stages() -> None:
    architecture = build("mti_net", ONE_STREAM, "resnet18", channels=None)
    assert [scale.channels for scale in architecture.scales] == [512, 256, 128, 64]
    assert architecture.out_channels("a") == 960


def test_stages_behind_the_last_scale_are_let_go() -> None:
    architecture = MTINet(
        make_backbone=maker("lenet", input_shape=(1, 16, 16)),
        streams=ONE_STREAM,
        outputs=ROW,
        input_shape=(1, 16, 16),
        channels=4,
    )
    assert architecture.stages == [1, 0]
    assert sum(p.numel() for p in architecture.backbone.parameters()) == 260 + 5020
    found = architecture.with_terms({"images": torch.randn(2, 1, 16, 16)}, TASKS)
    assert found.features["a"].shape == (2, 8, 6, 6)
    assert found.predictions["initial_a_stage1"][1].shape == (2, 2)


def test_a_decoders_maps_are_ordered_by_their_size() -> None:
    make = maker("unet", widths=(4, 6, 8), input_shape=(1, 16, 16))
    facts = {"streams": ONE_STREAM, "outputs": ROW, "input_shape": (1, 16, 16), "channels": 4}
    architecture = MTINet(make_backbone=make, **facts)
    assert architecture.stages == [2, 3, 1, 4]
    features = architecture({"images": torch.randn(2, 1, 16, 16)}, ["a"])["a"]
    assert features.shape == (2, 16, 16, 16)


def test_only_the_messages_to_a_task_are_its_own() -> None:
    architecture = build("mti_net", ONE_STREAM, "cnn", channels=8)
    assert sum(p.numel() for p in architecture.task_parameters("a")) == 2 * 2 * 2 * 8 * 8 * 9
    assert [table.name for table in architecture.structure()] == [
        "messages/stage2",
        "messages/stage1",
    ]


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        ("mlp", {}, "no stage of maps: use architecture=pad_net"),
        ("cnn", {"stages": [2]}, r"stages=\[2\]: use two or more different ones of 1, 2"),
        ("cnn", {"stages": [2, 2]}, "two or more different ones"),
        ("cnn", {"stages": [1, 3]}, "two or more different ones"),
        ("cnn", {"channels": 0}, "channels"),
        ("cnn", {"propagation": "all"}, "propagation"),
        ("cnn", {"deep_supervision": float("nan")}, "deep_supervision"),
    ],
)
def test_mti_net_refuses_what_cannot_be(backbone: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("mti_net", ONE_STREAM, backbone, **settings)
