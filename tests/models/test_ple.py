"""PLE and CGC: who mixes which experts, and who reaches which parameters."""

import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, build, inputs_of, maker, reached_by
from torch import Tensor

from mtlrun.models.architectures.ple import PLE, cut
from mtlrun.models.sharing.experts import SoftmaxGate

TASKS = ("a", "b", "c")
DEEP = maker("mlp", hidden=(5, 5, 5))


def ple(**settings: object) -> PLE:
    built = build("ple", **settings)
    assert isinstance(built, PLE)
    return built


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        p.data.copy_(q.data)


def test_without_private_experts_one_level_is_mmoe() -> None:
    settings = {"shared_experts": 3, "task_experts": 0}
    for backbone in ("mlp", "cnn", "lstm"):
        inputs = inputs_of(TWO_STREAMS, backbone)
        expected = build("mmoe", TWO_STREAMS, backbone, experts=3)
        for alike in (
            build("cgc", TWO_STREAMS, backbone, **settings),
            build("ple", TWO_STREAMS, backbone, **settings, levels=1),
        ):
            same_weights(alike, expected)
            features = alike(inputs, TASKS)
            for task, value in expected(inputs, TASKS).items():
                assert torch.equal(features[task], value)


@pytest.mark.parametrize("backbone", ["mlp", "lstm", "unet"])
def test_one_expert_in_all_is_hard_sharing(backbone: str) -> None:
    alone = build("ple", ONE_STREAM, backbone, shared_experts=1, task_experts=0)
    inputs = inputs_of(ONE_STREAM, backbone)
    features = alone(inputs, TASKS)
    assert torch.equal(features["a"], build("hps", backbone=backbone)(inputs, TASKS)["a"])
    assert features["a"] is features["c"]
    assert alone.one_representation
    assert not ple(task_experts=0).one_representation


def test_two_levels_by_hand() -> None:
    architecture = ple(shared_experts=1, task_experts=1, streams={"images": ("a", "b")})
    x = torch.randn(4, 6)
    shared, own_a, own_b = (maker("mlp")(number) for number in range(3))

    def gated(gate: SoftmaxGate, read: Tensor, *outputs: Tensor) -> Tensor:
        weights = (read @ gate.linear.weight.T + gate.linear.bias).softmax(1)
        return sum(weights[:, [e]] * output for e, output in enumerate(outputs))

    first, second = architecture.levels
    s, a, b = (copy.stages[0](x) for copy in (shared, own_a, own_b))
    path_a, path_b = gated(first.gates[0], x, s, a), gated(first.gates[1], x, s, b)
    path_s = gated(first.shared_gate, x, s, a, b)
    s, a, b = shared.stages[1](path_s), own_a.stages[1](path_a), own_b.stages[1](path_b)
    features = architecture({"images": x}, ["a", "b"])
    torch.testing.assert_close(features["a"], gated(second.gates[0], path_a, s, a))
    torch.testing.assert_close(features["b"], gated(second.gates[1], path_b, s, b))
    assert second.shared_gate is None


@pytest.mark.parametrize("streams", [ONE_STREAM, TWO_STREAMS])
@pytest.mark.parametrize("task_experts", [0, 1, 2])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_parameters_are_named_by_who_reaches_them(
    streams: dict[str, tuple[str, ...]], task_experts: int, levels: int
) -> None:
    architecture = ple(streams=streams, make=DEEP, levels=levels, task_experts=task_experts)
    reached = reached_by(architecture, inputs_of(streams), TASKS)
    shared = {id(p) for p in architecture.shared_parameters()}
    own = {task: {id(p) for p in architecture.task_parameters(task)} for task in TASKS}
    for parameter in architecture.parameters():
        by = {task for task in TASKS if id(parameter) in reached[task]}
        assert by == {task for task in TASKS if id(parameter) in shared | own[task]}
    assert not shared & set.union(*own.values())


def test_a_task_s_features_do_not_depend_on_which_tasks_are_wanted() -> None:
    architecture = ple(streams=TWO_STREAMS, make=DEEP, levels=3)
    inputs = inputs_of(TWO_STREAMS)
    together = architecture(inputs, TASKS)
    for task in TASKS:
        stream = architecture.stream_of[task]
        alone = architecture({stream: inputs[stream]}, [task])[task]
        assert torch.equal(alone, together[task])


def test_the_last_level_runs_the_experts_that_are_wanted() -> None:
    architecture = ple()
    calls: list[tuple[int, int]] = []
    for number, copy in enumerate(architecture.experts):
        for stage in (0, 1):
            copy.stages[stage].register_forward_hook(
                lambda *_, key=(number, stage): calls.append(key)
            )
    architecture(inputs_of(ONE_STREAM), ["b"])
    assert calls == [(e, 0) for e in range(5)] + [(0, 1), (1, 1), (3, 1)]


def test_heads_may_read_any_level() -> None:
    architecture = build("ple", ONE_STREAM, "cnn", reads={"a": (1,), "b": (1, 2)})
    cgc = build("cgc", ONE_STREAM, "cnn", reads={"a": (1,)})
    inputs = inputs_of(ONE_STREAM, "cnn")
    features = architecture(inputs, TASKS)
    assert [features[task].shape[1] for task in TASKS] == [4, 8, 4]
    copies = [maker("cnn")(number) for number in (0, 1, 2)]
    stages = torch.stack([copy.step(0, inputs["images"], {}) for copy in copies], 1)
    for built, gate in ((architecture, architecture.levels[0]), (cgc, cgc.levels[0])):
        weights = gate.gates[0](inputs["images"].flatten(1))  # 8x8 pixels: the grid itself
        expected = torch.einsum("ne,nechw->nchw", weights, stages)
        torch.testing.assert_close(built(inputs, ["a"])["a"], expected)


def test_shows_a_table_for_each_level() -> None:
    architecture = ple(streams=TWO_STREAMS, shared_experts=2, task_experts=1)
    inputs = inputs_of(TWO_STREAMS, rows=5)
    architecture.eval().start_evaluation()
    architecture(inputs, TASKS)
    first, second = architecture.structure()
    assert (first.name, second.name) == ("gates/level1", "gates/level2")
    assert first.columns == ("shared1", "shared2", "a1", "b1", "c1")
    assert (first.rows, second.rows) == ((*TASKS, "shared"), TASKS)
    torch.testing.assert_close(first.values.sum(1), torch.ones(4))
    assert first.values[0, 3:].tolist() == [0, 0]
    assert (first.values[0, :3] > 0).all()
    gate = architecture.levels[0]
    weights = gate.gates[2](inputs["more"]).mean(0)  # the rows of its stream alone
    torch.testing.assert_close(first.values[2, [0, 1, 4]], weights)
    everything = torch.cat(list(inputs.values()))
    torch.testing.assert_close(first.values[3], gate.shared_gate(everything).mean(0))


def test_how_stages_are_cut() -> None:
    assert cut(None, 0, 5) == [range(0, 3), range(3, 5)]
    assert cut(None, 1, 2) == [range(1, 2)]
    assert cut(3, 1, 5) == [range(1, 3), range(3, 4), range(4, 5)]
    assert cut([1, 3], 1, 5) == [range(1, 2), range(2, 5)]
    with pytest.raises(ValueError, match=r"levels=3: .* has 2 behind the stem: use levels=1 to 2"):
        ple(levels=3)
    with pytest.raises(ValueError, match=r"levels=\[1, 0\] must be .* 2 in all"):
        ple(levels=[1, 0])
    with pytest.raises(ValueError, match=r"shared_experts=0 must be 1 or more"):
        ple(shared_experts=0)
