"""Heads that read different stages: which tasks reach which parameters then."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, build, inputs_of, maker, reached_by
from torch import nn

TASKS = ("a", "b", "c")
STAGES = 4
MAKE = maker("mlp", hidden=(5,) * STAGES)
NAMES = ("hps", "mmoe", "dselect_k", "care", "cgc", "ple", "ltb", "adapters", "adashare")
SETTINGS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "mmoe": ({}, {"stem": 2}, {"experts": 1}),
    "ple": ({}, {"levels": 3}, {"task_experts": 0}, {"shared_experts": 1, "task_experts": 0}),
    "ltb": ({}, {"leaves": "own"}),
    "adapters": ({}, {"shared_rank": 1}),
}
READS: Sequence[Mapping[str, Sequence[int]]] = (
    {"a": (2,), "b": (1, 3)},  # and c alone the last
    {"a": (1,)},
)
CASES = [(name, chosen) for name in NAMES for chosen in SETTINGS.get(name, ({},))]


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("reads", READS)
def test_parameters_belong_to_the_tasks_whose_heads_rest_on_them(
    name: str, settings: Mapping[str, Any], reads: Mapping[str, Sequence[int]]
) -> None:
    architecture = build(name, TWO_STREAMS, make=MAKE, reads=reads, **settings)
    reached = reached_by(architecture, inputs_of(TWO_STREAMS), TASKS)
    shared = {id(p) for p in architecture.shared_parameters()}
    own = {task: {id(p) for p in architecture.task_parameters(task)} for task in TASKS}
    of_terms = {id(p) for p in getattr(architecture, "logits", ())} if architecture.terms else set()
    for parameter in architecture.parameters():
        by = {task for task in TASKS if id(parameter) in reached[task]}
        assert (id(parameter) in shared) == (len(by) > 1)
        if not by & {task for task in TASKS if id(parameter) in own[task]}:
            assert len(by) != 1
            assert id(parameter) in of_terms or not any(id(parameter) in o for o in own.values())
    last = [id(p) for p in architecture.last_shared_layer()]
    assert last or settings.get("leaves") == "own"
    assert all(p in reached[task] for task in TASKS for p in last)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_stages_that_no_head_reads_are_let_go(name: str, settings: Mapping[str, Any]) -> None:
    reads = dict.fromkeys(TASKS, (1, 3))
    inputs = inputs_of(ONE_STREAM)
    cut = build(name, ONE_STREAM, make=MAKE, reads=reads, **settings)
    short = build(name, ONE_STREAM, make=maker("mlp", hidden=(5,) * 3), reads=reads, **settings)
    assert sum(p.numel() for p in cut.parameters()) == sum(p.numel() for p in short.parameters())
    found = []
    for architecture in (cut, short):
        torch.manual_seed(0)
        for parameter in architecture.parameters():
            nn.init.normal_(parameter, std=0.3)
        architecture.start_step(0, 0)
        found.append(architecture.eval()(inputs, TASKS)["b"])
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["mmoe", "ple"])
def test_experts_that_no_head_reads_are_refused(name: str) -> None:
    reads = dict.fromkeys(TASKS, (2,))
    with pytest.raises(ValueError, match=r"stem=2, .* use later stages, a smaller stem"):
        build(name, ONE_STREAM, make=MAKE, reads=reads, stem=2)


def test_a_task_that_reads_the_stem_alone_has_no_gate() -> None:
    architecture = build("mmoe", ONE_STREAM, make=MAKE, reads={"a": (1,)}, stem=1)
    assert architecture.task_parameters("a") == []
    assert len(architecture.task_parameters("b")) == 2
    architecture.eval().start_evaluation()
    architecture(inputs_of(ONE_STREAM), TASKS)
    (table,) = architecture.structure()
    assert table.values.sum(1).round(decimals=5).tolist() == [0, 1, 1]
