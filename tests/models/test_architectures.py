"""Every architecture of configs/architecture, and what sharing means in each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from mtlrun.models.architectures.base import Architecture
from mtlrun.models.architectures.hps import HPS
from mtlrun.models.architectures.single_task import SingleTask
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.backbones.cnn import CNN
from mtlrun.models.backbones.mlp import MLP

CONFIGS = Path(__file__).parents[2] / "configs" / "architecture"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
ONE_STREAM = {"images": ("a", "b", "c")}
TWO_STREAMS = {"images": ("a", "b"), "more": ("c",)}


def make_mlp(copy: int) -> Backbone:
    torch.manual_seed(copy)
    return MLP(input_shape=(6,), hidden=(5, 4))


def make_cnn(copy: int) -> Backbone:
    torch.manual_seed(copy)
    return CNN(input_shape=(1, 8, 8), channels=(4, 3))


def build(name: str, streams: Mapping[str, Sequence[str]], make: object = make_mlp) -> Architecture:
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    architecture = instantiate(config, make_backbone=make, streams=streams)
    assert isinstance(architecture, Architecture)
    return architecture


def inputs_of(streams: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    return {stream: torch.randn(3, 6) for stream in streams}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("streams", [ONE_STREAM, TWO_STREAMS])
def test_features_have_the_declared_shape(name: str, streams: Mapping[str, Sequence[str]]) -> None:
    architecture = build(name, streams)
    features = architecture(inputs_of(streams), ["c", "a", "b"])
    assert list(features) == ["c", "a", "b"]
    for task, value in features.items():
        assert value.shape == (3, architecture.out_channels(task))
        assert architecture.layout(task) == "vector"
    assert build(name, streams, make_cnn).layout("a") == "map"
    assert build(name, streams, make_cnn).out_channels("a") == 3


@pytest.mark.parametrize("name", NAMES)
def test_only_the_streams_of_the_tasks_wanted_are_read(name: str) -> None:
    architecture = build(name, TWO_STREAMS)
    assert list(architecture({"more": torch.randn(3, 6)}, ["c"])) == ["c"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("streams", [ONE_STREAM, TWO_STREAMS])
def test_each_parameter_is_shared_or_one_tasks(
    name: str, streams: Mapping[str, Sequence[str]]
) -> None:
    architecture = build(name, streams)
    named = [*architecture.shared_parameters()]
    for task in ("a", "b", "c"):
        named += architecture.task_parameters(task)
    assert len(named) == len({id(p) for p in named})
    assert {id(p) for p in named} == {id(p) for p in architecture.parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_a_task_reaches_the_shared_and_its_own_parameters_alone(name: str) -> None:
    architecture = build(name, TWO_STREAMS)
    features = architecture(inputs_of(TWO_STREAMS), ["a", "b", "c"])
    features["b"].square().sum().backward()
    mine = {id(p) for p in architecture.shared_parameters() + architecture.task_parameters("b")}
    for parameter in architecture.parameters():
        assert (parameter.grad is not None) == (id(parameter) in mine)


@pytest.mark.parametrize("name", NAMES)
def test_any_task_name_will_do(name: str) -> None:
    names = ("a.b", "type", "keys", "", "training", "über/größe")
    architecture = build(name, {"s.1": names})
    assert tuple(architecture({"s.1": torch.randn(2, 6)}, names)) == names


@pytest.mark.parametrize("name", NAMES)
def test_is_captured_as_one_graph(name: str) -> None:
    architecture = build(name, TWO_STREAMS)
    inputs = inputs_of(TWO_STREAMS)
    compiled = torch.compile(architecture, backend="eager", fullgraph=True)
    expected = architecture(inputs, ("a", "b", "c"))
    for task, value in compiled(inputs, ("a", "b", "c")).items():
        assert torch.equal(value, expected[task])
    torch.compiler.reset()


def test_every_architecture_has_a_config() -> None:
    assert {"hps", "single_task"} <= set(NAMES)


def test_hps_tasks_of_a_stream_read_one_tensor() -> None:
    architecture = HPS(make_backbone=make_mlp, streams=TWO_STREAMS)
    calls: list[nn.Module] = []
    architecture.backbone.register_forward_hook(lambda module, *_: calls.append(module))
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
