"""NDDR-CNN: joined features reduced by each task, and the norm of sequences."""

import pytest
import torch
from architecture_cases import ONE_STREAM, SMALL, TWO_STREAMS, build, inputs_of, reached_by
from torch import nn

from mtlrun.models.architectures.nddr import TokenBatchNorm

TWO = {"images": ("a", "b")}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("backbone", SMALL)
def test_with_the_own_features_alone_it_is_relu_of_single_task(backbone: str) -> None:
    alone = build("single_task", TWO_STREAMS, backbone)
    last = len(alone.backbones[0].stages)
    reduced = build("nddr", TWO_STREAMS, backbone, same=1.0, after=[last])
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    missing, unexpected = reduced.load_state_dict(alone.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("units.") for name in missing)
    inputs = inputs_of(TWO_STREAMS, backbone)
    expected, found = (each.eval()(inputs, ["a", "b", "c"]) for each in (alone, reduced))
    for task in expected:
        # The norm divides by sqrt(1 + 1e-5)
        assert torch.allclose(found[task], expected[task].relu(), atol=1e-5)


def test_reduces_known_numbers() -> None:
    architecture = build("nddr", TWO, after=[2]).eval()
    with torch.no_grad():
        for backbone, value in zip(architecture.backbones, (2.0, 3.0), strict=True):
            backbone.stages[1][0].weight.zero_()
            backbone.stages[1][0].bias.fill_(value)
        # Channel 0 of task b: 10 x channel 4 of a - 1 x channel 1 of b; the others begin diagonal
        weight = architecture.units[0].reductions[1].linear.weight
        weight[0] = 0
        weight[0, 4], weight[0, 5 + 1] = 10.0, -1.0
        architecture.units[0].reductions[1].norm.running_mean[2] = 100.0
    features = architecture(inputs_of(TWO), ["a", "b"])
    a, b = 0.9 * 2 + 0.1 * 3, 0.1 * 2 + 0.9 * 3
    assert torch.allclose(features["a"], torch.full((3, 5), a), rtol=1e-5)
    expected = torch.tensor([[17.0, b, 0.0, b, b]]).expand(3, 5)
    assert torch.allclose(features["b"], expected, rtol=1e-5)


def test_the_first_weights_are_shown_as_they_are() -> None:
    architecture = build("nddr", ONE_STREAM, "cnn")
    expected = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    tables = architecture.structure()
    assert [table.name for table in tables] == ["nddr/stage_1", "nddr/stage_2"]
    for table in tables:
        assert torch.allclose(table.values, expected)
    assert architecture.learning_rates() == []


def test_parameters_beside_those_of_single_task() -> None:
    alone = count(build("single_task", ONE_STREAM))
    layer = 3 * (3 * 5 * 5 + 2 * 5)  # for each task a matrix [5, 15], a scale and a shift
    assert count(build("nddr", ONE_STREAM)) - alone == 2 * layer
    assert count(build("nddr", ONE_STREAM, after=[1])) - alone == layer
    shortcut = 3 * (2 * 5 * 5 + 2 * 5)
    assert count(build("nddr", ONE_STREAM, shortcut=True)) - alone == 2 * layer + shortcut
    assert count(build("nddr", {"images": ("a",)})) == alone // 3


@pytest.mark.parametrize("backbone", ["mlp", "lenet"])
def test_the_shortcut_reads_all_stages(backbone: str) -> None:
    architecture = build("nddr", ONE_STREAM, backbone, shortcut=True)
    inputs = inputs_of(ONE_STREAM, backbone)
    features = architecture(inputs, ["a", "b", "c"])
    plain = build("nddr", ONE_STREAM, backbone)(inputs, ["a", "b", "c"])
    assert features["a"].shape == plain["a"].shape
    reached = reached_by(architecture, inputs, ["a", "b", "c"])
    shared = {id(p) for p in architecture.shared_parameters()}
    for task, reader in zip("abc", architecture.readers, strict=True):
        own = {id(p) for p in architecture.task_parameters(task)}
        assert {id(p) for p in reader.parameters()} <= own
        assert reached[task] == own | shared
    # Row a of the first unit reaches its head through the joined features, with the last unit shut
    with torch.no_grad():
        for unit in architecture.units[1:]:
            for reduction in unit.reductions:
                reduction.norm.weight.zero_()
    (gradient,) = torch.autograd.grad(
        architecture(inputs, ["a"])["a"].square().sum(),
        architecture.units[0].row(0)[:1],
    )
    assert gradient.abs().sum() > 0


def test_tokens_are_normalised_over_those_that_are_there() -> None:
    norm = TokenBatchNorm(2, momentum=0.05)
    features = 3 * torch.randn(3, 4, 2) + 1
    features[0, 2:] = features[2, 1:] = 0
    here = (features != 0).any(2)
    reference = nn.BatchNorm1d(2, momentum=0.05)
    expected = reference(features[here])
    found = norm(features, here)
    assert torch.allclose(found[here], expected, atol=1e-6)
    assert torch.allclose(norm.running_mean, reference.running_mean, atol=1e-6)
    assert torch.allclose(norm.running_var, reference.running_var, atol=1e-6)
    assert torch.allclose(
        norm.eval()(features, here)[here], reference.eval()(features[here]), atol=1e-6
    )


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_batch_of_one_token_is_normalised_by_the_running_statistics(tokens: int) -> None:
    norm = TokenBatchNorm(2, momentum=0.05)
    features = torch.zeros(1, 3, 2)
    features[0, :tokens] = torch.tensor([3.0, -4.0])
    features.requires_grad_()
    found = norm(features, (features != 0).any(2))
    assert torch.allclose(found, features, rtol=1e-5)
    assert torch.equal(norm.running_var, torch.ones(2))
    assert torch.equal(norm.running_mean, torch.zeros(2))
    (gradient,) = torch.autograd.grad(found.sum(), features)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("backbone", SMALL)
def test_a_batch_of_one_row(backbone: str) -> None:
    architecture = build("nddr", ONE_STREAM, backbone, shortcut=True)
    features = architecture(inputs_of(ONE_STREAM, backbone, rows=1), ["a", "c"])
    assert all(value.isfinite().all() for value in features.values())


def test_a_shortcut_with_nothing_to_join_is_refused() -> None:
    with pytest.raises(ValueError, match="use shortcut=false"):
        build("nddr", ONE_STREAM, after=[2], shortcut=True)
