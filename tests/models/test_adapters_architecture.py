"""Low-rank adapters: what each task's weights are, and what the tasks share."""

from collections.abc import Sequence

import pytest
import torch
from architecture_cases import ONE_STREAM, build, facts_for, inputs_of, maker
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.architectures.adapters import Adapters
from mtlrun.models.architectures.hps import HPS
from mtlrun.models.backbones.base import Backbone

TASKS = ("a", "b", "c")


def filled(architecture: Adapters) -> Adapters:
    """With updates that are not 0."""
    with torch.no_grad():
        for adapter in architecture.adapters:
            for up in adapter.up:
                up.normal_(std=0.3)
    return architecture


def one_stage(module: nn.Module, channels: int, layout: str) -> Backbone:
    return Backbone([module], [channels], [layout])


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "lstm", "resnet18", "text_cnn", "tabular_mlp"])
def test_adapters_begin_as_hard_sharing(backbone: str) -> None:
    inputs = inputs_of(ONE_STREAM, backbone)
    adapters = build("adapters", ONE_STREAM, backbone)
    shared = build("hps", ONE_STREAM, backbone)
    for mode in (True, False):
        torch.manual_seed(3)
        expected = shared.train(mode)(inputs, ["a"])["a"]
        for task in TASKS if mode else ("a",):
            torch.manual_seed(3)
            assert torch.equal(adapters.train(mode)(inputs, [task])[task], expected)


def test_a_linear_layer_is_its_weight_and_the_update_of_the_task() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5, 3)
    architecture = filled(
        Adapters(
            make_backbone=lambda _: one_stage(linear, 3, "vector"),
            streams=ONE_STREAM,
            rank=2,
            alpha=6.0,
        )
    )
    inputs = torch.randn(4, 5)
    features = architecture({"images": inputs}, TASKS)
    for task in TASKS:
        updates = architecture.adapter_of[task]
        beside = 3.0 * inputs @ updates.down[0].T @ updates.up[0].T
        torch.testing.assert_close(features[task], linear(inputs) + beside)
    assert not torch.allclose(features["a"], features["b"])


def test_a_convolution_goes_through_rank_channels() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, padding_mode="circular")
    architecture = filled(
        Adapters(
            make_backbone=lambda _: one_stage(layer, 6, "map"),
            streams=ONE_STREAM,
            rank=2,
            alpha=2.0,
        )
    )
    inputs = torch.randn(2, 4, 7, 7)
    updates = architecture.adapter_of["b"]
    narrow = F.conv2d(
        F.pad(inputs, (2, 2, 2, 2), mode="circular"),
        updates.down[0].view(2, 4, 3, 3),
        stride=2,
        dilation=2,
    )
    expected = layer(inputs) + F.conv2d(narrow, updates.up[0].view(6, 2, 1, 1))
    torch.testing.assert_close(architecture({"images": inputs}, ["b"])["b"], expected)


def test_recurrent_layers_are_adapted() -> None:
    architecture = filled(build("adapters", ONE_STREAM, "lstm"))
    names = architecture.adapter_of["a"].names
    assert len(names) == 8  # two layers, two directions, inputs and states
    assert not any("table" in name for name in names)
    inputs = inputs_of(ONE_STREAM, "lstm")
    changed = list(architecture.adapters[0].up)
    loss = architecture(inputs, ["a"])["a"].square().sum()
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, changed))


def test_the_backbone_is_left_as_it_was_after_a_pass() -> None:
    architecture = filled(build("adapters", ONE_STREAM, "cnn"))
    before = {name: value.clone() for name, value in architecture.backbone.state_dict().items()}
    architecture(inputs_of(ONE_STREAM, "cnn"), TASKS)
    after = architecture.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_running_statistics_are_each_tasks_own() -> None:
    architecture = filled(build("adapters", ONE_STREAM, "cnn"))
    shared = build("hps", ONE_STREAM, "cnn")
    inputs = inputs_of(ONE_STREAM, "cnn")
    with torch.no_grad():
        for up in architecture.adapters[0].up:
            up.zero_()
    architecture.start_step(0, 0)
    architecture(inputs, TASKS)
    shared(inputs, TASKS)
    expected = dict(shared.backbone.named_buffers())
    of = {task: dict(architecture.adapter_of[task].statistics()) for task in TASKS}
    assert set(of["a"]) == set(expected)
    assert len(expected) == 6
    assert all(torch.equal(of["a"][name], expected[name]) for name in expected)
    assert any(not torch.equal(of["b"][name], expected[name]) for name in expected)


def test_statistics_of_another_runs_weights_are_taken_before_the_first_step_alone() -> None:
    architecture = build("adapters", ONE_STREAM, "cnn")
    state = architecture.state_dict()
    name = next(iter(dict(architecture.backbone.named_buffers())))
    other = {**state, f"backbone.{name}": torch.full((4,), 7.0)}
    architecture.load_state_dict(other)
    assert dict(architecture.adapter_of["c"].statistics())[name].eq(7).all()
    architecture.start_step(0, 0)
    architecture(inputs_of(ONE_STREAM, "cnn"), TASKS)
    trained = {key: value.clone() for key, value in architecture.state_dict().items()}
    architecture.load_state_dict(trained)
    for key, value in architecture.state_dict().items():
        assert torch.equal(value, trained[key])
    assert not dict(architecture.adapter_of["c"].statistics())[name].eq(7).any()


@pytest.mark.parametrize(("stages", "passes"), [(None, 3), ([2], 1), ([1, 2], 3)])
def test_stages_before_the_first_adapted_one_are_passed_once(
    stages: Sequence[int] | None, passes: int
) -> None:
    architecture = filled(build("adapters", ONE_STREAM, "cnn", stages=stages))
    calls: list[Tensor] = []
    architecture.backbone.stages[0].register_forward_hook(lambda *given: calls.append(given[2]))
    features = architecture(inputs_of(ONE_STREAM, "cnn"), TASKS)
    assert len(calls) == passes
    assert not torch.allclose(features["a"], features["b"])


