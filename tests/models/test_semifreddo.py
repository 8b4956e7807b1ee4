"""A frozen network beside trainable ones: what moves, and how features are blended."""

import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, build, inputs_of, maker
from torch import nn

from mtlrun.models.architectures.semifreddo import Semifreddo
from mtlrun.models.architectures.single_task import SingleTask
from mtlrun.models.backbones.base import Backbone

TASKS = ("a", "b", "c")


def set_shares(architecture: Semifreddo, value: float) -> None:
    with torch.no_grad():
        for alpha in architecture.alphas:
            alpha.fill_(value)


def test_features_are_blended_after_each_stage() -> None:
    architecture = build("semifreddo", TWO_STREAMS)
    torch.nn.init.normal_(architecture.backbone.stages[0][0].weight)
    inputs = inputs_of(TWO_STREAMS)
    values = torch.tensor([[0.3, -1.0], [2.0, 0.5], [0.0, -0.2]])
    with torch.no_grad():
        for alpha, value in zip(architecture.alphas, values, strict=True):
            alpha.copy_(value)
    found = architecture(inputs, TASKS)
    for number, (task, stream) in enumerate(architecture.stream_of.items()):
        frozen, own = architecture.backbone, architecture.backbones[number]
        first, second = values[number].sigmoid()
        after = frozen.stages[0](inputs[stream])
        features = first * after + (1 - first) * own.stages[0](inputs[stream])
        features = second * frozen.stages[1](after) + (1 - second) * own.stages[1](features)
        torch.testing.assert_close(found[task], features)
    (table,) = architecture.structure()
    assert (table.rows, table.columns) == (TASKS, ("stage 1", "stage 2"))
    torch.testing.assert_close(table.values, values.sigmoid())


def test_its_extremes_are_the_frozen_network_and_single_task() -> None:
    make = maker("cnn")
    architecture = build("semifreddo", TWO_STREAMS, "cnn", make=make).eval()
    architecture.backbone.load_state_dict(make(5).state_dict())
    inputs = inputs_of(TWO_STREAMS, "cnn")
    set_shares(architecture, 200.0)
    for task, features in architecture(inputs, TASKS).items():
        expected = architecture.backbone(inputs[architecture.stream_of[task]])
        torch.testing.assert_close(features, expected)
    set_shares(architecture, -200.0)
    single = SingleTask(make_backbone=make, streams=TWO_STREAMS).eval()
    for task, features in single(inputs, TASKS).items():
        assert torch.equal(architecture(inputs, TASKS)[task], features)


@pytest.mark.parametrize("backbone", ["mlp", "lstm"])
def test_it_starts_as_the_networks_of_single_task(backbone: str) -> None:
    make = maker(backbone)
    architecture = build("semifreddo", TWO_STREAMS, backbone, make=make)
    single = SingleTask(make_backbone=make, streams=TWO_STREAMS)
    inputs = inputs_of(TWO_STREAMS, backbone)
    for task, features in single(inputs, TASKS).items():
        torch.testing.assert_close(architecture(inputs, TASKS)[task], features)


def make_noisy(copy: int) -> Backbone:
    """Stages with batch normalisation and dropout."""
    return maker("mlp", norm="batch", dropout=0.5)(copy)


def test_the_frozen_core_never_moves() -> None:
    architecture = build("semifreddo", TWO_STREAMS, make=make_noisy)
    before = {name: value.clone() for name, value in architecture.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in architecture.parameters() if p.requires_grad], lr=0.1)
    inputs = inputs_of(TWO_STREAMS, rows=8)
    for module in architecture.train().backbone.modules():
        assert not module.training
    assert architecture.backbones[0].training
    for _ in range(2):
        optimizer.zero_grad()
        sum(
            features.square().mean() for features in architecture(inputs, TASKS).values()
        ).backward()
        optimizer.step()
    moved = {
        n for n, value in architecture.state_dict().items() if not torch.equal(value, before[n])
    }
    assert moved
    assert not any(name.startswith("backbone.") for name in moved)
    assert {f"alphas.{number}" for number in range(3)} <= moved


def test_the_frozen_core_runs_once_a_stream_and_no_further_than_it_is_read() -> None:
    architecture = build("semifreddo", TWO_STREAMS, mix_after=[1])
    calls: list[nn.Module] = []
    architecture.backbone.stages[0].register_forward_hook(lambda module, *_: calls.append(module))
    architecture(inputs_of(TWO_STREAMS), TASKS)
    assert len(calls) == 2
    assert isinstance(architecture.backbone.stages[1], nn.Identity)
    assert [len(alpha) for alpha in architecture.alphas] == [1, 1, 1]


def test_a_trained_network_fits_the_frozen_core() -> None:
    architecture = build("semifreddo", ONE_STREAM)
    trained = build("hps", ONE_STREAM, make=lambda _: maker("mlp")(7))
    missing, unexpected = architecture.load_state_dict(trained.state_dict(), strict=False)
    assert not unexpected
    assert not any(name.startswith("backbone.") for name in missing)
    inputs = inputs_of(ONE_STREAM)
    set_shares(architecture, 200.0)
    expected = trained(inputs, ["a"])["a"]
    torch.testing.assert_close(architecture(inputs, ["a"])["a"], expected)


def test_stages_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mix_after=\[3\]: .* stages 1 to 2"):
        build("semifreddo", mix_after=[3])
    with pytest.raises(ValueError, match=r"mix_after=\[\] .*architecture=single_task"):
        build("semifreddo", mix_after=[])


@pytest.mark.parametrize("backbone", ["mlp", "segnet"])
def test_a_task_has_the_blends_that_its_head_sees(backbone: str) -> None:
    reads = {"a": [1], "b": [2], "c": [1, 2]}
    architecture = build("semifreddo", TWO_STREAMS, backbone, reads=reads)
    assert [len(alpha) for alpha in architecture.alphas] == [1, 2, 2]
    single = build("single_task", TWO_STREAMS, backbone, reads=reads)
    inputs = inputs_of(TWO_STREAMS, backbone)
    set_shares(architecture, -200.0)
    for task, features in single(inputs, TASKS).items():
        torch.testing.assert_close(architecture(inputs, TASKS)[task], features)
    (table,) = architecture.structure()
    assert table.columns == ("stage 1", "stage 2")
    set_shares(architecture, 0.0)
    (table,) = architecture.structure()
    assert table.values.tolist() == [[0.5, 0.0], [0.5, 0.5], [0.5, 0.5]]
    with pytest.raises(ValueError, match=r"the head of a reads stage 1 at the latest.* null"):
        build("semifreddo", TWO_STREAMS, backbone, reads=reads, mix_after=[2])
