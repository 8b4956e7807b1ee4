"""PAD-Net: initial predictions, and distillation by hand."""

import re
from collections.abc import Sequence

import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, build, inputs_of
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.sharing.distillation import (
    Distillation,
    InitialPrediction,
    term_names,
)
from mtlrun.models.sharing.reading import stage_outputs
from mtlrun.types import Layout, OutputShape

TASKS = ("a", "b", "c")


def sigmoid(value: float) -> float:
    return 1 / (1 + torch.tensor(-value).exp().item())


@pytest.mark.parametrize(("gate", "expected"), [("source", 1.0), ("target", 0.0)])
def test_messages_by_hand(gate: str, expected: float) -> None:
    """Two tasks, one channel: 3 + sigmoid(2 x S) x 5 x F_a, with F_i = 3 and F_a = -1."""
    distillation = Distillation(("i", "a"), "vector", 1, gate, "messages")
    with torch.no_grad():
        distillation.gates[0][0].linear.weight.fill_(2.0)
        distillation.messages[0][0].linear.weight.fill_(5.0)
    found = distillation([torch.tensor([[3.0]]), torch.tensor([[-1.0]])], 0)
    looked_at = -1.0 if expected else 3.0
    assert found.item() == pytest.approx(3 - 5 * sigmoid(2 * looked_at))


def test_messages_between_maps_go_through_convolutions_of_each_pair() -> None:
    torch.manual_seed(0)
    distillation = Distillation(TASKS, "map", 4, "source", "messages")
    features = [torch.randn(2, 4, 5, 6) for _ in TASKS]
    found = distillation(features, 1)
    expected = features[1]
    for number, source in enumerate((0, 2)):
        gate = F.conv2d(features[source], distillation.gates[1][number].weight, padding=1)
        message = F.conv2d(features[source], distillation.messages[1][number].weight, padding=1)
        expected = expected + torch.sigmoid(gate) * message
    torch.testing.assert_close(found, expected)
    assert sum(p.numel() for p in distillation.parameters()) == 3 * 2 * 2 * 4 * 4 * 9
    assert sum(p.numel() for p in distillation.parameters_of(1)) == 2 * 2 * 4 * 4 * 9


def test_the_gate_of_the_target_is_one_for_all_messages() -> None:
    torch.manual_seed(0)
    distillation = Distillation(TASKS, "map", 4, "target", "messages")
    features = [torch.randn(2, 4, 5, 6) for _ in TASKS]
    gate = torch.sigmoid(distillation.gates[2][0](features[2]))
    messages = [distillation.messages[2][k](features[k]) for k in (0, 1)]
    expected = features[2] + gate * sum(messages)
    torch.testing.assert_close(distillation(features, 2), expected)
    assert sum(p.numel() for p in distillation.parameters()) == 3 * (1 + 2) * 4 * 4 * 9


def test_one_task_gets_no_messages() -> None:
    architecture = build("pad_net", {"images": ("a",)}, "mlp", channels=8)
    inputs = inputs_of({"images": ("a",)})
    last = stage_outputs(architecture.backbone, inputs["images"])[-1]
    assert torch.equal(architecture(inputs, ["a"])["a"], architecture.branches[0](last))
    assert architecture.task_parameters("a") == []
    assert architecture.structure() == []


