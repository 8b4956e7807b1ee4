"""MMoE: mixtures, gates, stems and what is shown of them."""

import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, build, inputs_of, maker
from torch import nn

from mtlrun.models.architectures.mmoe import MMoE
from mtlrun.models.layers import resize
from mtlrun.models.sharing.experts import GateInput
from mtlrun.models.sharing.reading import run_stages

TASKS = ("a", "b", "c")


def mmoe(backbone: str = "mlp", **settings: object) -> MMoE:
    built = build("mmoe", backbone=backbone, **settings)
    assert isinstance(built, MMoE)
    return built


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "lstm", "lenet", "unet"])
@pytest.mark.parametrize("stem", [None, 1])
def test_one_expert_is_hard_sharing(backbone: str, stem: int | None) -> None:
    alone = build("mmoe", TWO_STREAMS, backbone, experts=1, stem=stem)
    shared = build("hps", TWO_STREAMS, backbone)
    inputs = inputs_of(TWO_STREAMS, backbone)
    expected, found = shared(inputs, TASKS), alone(inputs, TASKS)
    assert all(torch.equal(found[task], expected[task]) for task in TASKS)
    assert found["a"] is found["b"]
    assert len(list(alone.parameters())) == len(list(shared.parameters()))
    assert alone.structure() == []
    assert mmoe(experts=1).one_representation
    assert not mmoe().one_representation


def test_features_are_the_gate_s_mixture_of_the_experts() -> None:
    architecture = mmoe(experts=3)
    inputs = inputs_of(ONE_STREAM)
    x, experts = inputs["images"], [maker("mlp")(number) for number in range(3)]
    features = architecture(inputs, TASKS)
    for number, task in enumerate(TASKS):
        linear = architecture.gates[number].linear
        assert linear.weight.shape == (3, 6)
        weights = (x @ linear.weight.T + linear.bias).softmax(1)
        expected = sum(weights[:, e : e + 1] * expert(x) for e, expert in enumerate(experts))
        torch.testing.assert_close(features[task], expected)


@pytest.mark.parametrize("backbone", ["cnn", "lstm"])
def test_positions_are_mixed_alike_behind_a_stem(backbone: str) -> None:
    architecture = mmoe(backbone, experts=2, stem=1)
    for gate in architecture.gates:
        nn.init.zeros_(gate.linear.weight)
        gate.linear.bias.data = torch.tensor([0.0, 3.0]).log1p()  # weights 1/5 and 4/5
    inputs = inputs_of(ONE_STREAM, backbone)
    first, second = (maker(backbone)(number) for number in range(2))
    stem = first.step(0, inputs["images"], {})
    behind = range(1, len(first.stages))
    outputs = [run_stages(copy, behind, stem, {})[-1] for copy in (first, second)]
    features = architecture(inputs, ["b"])["b"]
    torch.testing.assert_close(features, 0.2 * outputs[0] + 0.8 * outputs[1])
    own = sum(parameter.numel() for parameter in first.parameters())
    stem_alone = sum(parameter.numel() for parameter in first.stages[0].parameters())
    assert sum(p.numel() for p in architecture.shared_parameters()) == 2 * own - stem_alone


def test_what_a_gate_reads() -> None:
    cnn, lstm = maker("cnn")(0), maker("lstm")(0)
    image = torch.arange(3 * 24 * 40.0).reshape(1, 3, 24, 40)
    grid = GateInput(0, cnn, (3, 24, 40))
    assert grid.size == 3 * 8 * 8
    assert torch.equal(grid(image)[0, 0], image[0, 0, :3, :5].mean())
    small = GateInput(0, cnn, (1, 6, 4))
    assert torch.equal(small(image[:, :1, :6, :4]), image[:, :1, :6, :4].flatten(1))
    assert GateInput(0, cnn, (5, 7)).size == 35
    behind = GateInput(1, lstm, (7,))
    tokens = torch.tensor([[[1.0, 3.0], [3.0, 1.0], [0.0, 0.0]]])
    assert (behind.size, behind(tokens).tolist()) == (6, [[2.0, 2.0]])


def test_heads_may_read_stem_and_experts() -> None:
    architecture = mmoe(
        "cnn", experts=2, stem=1, reads={"a": (1, 2), "b": (1,)}, streams=ONE_STREAM
    )
    inputs = inputs_of(ONE_STREAM, "cnn")
    features = architecture(inputs, TASKS)
    assert [architecture.out_channels(task) for task in TASKS] == [8, 4, 4]
    stem = maker("cnn")(0).step(0, inputs["images"], {})
    assert torch.equal(features["b"], stem)
    assert torch.equal(features["a"][:, :4], stem)
    for gate in architecture.gates[1:]:
        gate.load_state_dict(architecture.gates[0].state_dict())
    last = resize(architecture(inputs, ["c"])["c"], (stem.shape[2], stem.shape[3]))
    torch.testing.assert_close(features["a"][:, 4:], last)


def test_shows_the_mean_weights_of_an_evaluation() -> None:
    architecture = mmoe(experts=3)
    architecture.train()
    architecture(inputs_of(ONE_STREAM), TASKS)
    architecture.eval().start_evaluation()
    first, second = inputs_of(ONE_STREAM, rows=5), inputs_of(ONE_STREAM, rows=2)
    architecture(first, TASKS)
    architecture(second, ["a"])
    (table,) = architecture.structure()
    assert (table.rows, table.columns) == (TASKS, ("expert1", "expert2", "expert3"))
    gates = architecture.gates
    everything = torch.cat([first["images"], second["images"]])
    torch.testing.assert_close(table.values[0], gates[0](everything).mean(0))
    torch.testing.assert_close(table.values[2], gates[2](first["images"]).mean(0))
    assert not any("usage" in name for name in architecture.state_dict())
    architecture.start_evaluation()
    assert architecture.structure()[0].values.count_nonzero() == 0


@pytest.mark.parametrize(
    ("backbone", "settings", "says"),
    [
        ("mlp", {"experts": 0}, "experts=0 must be 1 or more"),
        ("mlp", {"stem": 2}, r"stem=2 .* has 2: use stem=0 to 1"),
        ("mlp", {"stem": -1}, "use stem=0 to 1"),
        ("lstm", {"stem": 0}, r"stem=0: .*\(tokens\) are codes.* use stem=1 or more"),
        ("bag_of_words", {}, r"use a backbone of two stages .*hidden=\[200,100\]"),
    ],
)
def test_what_cannot_be_is_refused(backbone: str, settings: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        mmoe(backbone, **settings)
