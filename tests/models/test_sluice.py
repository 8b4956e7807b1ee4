"""Sluice networks: subspaces, sums over stages and the penalty between subspaces."""

import pytest
import torch
from architecture_cases import ONE_STREAM, SMALL, TWO_STREAMS, build, inputs_of, reached_by
from torch import Tensor, nn

from mtlrun.models.architectures.sluice import LayerSum, Subspaces, _matrices, _overlap
from mtlrun.models.backbones.lstm import RecurrentLayer
from mtlrun.models.sharing.units import Place, Sources

TWO = {"images": ("a", "b")}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def unit(channels: int, rows: list[list[list[float]]]) -> Subspaces:
    """A unit for vectors of two tasks with known numbers: for each task its two rows."""
    made = Subspaces(Place(0, "vector", channels, 2, (0, 1), together=False), 2, "balanced")
    with torch.no_grad():
        for row, numbers in zip(made.alpha, rows, strict=True):
            row.copy_(torch.tensor(numbers))
    return made


def test_mixes_known_subspaces() -> None:
    a, b = torch.tensor([[1.0, 10.0, 2.0, 20.0]]), torch.tensor([[3.0, 30.0, 4.0, 40.0]])
    # Of each: (even, odd). A's even half: even of a + 2 odd of b; its odd half: odd of a
    # B's even half: - odd of b; its odd half: even of a + even of b
    rows = [[[1, 0, 0, 2], [0, 1, 0, 0]], [[0, 0, 0, -1], [1, 0, 1, 0]]]
    mixed = unit(4, rows)([a, b], [0, 1])
    assert torch.equal(mixed[0], torch.tensor([[61.0, 10.0, 82.0, 20.0]]))
    assert torch.equal(mixed[1], torch.tensor([[-30.0, 4.0, -40.0, 6.0]]))
    (alone,) = unit(4, rows)([a, b], [1])
    assert torch.equal(alone, mixed[1])


def test_the_last_of_an_odd_number_of_channels_has_no_partner() -> None:
    a, b = torch.tensor([[1.0, 10.0, 2.0]]), torch.tensor([[3.0, 30.0, 4.0]])
    mixed = unit(3, [[[1, 1, 0, 0], [0, 0, 1, 0]], [[0, 1, 0, 0], [0, 0, 0, 1]]])([a, b], [0, 1])
    assert torch.equal(mixed[0], torch.tensor([[11.0, 3.0, 2.0]]))
    assert torch.equal(mixed[1], torch.tensor([[10.0, 30.0, 0.0]]))


def test_gradient_of_alpha_by_hand() -> None:
    a, b = torch.tensor([[1.0, 10.0, 2.0, 20.0]]), torch.tensor([[3.0, 30.0, 4.0, 40.0]])
    made = unit(4, [[[1, 0, 0, 0], [0, 1, 0, 0]], [[0, 0, 1, 0], [0, 0, 0, 1]]])
    loss = (made([a, b], [0, 1])[0] * torch.tensor([1.0, 2.0, 5.0, 7.0])).sum()
    own, other = torch.autograd.grad(loss, list(made.alpha), allow_unused=True)
    # Even rows meet (1, 5), odd ones (2, 7), with each half of a and of b
    expected = [[11.0, 110.0, 23.0, 230.0], [16.0, 160.0, 34.0, 340.0]]
    assert torch.equal(own, torch.tensor(expected))
    assert other is None


@pytest.mark.parametrize("backbone", SMALL)
def test_with_one_subspace_and_no_beta_it_is_cross_stitch(backbone: str) -> None:
    stitched = build("cross_stitch", TWO_STREAMS, backbone)
    sluice = build("sluice", TWO_STREAMS, backbone, subspaces=1, beta="none")
    with torch.no_grad():
        for p, q in zip(stitched.parameters(), sluice.parameters(), strict=True):
            assert torch.allclose(p.flatten(), q.flatten())  # begin alike
            p.add_(0.2 * torch.randn_like(p))
            q.copy_(p.view_as(q))
    inputs = inputs_of(TWO_STREAMS, backbone)
    expected, found = (each(inputs, ["a", "b", "c"]) for each in (stitched, sluice))
    for task in expected:
        assert torch.equal(found[task], expected[task])
    for table, same in zip(sluice.structure(), stitched.structure(), strict=True):
        assert torch.equal(table.values, same.values)


@pytest.mark.parametrize("backbone", SMALL)
def test_with_the_identity_it_is_single_task(backbone: str) -> None:
    alone = build("single_task", TWO_STREAMS, backbone)
    sluice = build("sluice", TWO_STREAMS, backbone)
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for each in sluice.units:
            for column, rows in enumerate(each.alpha):
                rows.copy_(torch.eye(6)[2 * column : 2 * column + 2])
        for reader in sluice.readers:
            reader.beta.copy_(torch.eye(len(reader.beta))[-1])
    _, unexpected = sluice.load_state_dict(alone.state_dict(), strict=False)
    assert not unexpected
    inputs = inputs_of(TWO_STREAMS, backbone)
    expected, found = (each(inputs, ["a", "b", "c"]) for each in (alone, sluice))
    for task in expected:
        assert torch.equal(found[task], expected[task])