def test_a_head_that_reads_an_early_stage_has_no_adapters_behind_it() -> None:
    facts = facts_for("cnn", ONE_STREAM, 1)
    architecture = filled(
        Adapters(
            make_backbone=maker("cnn"),
            streams=facts["streams"],
            reads={"a": [1], "b": [1, 2]},
        )
    )
    assert [len(architecture.adapter_of[task].names) for task in TASKS] == [1, 2, 2]
    inputs = inputs_of(ONE_STREAM, "cnn")
    assert architecture(inputs, TASKS)["a"].shape == (3, 4, 4, 4)
    assert [architecture.out_channels(task) for task in TASKS] == [4, 8, 4]


def test_freezing_the_backbone_leaves_the_adapters_to_train() -> None:
    architecture = build("adapters", ONE_STREAM, "mlp", shared_rank=1)
    architecture.backbone.requires_grad_(False)
    left = [p for p in architecture.shared_parameters() if p.requires_grad]
    assert sum(p.numel() for p in left) == (6 + 5) + (5 + 5)
    own = architecture.task_parameters("b")
    assert sum(p.numel() for p in own) == 4 * (6 + 5) + 4 * (5 + 5)
    loss = architecture(inputs_of(ONE_STREAM), TASKS)["b"].square().sum()
    gradients = torch.autograd.grad(loss, [*left, *own], allow_unused=True)
    assert all(gradient is not None for gradient in gradients)


def test_the_common_update_is_added_to_all_tasks() -> None:
    linear = nn.Linear(4, 4)
    architecture = filled(
        Adapters(
            make_backbone=lambda _: one_stage(linear, 4, "vector"),
            streams=ONE_STREAM,
            rank=1,
            alpha=1.0,
            shared_rank=2,
        )
    )
    inputs = {"images": torch.randn(3, 4)}
    before = architecture(inputs, TASKS)
    with torch.no_grad():
        architecture.common.up[0].normal_()
    after = architecture(inputs, TASKS)
    low = architecture.common
    change = 0.5 * inputs["images"] @ low.down[0].T @ low.up[0].T
    for task in TASKS:
        torch.testing.assert_close(after[task] - before[task], change, atol=1e-5, rtol=1e-5)


def test_the_sizes_of_the_updates_are_shown() -> None:
    architecture = build("adapters", ONE_STREAM, "mlp", rank=1, alpha=1.0)
    (table,) = architecture.structure()
    assert torch.equal(table.values, torch.zeros(3, 2))
    first = architecture.backbone.stages[0][0].weight
    with torch.no_grad():
        architecture.adapter_of["b"].up[0].fill_(1)
        architecture.adapter_of["b"].down[0].fill_(2)
    (table,) = architecture.structure()
    assert (table.rows, table.columns) == (TASKS, ("stage 1", "stage 2"))
    expected = (2.0 * 30**0.5) / first.norm()
    torch.testing.assert_close(table.values[1], torch.stack([expected.detach(), torch.zeros(())]))


@pytest.mark.parametrize(
    ("backbone", "settings", "says"),
    [
        ("mlp", {"stages": [3]}, "stages 1 to 2"),
        ("mlp", {"rank": 0}, "rank"),
        ("mlp", {"alpha": 0.0}, "alpha"),
        ("bag_of_words", {"stages": [1]}, r"use architecture.embeddings=true"),
        ("lstm", {"stages": [1]}, r"use architecture.embeddings=true"),
    ],
)
def test_adapters_refuse_what_cannot_be(backbone: str, settings: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build("adapters", ONE_STREAM, backbone, **settings)


def test_a_backbone_that_trains_nothing_is_refused() -> None:
    def frozen(copy: int) -> Backbone:
        return maker("mlp")(copy).requires_grad_(False)

    with pytest.raises(ValueError, match=r"use model.freeze=\[backbone\]"):
        Adapters(make_backbone=frozen, streams=ONE_STREAM)


def test_tables_of_words_are_adapted_and_padding_stays() -> None:
    architecture = build("adapters", ONE_STREAM, "lstm", embeddings=True, rank=2)
    optimizer = torch.optim.SGD(architecture.adapters.parameters(), lr=0.5)
    inputs = inputs_of(ONE_STREAM, "lstm")
    for _ in range(2):
        optimizer.zero_grad()
        architecture(inputs, ["a"])["a"].sum().backward()
        optimizer.step()
    table = architecture.adapter_of["a"].matrices()["stages.0.table.weight"]
    assert torch.equal(table[0], torch.zeros(6))
    assert table.abs().sum() > 0
    assert torch.equal(architecture(inputs, ["a"])["a"].abs().sum(2) == 0, inputs["images"] == 0)


def test_the_first_gradients_of_the_backbone_are_those_of_hard_sharing() -> None:
    torch.manual_seed(0)
    make = maker("mlp")
    architecture = Adapters(make_backbone=make, streams={"images": ("a",)})
    shared = HPS(make_backbone=make, streams={"images": ("a",)})
    inputs = torch.randn(5, 6)
    loss = architecture({"images": inputs}, ["a"])["a"].square().sum()
    expected = shared({"images": inputs}, ["a"])["a"].square().sum()
    for gradient, reference in zip(
        torch.autograd.grad(loss, architecture.shared_parameters()),
        torch.autograd.grad(expected, shared.shared_parameters()),
        strict=True,
    ):
        assert torch.equal(gradient, reference)