def test_a_task_alone_reads_the_branches_of_all() -> None:
    architecture = build("pad_net", TWO_STREAMS, "cnn", channels=8)
    inputs = inputs_of({"more": ("c",)}, "cnn")
    loss = architecture(inputs, ["c"])["c"].square().sum()
    gradients = torch.autograd.grad(loss, list(architecture.branches.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("layout", "output", "shape"),
    [
        ("map", OutputShape(3, "pixel", (9, 7)), (2, 3, 9, 7)),
        ("map", OutputShape(3, "row"), (2, 3)),
        ("vector", OutputShape(3, "row"), (2, 3)),
        ("sequence", OutputShape(3, "row"), (2, 3)),
        ("sequence", OutputShape(3, "token"), (2, 5, 3)),
    ],
)
def test_initial_predictions_have_the_shape_of_the_heads(
    layout: Layout, output: OutputShape, shape: Sequence[int]
) -> None:
    given = {"map": (2, 4, 3, 3), "vector": (2, 4), "sequence": (2, 5, 4)}[layout]
    assert InitialPrediction(layout, 4, output)(torch.randn(given)).shape == shape


@pytest.mark.parametrize(
    ("layout", "output"),
    [("vector", OutputShape(1, "pixel", (4, 4))), ("map", OutputShape(1, "token"))],
)
def test_predictions_that_the_features_do_not_keep_are_refused(
    layout: Layout, output: OutputShape
) -> None:
    with pytest.raises(ValueError, match="use a backbone that keeps"):
        InitialPrediction(layout, 4, output)


def test_the_terms_are_the_wanted_tasks_initial_predictions() -> None:
    architecture = build("pad_net", ONE_STREAM, "cnn", channels=8, deep_supervision=0.25)
    assert architecture.terms == dict.fromkeys(("initial_a", "initial_b", "initial_c"), 0.25)
    inputs = inputs_of(ONE_STREAM, "cnn")
    found = architecture.with_terms(inputs, ["b"])
    assert not found.terms
    ((name, (task, prediction)),) = found.predictions.items()
    assert (name, task, prediction.shape) == ("initial_b", "b", (3, 2, 8, 8))
    heads = {id(p) for p in architecture.initial.parameters()}
    known = [*architecture.shared_parameters()]
    known += [p for task in TASKS for p in architecture.task_parameters(task)]
    assert not heads & {id(p) for p in known}
    assert len(heads) + len(known) == len(list(architecture.parameters()))
    architecture.eval()
    assert torch.equal(
        architecture(inputs, ["b"])["b"], architecture.with_terms(inputs, ["b"]).features["b"]
    )


def test_without_supervision_there_are_no_initial_predictions() -> None:
    architecture = build("pad_net", ONE_STREAM, "cnn", channels=8, deep_supervision=0.0)
    assert architecture.initial is None
    assert architecture.terms == {}
    assert build("pad_net", ONE_STREAM, "lenet", deep_supervision=0.0).layout("a") == "vector"


def test_names_of_terms_are_plain_and_differ() -> None:
    names = term_names(["a.b", "a_b", "", "über/größe", "a-b", "type"])
    assert names["a_b"] == "a_b"
    assert names["type"] == "type"
    assert len(set(names.values())) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", name) for name in names.values())
    assert names["a.b"] == "a_b_1"
    assert names[""] == "3"


def test_padding_stays_empty() -> None:
    architecture = build("pad_net", ONE_STREAM, "lstm", channels=8)
    inputs = inputs_of(ONE_STREAM, "lstm")
    found: Tensor = architecture(inputs, ["a"])["a"]
    assert torch.equal((found == 0).all(2), inputs["images"] == 0)


def test_messages_are_shown_beside_what_they_are_added_to() -> None:
    distillation = Distillation(("i", "a"), "vector", 1, "source", "messages").eval()
    with torch.no_grad():
        for part in (*distillation.gates, *distillation.messages):
            part[0].linear.weight.fill_(0.0)
        distillation.messages[0][0].linear.weight.fill_(4.0)
    for rows in (1, 2):
        features = [torch.full((rows, 1), 2.0), torch.full((rows, 1), -3.0)]
        for target in (0, 1):
            distillation(features, target)
    table = distillation.table()
    assert torch.equal(table.values, torch.tensor([[0.0, 0.5 * 4 * 3 / 2], [0.0, 0.0]]))
    distillation.clear()
    assert torch.equal(distillation.table().values, torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 10}, "multiple of 4.*use 8"),
        ({"channels": 0}, "channels"),
        ({"deep_supervision": -1.0}, "deep_supervision"),
        ({"gate": "both"}, "gate"),
    ],
)
def test_pad_net_refuses_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("pad_net", ONE_STREAM, "cnn", **settings)


def test_branches_of_maps_are_two_bottlenecks() -> None:
    architecture = build("pad_net", ONE_STREAM, "cnn", channels=8)
    convolutions = [m for m in architecture.branches[0].modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in convolutions] == [1, 1, 3, 1, 1, 3, 1]
    assert [p.shape for p in architecture.last_shared_layer()] == [(8, 2, 1, 1)] * 3
