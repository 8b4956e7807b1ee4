"""AdaShare: phases, skipped blocks and terms."""

import math
from typing import Any

import architecture_cases
import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, inputs_of, maker
from skippable import build, set_policies, with_policy
from torch import nn

from mtlrun.models.backbones.base import Backbone

TASKS = ("a", "b", "c")
WARM, ODD, EVEN, FIXED = (0, 3), (1, 21), (1, 24), (5, 60)
"""(epoch, step) in each phase of a run of 10 epochs; of three tasks' steps, the first three of six
train weights (EVEN), the others policies (ODD)."""


@pytest.mark.parametrize("backbone", ["mlp", "lstm", "resnet18", "transformer"])
def test_keeping_all_blocks_is_hard_sharing(backbone: str) -> None:
    inputs = inputs_of(TWO_STREAMS, backbone)
    hps = architecture_cases.build("hps", TWO_STREAMS, backbone)
    architecture = build(TWO_STREAMS, backbone)
    for module in [*hps.modules(), *architecture.modules()]:
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    architecture.start_step(*WARM)
    expected = hps(inputs, TASKS)
    found = architecture(inputs, TASKS)
    assert all(torch.equal(found[task], expected[task]) for task in TASKS)
    assert found["a"] is found["b"]
    for name, value in hps.backbone.state_dict().items():  # one pass of batch normalisation
        assert torch.equal(architecture.backbone.state_dict()[name], value)
    set_policies(architecture, [[1] * len(architecture.trunk.names)] * 3)
    for where in (ODD, FIXED):
        architecture.start_step(*where)
        found, expected = architecture.eval()(inputs, TASKS), hps.eval()(inputs, TASKS)
        assert all(torch.equal(found[task], expected[task]) for task in TASKS)


def test_phases_are_a_function_of_epoch_and_step() -> None:
    architecture = build(decay_steps=2, curriculum_epochs=4)
    seen = []
    for epoch in range(10):
        for step in range(10 * epoch, 10 * epoch + 10):
            architecture.start_step(epoch, step)
            only = architecture.only()
            odd = epoch in (1, 2, 3, 4) and step % 6 >= 3
            assert (only is not None) == odd
            assert only is None or list(only) == list(architecture.logits)
        seen.append((int(architecture.phase), int(architecture.learned.sum())))
    # Three blocks in four epochs: 3/4, 6/4, 9/4 and 3, each rounded up
    learned = [1, 2, 3, 3]
    assert seen == [(0, 3), *((1, count) for count in learned), *[(2, 3)] * 5]
    architecture = build(decay_steps=2)
    architecture.start_step(1, 10)
    architecture.start_step(2, 22)  # 12 steps on, 6 of them the policy's
    assert float(architecture.temperature) == pytest.approx(5 * 0.965**3)


def test_the_curriculum_begins_with_the_last_blocks() -> None:
    architecture = build(curriculum_epochs=3)
    set_policies(architecture, [[0, 0, 0]] * 3)
    inputs = inputs_of(ONE_STREAM)
    for epoch, keep in ((1, [1, 1, 0]), (2, [1, 0, 0]), (3, [0, 0, 0])):
        architecture.start_step(epoch, 2 * epoch)
        found = architecture(inputs, ["a"])["a"]
        torch.testing.assert_close(found, with_policy(architecture, inputs["images"], keep))


def test_what_is_undecided_is_kept_in_evaluation() -> None:
    architecture = build()
    inputs = inputs_of(ONE_STREAM)
    for where in (ODD, FIXED):
        architecture.start_step(*where)
        found = architecture.eval()(inputs, ["a"])["a"]
        torch.testing.assert_close(found, with_policy(architecture, inputs["images"], [1, 1, 1]))


@pytest.mark.parametrize("where", [EVEN, FIXED])
def test_each_task_runs_through_its_blocks(where: tuple[int, int]) -> None:
    architecture = build(curriculum=False)
    keep = {"a": [1, 0, 1], "b": [0, 1, 0], "c": [1, 0, 0]}
    set_policies(architecture, list(keep.values()))
    architecture.start_step(*where)
    inputs = inputs_of(ONE_STREAM)
    for training in (True, False):
        architecture.train(training)
        found = architecture(inputs, TASKS)
        for task in TASKS:
            expected = with_policy(architecture, inputs["images"], keep[task])
            torch.testing.assert_close(found[task], expected)


