"""DSelect-k: smooth steps, selectors, and the terms that make them decide."""

import itertools
import math

import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, build, inputs_of, maker

from mtlrun.models.architectures.dselect_k import DSelectK, Selectors, selections, smooth_step

TASKS = ("a", "b", "c")


def dselect_k(**settings: object) -> DSelectK:
    built = build("dselect_k", **settings)
    assert isinstance(built, DSelectK)
    return built


def test_smooth_step_is_its_closed_form() -> None:
    values = torch.tensor([-9, -1, -0.5, 0, 0.25, 1, 9], dtype=torch.float64, requires_grad=True)
    steps = smooth_step(values, 2.0)  # from -1 to 1
    inside = [0.5 + 1.5 * z / 2 - 2 * z**3 / 8 for z in (-0.5, 0.0, 0.25)]
    assert steps.tolist() == [0, 0, *inside, 1, 1]
    (slope,) = torch.autograd.grad(steps.sum(), values)
    assert slope.tolist() == [0, 0, *(0.75 - 0.75 * z**2 for z in (-0.5, 0.0, 0.25)), 0, 0]


def test_selections_are_products_over_bits() -> None:
    bits = torch.rand(2, 3, dtype=torch.float64)
    found = selections(bits)
    assert found.shape == (2, 8)
    torch.testing.assert_close(found.sum(1), torch.ones(2, dtype=torch.float64))
    for number, code in enumerate(itertools.product((0, 1), repeat=3)):
        factors = [bits[:, i] if one else 1 - bits[:, i] for i, one in enumerate(code)]
        torch.testing.assert_close(found[:, number], math.prod(factors))


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("experts", [3, 4, 5])
def test_saturated_selectors_choose_k_experts(experts: int, per_example: bool) -> None:
    torch.manual_seed(0)
    gate = Selectors(6 if per_example else None, experts, 2, gamma=1.0)
    chosen = torch.tensor([2, experts - 1])
    codes = [[(int(n) >> bit) & 1 for bit in reversed(range(gate.bits))] for n in chosen]
    saturated = torch.tensor(codes).flatten() - 0.5  # exactly gamma / 2 to either side
    start = gate.weight if gate.bias is None else gate.bias
    with torch.no_grad():
        start[: len(saturated)] = saturated * 1.001
        if gate.bias is not None:
            gate.weight[: len(saturated)] = 0
    weights, selected = gate.selected(torch.randn(7, 6))
    assert torch.equal(selected.argmax(-1).expand(7, 2), chosen.expand(7, 2))
    assert torch.equal(selected.count_nonzero(dim=-1).expand(7, 2), torch.ones(7, 2).long())
    logits = start[len(saturated) :] if gate.bias is None else None
    if logits is not None:
        expected = torch.zeros(experts).index_add(0, chosen, logits.softmax(0))
        torch.testing.assert_close(weights, expected)
    assert (weights.count_nonzero(dim=-1) == len(set(chosen.tolist()))).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))


def test_starts_undecided_and_decides_in_training() -> None:
    torch.manual_seed(0)
    gate = Selectors(None, 4, 2, gamma=1.0)
    codes, logits = gate.weight[:4], gate.weight[4:]
    assert 0 < codes.abs().max() <= 0.01
    assert 0 < logits.abs().max() <= 0.05
    wide = Selectors(None, 4, 2, gamma=30.0).weight
    assert 0.06 < wide[:4].abs().max() <= 0.3
    assert wide[4:].abs().max() <= 0.05
    torch.testing.assert_close(gate(codes), torch.full((4,), 0.25), atol=0.01, rtol=0)
    outputs = torch.eye(4)
    target = torch.tensor([0.0, 0.7, 0.3, 0.0])
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        weights, selected = gate.selected(outputs)
        entropy = -(selected * (selected + 1e-6).log()).sum()
        ((weights - target).square().sum() + 0.01 * entropy).backward()
        optimizer.step()
    weights, selected = gate.selected(outputs)
    assert torch.equal(selected.detach().sort(-1).values, torch.tensor([[0.0, 0, 0, 1]] * 2))
    torch.testing.assert_close(weights, target, atol=0.02, rtol=0)


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "lstm"])
def test_one_expert_is_hard_sharing(backbone: str) -> None:
    alone = build("dselect_k", TWO_STREAMS, backbone, experts=1, selectors=1)
    inputs = inputs_of(TWO_STREAMS, backbone)
    expected, found = build("hps", TWO_STREAMS, backbone)(inputs, TASKS), alone(inputs, TASKS)
    assert all(torch.equal(found[task], expected[task]) for task in TASKS)
    assert alone.terms == {}
    assert not alone.task_parameters("a")


@pytest.mark.parametrize("per_example", [False, True])
def test_features_are_mixtures(per_example: bool) -> None:
    architecture = dselect_k(experts=4, per_example=per_example)
    inputs = inputs_of(ONE_STREAM)
    weights = architecture.gates[1](inputs["images"]).expand(3, 4)
    outputs = torch.stack([maker("mlp")(number)(inputs["images"]) for number in range(4)], 1)
    expected = torch.einsum("ne,nec->nc", weights, outputs)
    torch.testing.assert_close(architecture(inputs, TASKS)["b"], expected)


@pytest.mark.parametrize("per_example", [False, True])
def test_terms_are_entropy_and_what_is_out_of_reach(per_example: bool) -> None:
    architecture = dselect_k(experts=3, selectors=2, per_example=per_example)
    assert architecture.terms == {"entropy": 1e-6, "unreachable": 1.0}
    inputs = inputs_of(ONE_STREAM)
    entropy, unreachable = 0.0, 0.0
    for number in (0, 2):
        chosen = architecture.gates[number].selected(inputs["images"])[1].expand(3, 2, 3)
        for row, selector in itertools.product(range(3), range(2)):
            given = chosen[row, selector].tolist()
            entropy -= sum(one * math.log(one + 1e-6) for one in given) / 3
            unreachable += 1 / sum(given) / 3
    found = architecture.with_terms(inputs, ["a", "c"])
    assert found.terms["entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert found.terms["unreachable"].item() == pytest.approx(unreachable, rel=1e-5)
    for task in ("a", "c"):
        assert torch.equal(found.features[task], architecture(inputs, ["a", "c"])[task])
    assert dselect_k(experts=4).terms == {"entropy": 1e-6}
    assert dselect_k(experts=4, entropy=0.0).terms == {}


def test_a_gate_for_all_rows_needs_no_numbers() -> None:
    settings = {"hidden": (5,)}
    make = maker("bag_of_words", **settings)
    architecture = build("dselect_k", backbone="bag_of_words", make=make)
    assert architecture.stem == 0
    assert architecture(inputs_of(ONE_STREAM, "bag_of_words"), TASKS)["a"].shape == (3, 5)
    with pytest.raises(ValueError, match="use a backbone of two stages"):
        build("dselect_k", backbone="bag_of_words", make=make, per_example=True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"selectors": 5}, "selectors=5 of experts=4: .* use selectors=4 or less"),
        ({"selectors": 0}, "selectors=0 must be 1 or more"),
        ({"gamma": 0.0}, "gamma=0.0 must be above 0"),
        ({"entropy": -1.0}, "entropy=-1.0 must be 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dselect_k(**settings)
