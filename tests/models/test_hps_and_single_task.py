"""Hard sharing and single-task networks: what sharing means in each."""

import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, maker
from torch import Tensor, nn

from mtlrun.models.architectures.hps import HPS
from mtlrun.models.architectures.single_task import SingleTask
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.backbones.cnn import CNN
from mtlrun.models.backbones.mlp import MLP


def make_mlp(copy: int) -> Backbone:
    torch.manual_seed(copy)
    return MLP(input_shape=(6,), hidden=(5, 4))


def make_cnn(copy: int) -> Backbone:
    torch.manual_seed(copy)
    return CNN(input_shape=(1, 8, 8), channels=(4, 3))


def inputs_of(streams: object) -> dict[str, Tensor]:
    return {stream: torch.randn(3, 6) for stream in streams}


def test_hps_tasks_of_a_stream_read_one_tensor() -> None:
    architecture = HPS(make_backbone=make_mlp, streams=TWO_STREAMS)
    calls: list[nn.Module] = []
    architecture.backbone.stages[0].register_forward_hook(lambda module, *_: calls.append(module))
    features = architecture(inputs_of(TWO_STREAMS), ["a", "b", "c"])
    assert features["a"] is features["b"]
    assert features["a"] is not features["c"]
    assert len(calls) == 2


def test_hps_has_one_representation_where_there_is_one_stream() -> None:
    assert HPS(make_backbone=make_mlp, streams=ONE_STREAM).one_representation
    assert not HPS(make_backbone=make_mlp, streams=TWO_STREAMS).one_representation
    assert not SingleTask(make_backbone=make_mlp, streams=ONE_STREAM).one_representation


def test_hps_shares_its_backbone() -> None:
    architecture = HPS(make_backbone=make_mlp, streams=ONE_STREAM)
    backbone = list(architecture.backbone.parameters())
    shared = architecture.shared_parameters()
    assert [id(p) for p in shared] == [id(p) for p in backbone]
    (last,) = architecture.last_shared_layer()
    assert last.shape == (4, 5)
    assert last is backbone[-2]


def test_single_task_networks_are_equal_and_apart() -> None:
    architecture = SingleTask(make_backbone=make_mlp, streams=ONE_STREAM)
    assert architecture.last_shared_layer() == []
    first, *others = (architecture.task_parameters(task) for task in ONE_STREAM["images"])
    for other in others:
        for p, q in zip(first, other, strict=True):
            assert p is not q
            assert torch.equal(p, q)
    reference = HPS(make_backbone=make_mlp, streams=ONE_STREAM).shared_parameters()
    for p, q in zip(first, reference, strict=True):
        assert torch.equal(p, q)


def test_single_task_trains_as_separate_runs_do() -> None:
    together = SingleTask(make_backbone=make_cnn, streams={"images": ("a", "b")})
    inputs, scales = torch.randn(4, 1, 8, 8), {"a": 1.0, "b": -3.0}
    optimizer = torch.optim.Adam(together.parameters(), lr=0.1)
    for _ in range(3):
        features = together({"images": inputs}, ["a", "b"])
        optimizer.zero_grad()
        sum((features[task] * scales[task]).exp().mean() for task in scales).backward()
        optimizer.step()
    for task, scale in scales.items():
        apart = HPS(make_backbone=make_cnn, streams={"images": (task,)})
        optimizer = torch.optim.Adam(apart.parameters(), lr=0.1)
        for _ in range(3):
            loss = (apart({"images": inputs}, [task])[task] * scale).exp().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for p, q in zip(together.task_parameters(task), apart.shared_parameters(), strict=True):
            assert torch.equal(p, q)


def test_heads_may_read_any_stages() -> None:
    reads = {"a": [1], "b": [1, 2]}
    architecture = HPS(make_backbone=make_cnn, streams=ONE_STREAM, reads=reads)
    assert not architecture.one_representation
    assert [architecture.out_channels(task) for task in "abc"] == [4, 7, 3]
    inputs = torch.randn(2, 1, 8, 8)
    features = architecture({"images": inputs}, ["a", "b", "c"])
    first = architecture.backbone.stages[0](inputs)
    second = architecture.backbone.stages[1](first)
    larger = nn.functional.interpolate(second, first.shape[-2:], mode="bilinear")
    assert torch.equal(features["a"], first)
    assert torch.equal(features["b"], torch.cat([first, larger], 1))
    assert torch.equal(features["c"], second)
    alike = HPS(make_backbone=make_cnn, streams=ONE_STREAM, reads={task: [1, 2] for task in "abc"})
    features = alike({"images": inputs}, ["a", "b", "c"])
    assert features["a"] is features["c"]
    assert alike.one_representation


def test_stages_of_several_layouts_are_read_as_vectors() -> None:
    reads = {task: [1, 3] for task in "abc"}
    make = maker("lenet", input_shape=(1, 16, 16))
    architecture = SingleTask(make_backbone=make, streams=ONE_STREAM, reads=reads)
    assert architecture.layout("a") == "vector"
    inputs = torch.randn(2, 1, 16, 16)
    features = architecture({"images": inputs}, ["a"])["a"]
    first = architecture.backbone_of["a"].stages[0](inputs)
    last = architecture.backbone_of["a"](inputs)
    assert torch.equal(features, torch.cat([first.mean((2, 3)), last], 1))


def test_a_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"heads.stages=\[3\] of task a.* 1 to 2"):
        HPS(make_backbone=make_mlp, streams=ONE_STREAM, reads={"a": [3]})


def test_stages_belong_to_those_whose_heads_read_them() -> None:
    reads = {"a": [1], "b": [1]}
    architecture = HPS(make_backbone=make_mlp, streams=ONE_STREAM, reads=reads)
    first, second = architecture.backbone.stages
    assert {id(p) for p in architecture.shared_parameters()} == {id(p) for p in first.parameters()}
    own = architecture.task_parameters("c")
    assert {id(p) for p in own} == {id(p) for p in second.parameters()}
    assert architecture.task_parameters("a") == []
    assert architecture.last_shared_layer()[0].shape == (5, 6)


def test_stages_that_no_head_reads_are_let_go() -> None:
    reads = {task: [1] for task in "abc"}
    for kind, copies in ((HPS, 1), (SingleTask, 3)):
        architecture = kind(make_backbone=make_mlp, streams=ONE_STREAM, reads=reads)
        assert sum(p.numel() for p in architecture.parameters()) == copies * (5 * 6 + 5)
        features = architecture(inputs_of(ONE_STREAM), ["b"])
        assert features["b"].shape == (3, 5)