def test_fixed_policies_compute_no_skipped_block_and_shared_ways_once() -> None:
    architecture = build()
    set_policies(architecture, [[1, 0, 1], [1, 0, 0], [1, 0, 1]])
    architecture.start_step(*FIXED)
    one, two = architecture.backbone.stages[1]  # type: ignore[misc]
    before = two.norm.running_mean.clone()
    found = architecture(inputs_of(ONE_STREAM), TASKS)
    assert (one.passes, two.passes) == (1, 0)
    assert torch.equal(two.norm.running_mean, before)
    assert found["a"] is found["c"]
    assert found["a"] is not found["b"]
    two(torch.randn(3, 4))  # as ever, outside
    assert two.passes == 1
    set_policies(architecture, [[0, 1, 0]] * 3)  # too late
    again = architecture.eval()(inputs_of(ONE_STREAM), TASKS)
    assert again["a"] is again["c"]
    assert architecture.structure()[0].values.tolist() == [[1, 0, 1], [1, 0, 0], [1, 0, 1]]


def test_weights_and_policies_are_trained_in_turn() -> None:
    architecture = build(curriculum=False)
    inputs = inputs_of(ONE_STREAM)
    for where, policies in ((WARM, False), (ODD, True), (EVEN, False), (FIXED, False)):
        architecture.start_step(*where)
        architecture.zero_grad()
        torch.manual_seed(0)
        made = architecture.with_terms(inputs, TASKS)
        assert set(made.terms) == ({"sparsity", "sharing"} if policies else set())
        made.features["b"].square().sum().backward()
        given = [logits.grad is not None for logits in architecture.logits]
        assert given == [False, policies, False]
        if policies:
            gradient = architecture.logits[1].grad
            assert gradient is not None
            assert (gradient.abs().sum(1) > 0).all()
            torch.testing.assert_close(gradient.sum(1), torch.zeros(3))


def test_draws_follow_the_global_generator_and_the_probabilities() -> None:
    architecture = build(curriculum=False)
    with torch.no_grad():
        architecture.logits[1][:, 0] = torch.tensor([1.0, 0.0, -2.0])
    architecture.start_step(*ODD)
    torch.manual_seed(0)
    drawn = [architecture._gates(TASKS)["b"] for _ in range(1000)]
    kept = torch.stack([torch.stack(list(policy)).detach() for policy in drawn])
    assert set(kept.flatten().tolist()) == {0.0, 1.0}
    chances = torch.tensor([1.0, 0.0, -2.0]).sigmoid()
    deviation = (chances * (1 - chances) / 1000).sqrt()
    assert ((kept.mean(0) - chances).abs() < 3 * deviation).all()
    torch.manual_seed(0)
    alone = architecture._gates(["b"])["b"]  # whichever other tasks are in the step
    assert torch.equal(torch.stack(list(alone)), kept[0])


