"""Properties of every architecture of configs/architecture, on a backbone of each layout."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from architecture_cases import (
    EPOCHS,
    NAMES,
    ONE_STREAM,
    SMALL,
    TWO_STREAMS,
    build,
    inputs_of,
    reached_by,
)

from mtlrun.models.architectures.base import Architecture

CASES = [(name, backbone) for name in NAMES for backbone in SMALL]
TASKS = ("a", "b", "c")


def built(
    name: str, backbone: str, streams: Mapping[str, Sequence[str]] = TWO_STREAMS
) -> Architecture | None:
    """The architecture; None where it refuses the backbone, with a reason and what to use."""
    try:
        return build(name, streams, backbone, small=True)
    except ValueError as error:
        refusal = str(error)
    assert "use " in refusal.lower()
    assert len(refusal) > 40
    return None


@pytest.mark.parametrize(("name", "backbone"), CASES)
@pytest.mark.parametrize("streams", [ONE_STREAM, TWO_STREAMS])
def test_features_have_the_declared_shape(
    name: str, backbone: str, streams: Mapping[str, Sequence[str]]
) -> None:
    architecture = built(name, backbone, streams)
    if architecture is None:
        return
    inputs = inputs_of(streams, backbone)
    architecture.start_step(0, 0)
    features = architecture(inputs, ["c", "a", "b"])
    assert list(features) == ["c", "a", "b"]
    for task, value in features.items():
        layout = architecture.layout(task)
        assert value.ndim == {"vector": 2, "map": 4, "sequence": 3}[layout]
        channels = value.shape[2 if layout == "sequence" else 1]
        assert (len(value), channels) == (3, architecture.out_channels(task))
        if layout == "sequence":
            padding = inputs[architecture.stream_of[task]] == 0
            assert torch.equal((value == 0).all(2), padding)


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_only_the_streams_of_the_tasks_wanted_are_read(name: str, backbone: str) -> None:
    architecture = built(name, backbone)
    if architecture is None:
        return
    inputs = inputs_of({"more": ("c",)}, backbone)
    architecture.start_step(0, 0)
    assert list(architecture(inputs, ["c"])) == ["c"]
    assert set(architecture.with_terms(inputs, ["c"]).features) == {"c"}


@pytest.mark.parametrize(("name", "backbone"), CASES)
@pytest.mark.parametrize("streams", [ONE_STREAM, TWO_STREAMS])
def test_parameters_belong_to_those_who_reach_them(
    name: str, backbone: str, streams: Mapping[str, Sequence[str]]
) -> None:
    architecture = built(name, backbone, streams)
    if architecture is None:
        return
    reached = reached_by(architecture, inputs_of(streams, backbone), TASKS)
    shared = [id(p) for p in architecture.shared_parameters()]
    own = {task: [id(p) for p in architecture.task_parameters(task)] for task in TASKS}
    named = shared + [p for mine in own.values() for p in mine]
    assert len(named) == len(set(named))
    for parameter in (p for p in architecture.parameters() if p.requires_grad):
        by = [task for task in TASKS if id(parameter) in reached[task]]
        if len(by) > 1:
            assert id(parameter) in shared
        elif by:
            assert id(parameter) in own[by[0]]
        else:
            assert id(parameter) not in named
            assert architecture.terms, "a parameter that nothing trains"
    last = [id(p) for p in architecture.last_shared_layer()]
    assert all(all(p in reached[task] for task in TASKS) for p in last)


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_evaluation_draws_nothing_and_follows_from_the_state(name: str, backbone: str) -> None:
    architecture, other = built(name, backbone), built(name, backbone)
    if architecture is None or other is None:
        return
    inputs = inputs_of(TWO_STREAMS, backbone)
    for epoch in (0, EPOCHS - 1):
        architecture.start_step(epoch, 10 * epoch)
        with torch.no_grad():
            for parameter in architecture.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        architecture.eval()
        expected = architecture(inputs, TASKS)
        again = architecture(inputs, TASKS)
        other.load_state_dict(architecture.state_dict())
        loaded = other.eval()(inputs, TASKS)
        for task in TASKS:
            assert torch.equal(expected[task], again[task])
            assert torch.equal(expected[task], loaded[task])
        architecture.train()


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_the_declared_terms_are_given(name: str, backbone: str) -> None:
    architecture = built(name, backbone, ONE_STREAM)
    if architecture is None:
        return
    architecture.start_step(0, 0)
    found = architecture.with_terms(inputs_of(ONE_STREAM, backbone), TASKS)
    assert set(found.terms) | set(found.predictions) <= set(architecture.terms)
    assert not set(found.terms) & set(found.predictions)
    assert all(weight > 0 for weight in architecture.terms.values())
    for value in found.terms.values():
        assert value.ndim == 0
        assert value.isfinite()


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_what_was_learned_can_be_shown(name: str, backbone: str) -> None:
    architecture = built(name, backbone)
    if architecture is None:
        return
    architecture.start_step(0, 0)
    architecture.eval()
    architecture.start_evaluation()
    architecture(inputs_of(TWO_STREAMS, backbone), TASKS)
    tables = architecture.structure()
    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        assert table.values.shape == (len(table.rows), len(table.columns))
        assert table.values.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_any_task_name_will_do(name: str) -> None:
    names = ("a.b", "type", "keys", "", "training", "über/größe")
    backbone = "mlp" if built(name, "mlp") else "cnn"
    architecture = build(name, {"s.1": names}, backbone, small=True)
    architecture.start_step(0, 0)
    assert tuple(architecture(inputs_of({"s.1": names}, backbone), names)) == names


@pytest.mark.parametrize("name", NAMES)
def test_is_captured_as_one_graph(name: str) -> None:
    backbone = "mlp" if built(name, "mlp") else "cnn"
    architecture = build(name, TWO_STREAMS, backbone, small=True)
    architecture.start_step(0, 0)
    inputs = inputs_of(TWO_STREAMS, backbone)
    compiled = torch.compile(architecture, backend="eager", fullgraph=True)
    torch.manual_seed(1)
    expected = architecture(inputs, TASKS)
    torch.manual_seed(1)
    for task, value in compiled(inputs, TASKS).items():
        assert torch.equal(value, expected[task])
    torch.compiler.reset()


def test_every_architecture_has_a_config() -> None:
    assert {"hps", "single_task"} <= set(NAMES)
