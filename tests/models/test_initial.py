"""Whose weights fill what, where a network starts from another run."""

import pytest
import torch
from architecture_cases import maker

from mtlrun.models.architectures.hps import HPS
from mtlrun.models.architectures.single_task import SingleTask
from mtlrun.models.heads.linear import LinearHead
from mtlrun.models.initial import take_weights
from mtlrun.models.model import MultiTaskModel


def network(kind: type[HPS] | type[SingleTask], tasks: str, seed: int) -> MultiTaskModel:
    make = maker("mlp")
    architecture = kind(make_backbone=lambda _: make(seed), streams={"rows": tuple(tasks)})
    torch.manual_seed(seed)
    heads = {t: LinearHead(in_channels=5, out_channels=2, layout="vector") for t in tasks}
    return MultiTaskModel(architecture, heads)


def test_a_shared_backbone_starts_from_the_one_of_a_single_task() -> None:
    source, own = network(SingleTask, "b", 1), network(HPS, "ab", 2)
    filled, left = take_weights(own, source.state_dict(), ["b"])
    assert (filled, left) == (["backbone", "head of b"], ["head of a"])
    there = source.architecture.task_parameters("b")
    for one, other in zip(own.architecture.shared_parameters(), there, strict=True):
        assert torch.equal(one, other)
    untouched = network(HPS, "ab", 2)
    for task, expected in (("a", untouched.head_of["a"]), ("b", source.head_of["b"])):
        for one, other in zip(own.head_of[task].parameters(), expected.parameters(), strict=True):
            assert torch.equal(one, other)


def test_networks_of_single_tasks_go_to_their_own() -> None:
    source, own = network(SingleTask, "abc", 1), network(SingleTask, "cab", 2)
    with torch.no_grad():
        for number, task in enumerate("abc"):
            for parameter in source.architecture.task_parameters(task):
                parameter.fill_(number)
    filled, left = take_weights(own, source.state_dict(), list("abc"))
    assert len(filled) == 6
    assert left == []
    for number, task in enumerate("abc"):
        assert all(bool((p == number).all()) for p in own.architecture.task_parameters(task))


def test_one_of_several_networks_is_not_chosen_for_the_user() -> None:
    source, own = network(SingleTask, "xy", 1), network(HPS, "ab", 2)
    with pytest.raises(ValueError, match=r"nothing of it fits.* one backbone starts from"):
        take_weights(own, source.state_dict(), ["x", "y"])


def test_a_head_of_another_shape_stays_new() -> None:
    source, own = network(HPS, "ab", 1), network(HPS, "ab", 2)
    state = source.state_dict()
    state["heads.1.layers.0.weight"] = torch.ones(7, 5)
    before = own.state_dict()["heads.1.layers.0.bias"].clone()
    filled, left = take_weights(own, state, ["a", "b"])
    assert (filled, left) == (["backbone", "head of a"], ["head of b"])
    assert torch.equal(own.state_dict()["heads.1.layers.0.bias"], before)


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    model = network(HPS, "ab", 1)
    model.freeze(["backbone.2", "heads.b"])
    model.train()
    backbone = model.architecture.backbone
    assert [stage.training for stage in backbone.stages] == [True, False]
    assert [model.head_of[task].training for task in "ab"] == [True, False]
    assert len(model.shared_parameters()) == len(list(backbone.stages[0].parameters()))
