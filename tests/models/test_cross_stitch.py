"""Cross-stitch networks: what the units mix, whom they reach, and when they are not there."""

import pytest
import torch
from architecture_cases import ONE_STREAM, SMALL, TWO_STREAMS, build, inputs_of, maker, reached_by
from torch import Tensor, nn

from mtlrun.models.architectures.cross_stitch import CrossStitch
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.sharing.columns import Columns

TWO = {"images": ("a", "b")}


class Scale(nn.Module):
    """Features times a number, for each channel."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.tensor(factors))

    def forward(self, features: Tensor) -> Tensor:
        return features * self.factors


def make_scales(copy: int) -> Backbone:
    """Two stages of two channels that scale by known numbers."""
    del copy
    return Backbone([Scale([2.0, 3.0]), Scale([1.0, 5.0])], (2, 2), ("vector", "vector"))


def scales(**settings: object) -> CrossStitch:
    made = build("cross_stitch", TWO, make=make_scales, **settings)
    assert isinstance(made, CrossStitch)
    return made


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def set_alpha(architecture: CrossStitch, values: list[list[list[float]]]) -> None:
    """Fill the matrices of all units."""
    with torch.no_grad():
        for unit, matrix in zip(architecture.units, values, strict=True):
            for row, numbers in zip(unit.alpha, matrix, strict=True):
                row.copy_(torch.tensor(numbers))


def test_mixes_known_numbers() -> None:
    architecture = scales()
    with torch.no_grad():
        architecture.backbones[1].stages[0].factors.copy_(torch.tensor([4.0, 7.0]))
    set_alpha(architecture, [[[0.5, 0.25], [2.0, -1.0]], [[1.0, 1.0], [0.0, 3.0]]])
    features = architecture({"images": torch.tensor([[1.0, 10.0]])}, ["a", "b"])
    # Stage 1 gives (2, 30) and (4, 70); the unit (2, 32.5) and (0, -10); stage 2 x (1, 5)
    assert torch.equal(features["a"], torch.tensor([[2.0, 112.5]]))
    assert torch.equal(features["b"], torch.tensor([[0.0, -150.0]]))


def test_gradient_of_alpha_by_hand() -> None:
    architecture = scales(after=[1])
    set_alpha(architecture, [[[0.5, 0.25], [2.0, -1.0]]])
    with torch.no_grad():
        architecture.backbones[1].stages[0].factors.copy_(torch.tensor([4.0, 7.0]))
    features = architecture({"images": torch.tensor([[1.0, 10.0]])}, ["a", "b"])
    (row_a, row_b) = architecture.units[0].alpha
    # loss_a = sum of x_a' x (1, 5): its gradient by alpha_aj is x_j . (1, 5)
    found = torch.autograd.grad(features["a"].sum(), [row_a, row_b], allow_unused=True)
    assert torch.equal(found[0], torch.tensor([2 + 150.0, 4 + 350.0]))
    assert found[1] is None


def test_per_channel_units_mix_each_channel_by_itself() -> None:
    architecture = scales(after=[2], per_channel=True)
    set_alpha(architecture, [[[[1, 0], [0, 1]], [[0, 2], [1, 0]]]])
    with torch.no_grad():
        architecture.backbones[1].stages[0].factors.copy_(torch.tensor([4.0, 7.0]))
    features = architecture({"images": torch.tensor([[1.0, 10.0]])}, ["a", "b"])
    # The columns end in (2, 150) and (4, 350)
    assert torch.equal(features["a"], torch.tensor([[2.0, 350.0]]))
    assert torch.equal(features["b"], torch.tensor([[4.0, 300.0]]))
    (table,) = architecture.structure()
    assert torch.equal(table.values, torch.tensor([[0.5, 0.5], [1.0, 0.5]]))


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("per_channel", [False, True])
def test_equal_weights_in_one_matrix_and_for_each_channel(backbone: str, per_channel: bool) -> None:
    architecture = build("cross_stitch", ONE_STREAM, backbone, per_channel=per_channel)
    reference = build("cross_stitch", ONE_STREAM, backbone)
    torch.manual_seed(3)
    for column, other in zip(architecture.backbones, reference.backbones, strict=True):
        with torch.no_grad():
            for p, q in zip(column.parameters(), other.parameters(), strict=True):
                p.add_(0.2 * torch.randn_like(p))
                q.copy_(p)
    inputs = inputs_of(ONE_STREAM, backbone)
    expected = reference(inputs, ["a", "b", "c"])
    for task, value in architecture(inputs, ["a", "b", "c"]).items():
        assert torch.allclose(value, expected[task], atol=1e-6)


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("per_channel", [False, True])
def test_with_the_identity_it_is_single_task(backbone: str, per_channel: bool) -> None:
    make = maker(backbone)
    alone = build("single_task", TWO_STREAMS, make=make)
    stitched = build("cross_stitch", TWO_STREAMS, make=make, same=1.0, per_channel=per_channel)
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    # A checkpoint of single_task fits by its names; only the units are missing
    missing, unexpected = stitched.load_state_dict(alone.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("units.") for name in missing)
    inputs = inputs_of(TWO_STREAMS, backbone)
    expected, found = (each(inputs, ["a", "b", "c"]) for each in (alone, stitched))
    for task in expected:
        assert torch.equal(found[task], expected[task])


def test_tokens_that_the_mixture_cancels_stay_tokens() -> None:
    architecture = build("cross_stitch", TWO, "lstm", after=[3])
    set_alpha(architecture, [[[1.0, -1.0], [1.0, -1.0]]])  # equal columns: the difference is 0
    inputs = inputs_of(TWO, "lstm")
    features = architecture(inputs, ["a"])["a"]
    assert features.abs().max() < 1e-10
    assert torch.equal((features != 0).any(2), inputs["images"] != 0)


def test_parameters_beside_those_of_single_task() -> None:
    alone = build("single_task", ONE_STREAM)
    assert count(build("cross_stitch", ONE_STREAM)) - count(alone) == 2 * 9
    assert count(build("cross_stitch", ONE_STREAM, after=[2])) - count(alone) == 9
    per_channel = build("cross_stitch", ONE_STREAM, per_channel=True)
    assert count(per_channel) - count(alone) == 2 * 9 * 5
    one_task = build("cross_stitch", {"images": ("a",)})
    assert count(one_task) == count(alone) // 3
    assert one_task.shared_parameters() == one_task.last_shared_layer() == []


def test_rows_begin_with_the_sum_of_one_and_learn_faster() -> None:
    architecture = build("cross_stitch", ONE_STREAM, after=[1])
    (table,) = architecture.structure()
    assert (table.name, table.rows, table.columns) == (
        "cross_stitch/stage_1",
        ("a", "b", "c"),
        ("a", "b", "c"),
    )
    expected = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    assert torch.allclose(table.values, expected)
    assert architecture.learning_rates() == []
    architecture = build("cross_stitch", ONE_STREAM, after=[1], rate=100)
    ((units, factor),) = architecture.learning_rates()
    assert factor == 100
    assert [id(p) for p in units] == [id(p) for p in architecture.units.parameters()]


def test_behind_the_last_unit_a_column_is_its_tasks_own() -> None:
    architecture = build("cross_stitch", ONE_STREAM, after=[1])
    first, last = (architecture.backbones[1].stages[n] for n in (0, 1))
    row = architecture.units[0].alpha[1]
    assert [id(p) for p in architecture.task_parameters("b")] == [
        *(id(p) for p in last.parameters()),
        id(row),
    ]
    shared = {id(p) for p in architecture.shared_parameters()}
    assert {id(p) for p in first.parameters()} <= shared
    layers = [id(column.stages[0][0].weight) for column in architecture.backbones]
    assert [id(p) for p in architecture.last_shared_layer()] == layers


def test_only_the_columns_needed_are_walked() -> None:
    architecture = build("cross_stitch", ONE_STREAM, after=[1])
    walked: list[tuple[int, int]] = []
    for column, backbone in enumerate(architecture.backbones):
        for stage, module in enumerate(backbone.stages):
            module.register_forward_hook(lambda *_, at=(column, stage): walked.append(at))
    architecture(inputs_of(ONE_STREAM), ["b"])
    assert walked == [(0, 0), (1, 0), (2, 0), (1, 1)]


def test_heads_that_read_earlier_stages_leave_later_ones_out() -> None:
    reads = {"a": (1,), "b": (1, 2), "c": (1,)}
    architecture = build("cross_stitch", ONE_STREAM, reads=reads)
    assert isinstance(architecture, Columns)
    inputs = inputs_of(ONE_STREAM)
    features = architecture(inputs, ["a", "b", "c"])
    assert torch.allclose(features["b"][:, :5], features["a"])  # equal columns
    assert features["b"].shape == (3, 10)
    assert [unit.place.rows for unit in architecture.units] == [(0, 1, 2), (1,)]
    reached = reached_by(architecture, inputs, ["a", "b", "c"])
    shared = {id(p) for p in architecture.shared_parameters()}
    for task in reached:
        own = {id(p) for p in architecture.task_parameters(task)}
        others = set[int]().union(*(reached[other] for other in reached if other != task))
        assert own == reached[task] - others
        assert reached[task] <= own | shared
    everything = {id(p) for p in architecture.parameters()}
    assert everything == set[int]().union(*reached.values())
    early = build("cross_stitch", ONE_STREAM, reads=dict.fromkeys("abc", (1,)))
    assert len(early.units) == 1
    assert not list(early.backbones[0].stages[1].parameters())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"after": []}, "single_task"),
        ({"after": [3]}, "stages 1 to 2"),
        ({"after": [1, 1]}, "at most once"),
        ({"after": [2], "reads": dict.fromkeys("abc", (1,))}, "Use earlier stages"),
        ({"rate": 0}, "above 0"),
    ],
)
def test_refuses_what_would_do_nothing(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build("cross_stitch", ONE_STREAM, **settings)


def test_on_a_resnet_it_is_three_networks_and_a_few_numbers() -> None:
    with torch.device("meta"):
        architecture = build("cross_stitch", ONE_STREAM, "resnet18", make=maker("resnet18"))
    resnet18 = 11_689_512 - 513_000  # torchvision's without its classifier
    assert count(architecture) == 3 * resnet18 + 5 * 3**2
    assert f"{count(architecture) / (3 * resnet18):.4f}" == "1.0000"