def test_terms_have_their_closed_forms() -> None:
    architecture = build(curriculum=False)
    logits = torch.tensor([[1.0, -1.0, 0.0], [0.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    with torch.no_grad():
        for mine, value in zip(architecture.logits, logits, strict=True):
            mine[:, 0] = value
    keep = [[1 / (1 + math.exp(-float(z))) for z in row] for row in logits]
    pairs = [(0, 1), (0, 2), (1, 2)]
    inputs = inputs_of(ONE_STREAM)
    architecture.start_step(*ODD)
    terms = {
        name: value.detach() for name, value in architecture.with_terms(inputs, TASKS).terms.items()
    }
    assert float(terms["sparsity"]) == pytest.approx(sum(math.log(a) for r in keep for a in r))
    assert float(terms["sharing"]) == pytest.approx(
        sum((3 - n - 1) / 3 * abs(keep[i][n] - keep[j][n]) for i, j in pairs for n in range(3)),
        rel=1e-5,
    )
    architecture._formulas = "code"
    terms = {
        name: value.detach() for name, value in architecture.with_terms(inputs, TASKS).terms.items()
    }
    assert float(terms["sparsity"]) == pytest.approx(
        sum(-math.log(1 - a) for r in keep for a in r) / 3
    )
    assert float(terms["sharing"]) == pytest.approx(
        sum(
            (n + 1) / 3 * abs(float(logits[i][n] - logits[j][n]))
            for i, j in pairs
            for n in range(3)
        )
    )
    assert float(architecture._sparsity([False, True, False]).detach()) == pytest.approx(
        sum(-math.log(1 - a) for a in keep[1]) / 3
    )
    first = sum((n + 1) / 3 * abs(float(logits[0][n] - logits[1][n])) for n in range(3))
    second = sum((n + 1) / 3 * abs(float(logits[1][n])) for n in range(3))
    assert float(architecture._sharing([False, True, False]).detach()) == pytest.approx(
        first + second
    )


def test_sparsity_leaves_out_what_the_curriculum_has_not_come_to() -> None:
    for formulas, expected in (("paper", 3 * math.log(0.5)), ("code", -3 * math.log(0.5))):
        architecture = build(curriculum_epochs=3, formulas=formulas)
        architecture.start_step(*ODD)
        value = architecture.with_terms(inputs_of(ONE_STREAM), TASKS).terms["sparsity"]
        value.backward()
        assert value.item() == pytest.approx(expected)
        for logits in architecture.logits:
            assert logits.grad is not None
            assert (logits.grad != 0).any(1).tolist() == [False, False, True]


def test_terms_without_weight_are_left_out() -> None:
    alone = build({"images": ("a",)})
    alone.start_step(*ODD)
    assert set(alone.with_terms(inputs_of({"images": ("a",)}), ["a"]).terms) == {"sparsity"}
    assert build(sparsity=0.0).terms == {"sharing": 0.05}
    assert build({"images": ("a",)}).terms == {"sparsity": 0.001}


@pytest.mark.parametrize("where", [WARM, ODD, FIXED])
def test_a_checkpoint_evaluates_and_goes_on_as_the_network_did(where: tuple[int, int]) -> None:
    architecture, fresh = build(decay_steps=2), build(decay_steps=2)
    set_policies(architecture, [[1, 0, 1], [0, 1, 0], [1, 1, 1]])
    inputs = inputs_of(ONE_STREAM)
    for epoch in range(where[0] + 1):
        architecture.start_step(epoch, 10 * epoch)
    architecture.start_step(*where)
    architecture(inputs, TASKS)
    fresh.load_state_dict(architecture.state_dict())
    expected, found = architecture.eval()(inputs, TASKS), fresh.eval()(inputs, TASKS)
    assert all(torch.equal(found[task], expected[task]) for task in TASKS)
    differ = not torch.equal(expected["a"], expected["b"])
    assert differ == (where != WARM)
    for later in (where[1] + 8, where[1] + 9):
        for network in (architecture, fresh):
            network.start_step(where[0], later)
        assert where != ODD or torch.equal(architecture.temperature, fresh.temperature)
        assert (architecture.only() is None) == (fresh.only() is None)


def test_finding_what_can_be_skipped_leaves_no_trace() -> None:
    make = maker("lstm", dropout=0.5)
    untouched = make(0)
    made = []

    def noted(copy: int) -> Backbone:
        made.append(make(copy))
        torch.manual_seed(7)
        return made[-1]

    architecture = build(backbone="lstm", make=noted)
    assert torch.equal(torch.rand(3), torch.manual_seed(7) and torch.rand(3))
    assert architecture.trunk.names == ("2", "3")
    assert all(module.training for module in made[0].modules())
    for name, value in untouched.state_dict().items():
        assert torch.equal(made[0].state_dict()[name], value)
    assert build().trunk.names == ("2.1", "2.2", "3")


def test_a_backbone_without_anything_to_skip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"LeNet has neither\. Use backbone=resnet18"):
        build(backbone="lenet")
    with pytest.raises(ValueError, match="MLP has neither"):
        build(backbone="mlp", make=maker("mlp", hidden=(5, 4)))


def test_relaxed_policies_keep_padding() -> None:
    architecture = build(backbone="lstm", hard=False, curriculum=False)
    architecture.start_step(*ODD)
    inputs = inputs_of(ONE_STREAM, "lstm", rows=6)
    found = architecture(inputs, TASKS)["a"]
    assert torch.equal((found == 0).all(2), inputs["images"] == 0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"warmup_epochs": 5, "policy_epochs": 6}, "must fit into the run's epochs=10"),
        ({"curriculum_epochs": 5}, "at most policy_epochs=4"),
        ({"curriculum": False, "curriculum_epochs": 2}, "has no effect"),
        ({"decay": 0.0}, "decay=0.0 must be"),
        ({"sharing": -1.0}, "must be at least 0"),
        ({"formulas": "codes"}, "none of paper, code"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build(**settings)


def test_policies_are_captured_as_one_graph() -> None:
    architecture = build()
    set_policies(architecture, [[1, 0, 1], [1, 0, 0], [0, 1, 1]])
    inputs = inputs_of(ONE_STREAM)
    for where in (ODD, FIXED):
        architecture.start_step(*where)
        compiled = torch.compile(architecture.with_terms, backend="eager", fullgraph=True)
        found, expected = compiled(inputs, TASKS), architecture.with_terms(inputs, TASKS)
        for task in TASKS:
            torch.testing.assert_close(found.features[task], expected.features[task])
        assert found.terms == expected.terms
    torch.compiler.reset()


def test_the_temperature_ends_above_zero() -> None:
    architecture = build(decay_steps=1)
    architecture.start_step(1, 1)
    architecture.start_step(2, 1_000_001)
    assert float(architecture.temperature) == pytest.approx(0.01)
    assert all(v.isfinite().all() for v in architecture(inputs_of(ONE_STREAM), TASKS).values())