def test_sums_stages_of_one_shape_as_they_are() -> None:
    layers = LayerSum(Sources((0, 1), ("vector", "vector"), (2, 2)), "imbalanced")
    assert torch.allclose(layers.beta, torch.tensor([0.1, 0.9]))
    found = layers([torch.tensor([[10.0, 20.0]]), torch.tensor([[1.0, 2.0]])])
    assert torch.allclose(found, torch.tensor([[1.9, 3.8]]))
    assert count(layers) == 2


def test_brings_stages_of_other_shapes_to_the_last() -> None:
    sources = Sources((0, 2), ("map", "vector"), (3, 2))
    layers = LayerSum(sources, "balanced")
    maps, vector = torch.randn(4, 3, 5, 5), torch.randn(4, 2)
    found = layers(sources.aligned([maps, maps, vector]))
    expected = 0.5 * (maps.mean((2, 3)) @ layers.widths[0].linear.weight.T + vector)
    assert torch.allclose(found, expected, atol=1e-6)
    sources = Sources((0, 1), ("map", "map"), (2, 2))
    coarse, fine = sources.aligned([torch.ones(1, 2, 8, 8), torch.ones(1, 2, 4, 4)])
    assert coarse.shape == fine.shape


@pytest.mark.parametrize("backbone", ["mlp", "lenet"])
def test_beta_is_the_tasks_own(backbone: str) -> None:
    architecture = build("sluice", ONE_STREAM, backbone)
    inputs = inputs_of(ONE_STREAM, backbone)
    reached = reached_by(architecture, inputs, ["a", "b", "c"])
    for task, reader in zip("abc", architecture.readers, strict=True):
        own = {id(p) for p in architecture.task_parameters(task)}
        assert {id(p) for p in reader.parameters()} <= own
        others = set[int]().union(*(reached[other] for other in reached if other != task))
        assert own == reached[task] - others


def test_overlap_of_known_weights() -> None:
    # Even units (1, 0) and (0, 2), odd ones (3, 0) and (1, 1): products 3, 1, 0, 2
    weights = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    assert _overlap(weights) == 9 + 1 + 0 + 4
    assert _overlap(torch.eye(4)) == 0


def test_the_penalty_adds_up_over_tasks_and_stages() -> None:
    architecture = build("sluice", ONE_STREAM, orthogonality=0.5)
    assert architecture.terms == {"orthogonality": 0.5}
    expected = 0.0
    for backbone in architecture.backbones:
        for stage in backbone.stages:
            weight: Tensor = stage[0].weight.detach()
            for even in weight[0::2]:
                expected += sum(float(even @ odd) ** 2 for odd in weight[1::2])
    found = architecture.with_terms(inputs_of(ONE_STREAM), ["a"]).terms["orthogonality"]
    assert torch.allclose(found, torch.tensor(expected))
    assert build("sluice", ONE_STREAM).terms == {}


def test_the_gates_of_a_recurrent_layer_are_compared_by_themselves() -> None:
    matrices = _matrices(RecurrentLayer(5, 3, True, 0.0), 6)
    shapes = sorted(tuple(matrix.shape) for matrix in matrices)
    assert shapes == 8 * [(3, 3)] + 8 * [(3, 5)]  # 4 gates x 2 directions, from states and inputs


def test_layers_side_by_side_are_compared_by_themselves() -> None:
    wide, narrow = nn.Linear(3, 6), nn.Conv2d(2, 4, 3)
    (weights,) = _matrices(nn.Sequential(wide, narrow), 4)
    assert weights.shape == (4, 18)
    assert [len(weights) for weights in _matrices(nn.Sequential(wide, narrow), 10)] == [6, 4]


def test_parameters_beside_those_of_single_task() -> None:
    alone = count(build("single_task", ONE_STREAM))
    assert count(build("sluice", ONE_STREAM)) - alone == 2 * 6 * 6 + 3 * 2
    assert count(build("sluice", ONE_STREAM, subspaces=1, beta="none")) - alone == 2 * 3 * 3
    # One task still has two subspaces to mix
    assert count(build("sluice", {"images": ("a",)})) - alone // 3 == 2 * 2 * 2 + 2


def test_what_was_learned_is_named_by_task_and_subspace() -> None:
    first, _, beta = build("sluice", TWO).structure()
    assert (first.name, first.rows) == ("sluice/stage_1", ("a 1", "a 2", "b 1", "b 2"))
    expected = torch.full((4, 4), 0.1 / 3).fill_diagonal_(0.9)
    assert torch.allclose(first.values, expected)
    assert (beta.name, beta.rows, beta.columns) == (
        "sluice/beta",
        ("a", "b"),
        ("stage_1", "stage_2"),
    )
    assert torch.allclose(beta.values, torch.tensor([[0.1, 0.9], [0.1, 0.9]]))
    balanced, *_ = build("sluice", TWO, alpha="balanced").structure()
    assert torch.equal(balanced.values, torch.full((4, 4), 0.25))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"subspaces": 3}, "use 1 or 2"),
        ({"subspaces": 1, "orthogonality": 0.1}, "use subspaces=2"),
        ({"orthogonality": -1.0}, "0 or more"),
        ({"alpha": "random"}, "balanced"),
    ],
)
def test_refuses_wrong_settings(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build("sluice", ONE_STREAM, **settings)
