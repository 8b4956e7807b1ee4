"""Learning to Branch: trees, their phases, and what comes down the branches."""

from collections.abc import Mapping, Sequence
from typing import Any

import architecture_cases
import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, inputs_of, maker
from torch import Tensor, nn

from mtlrun.models.architectures.ltb import LTB
from mtlrun.models.backbones.base import Backbone, Kept

TASKS = ("a", "b", "c")
WARM, BRANCHING, FIXED = (0, 3), (1, 20), (8, 90)
"""(epoch, step) in each phase of a run of 10 epochs."""


def build(
    streams: Mapping[str, Sequence[str]] = ONE_STREAM, backbone: str = "mlp", **settings: Any
) -> LTB:
    made = architecture_cases.build("ltb", streams, backbone, **{"epochs": 10, **settings})
    assert isinstance(made, LTB)
    return made


def set_tree(architecture: LTB, tree: Sequence[Sequence[int]]) -> None:
    """Logits that are as good as certain: for each level and child its parent."""
    with torch.no_grad():
        for logits, parents in zip(architecture.logits, tree, strict=False):
            logits.copy_(100.0 * nn.functional.one_hot(torch.tensor(parents), len(parents)))
        for row, parent in zip(architecture.own_logits, tree[-1], strict=True):
            row.zero_()[parent] = 100.0


@pytest.mark.parametrize("backbone", ["mlp", "lstm", "segnet", "unet"])
@pytest.mark.parametrize("leaves", ["picked", "own"])
def test_a_tree_that_branches_at_once_is_one_network_a_task(backbone: str, leaves: str) -> None:
    small = {"widths": (3, 4, 5)} if backbone in ("segnet", "unet") else {}
    architecture = build(TWO_STREAMS, backbone, leaves=leaves, make=maker(backbone, **small))
    set_tree(architecture, [[0, 1, 2]] * len(architecture.found))
    inputs = inputs_of(TWO_STREAMS, backbone)
    for where in (BRANCHING, FIXED):
        architecture.start_step(*where)
        found = architecture.eval()(inputs, TASKS)
        for task, copy in zip(TASKS, architecture.copies, strict=True):
            assert torch.equal(found[task], copy(inputs[architecture.stream_of[task]]))
        architecture.train()


@pytest.mark.parametrize("where", [BRANCHING, FIXED])
def test_a_tree_that_never_branches_is_hard_sharing(where: tuple[int, int]) -> None:
    architecture = build()
    set_tree(architecture, [[2, 2, 2]] * 2)
    architecture.start_step(*where)
    inputs = inputs_of(ONE_STREAM)
    expected = architecture.copies[2](inputs["images"])
    for training in (True, False):
        found = architecture.train(training)(inputs, TASKS)
        assert all(torch.equal(found[task], expected) for task in TASKS)


def test_branches_cross_as_the_tree_says() -> None:
    architecture = build()
    set_tree(architecture, [[1, 2, 2], [2, 0, 0]])
    inputs = inputs_of(ONE_STREAM)

    def path(first: int, second: int) -> Tensor:
        copies = architecture.copies
        output: Tensor = copies[second].stages[1](copies[first].stages[0](inputs["images"]))
        return output

    for where in (BRANCHING, FIXED):
        architecture.start_step(*where)
        found = architecture(inputs, TASKS)
        assert torch.equal(found["a"], path(2, 2))
        assert torch.equal(found["b"], path(1, 0))
        assert torch.equal(found["c"], path(1, 0))


def test_the_warm_up_reads_the_mean_of_the_parents() -> None:
    architecture = build()
    set_tree(architecture, [[1, 2, 2], [2, 0, 0]])  # of no effect yet
    architecture.start_step(*WARM)
    inputs = inputs_of(ONE_STREAM)
    first = torch.stack([copy.stages[0](inputs["images"]) for copy in architecture.copies]).mean(0)
    expected = torch.stack([copy.stages[1](first) for copy in architecture.copies]).mean(0)
    for training in (True, False):
        found = architecture.train(training)(inputs, TASKS)
        for task in TASKS:
            torch.testing.assert_close(found[task], expected)
    expected.sum().backward()
    assert all(logits.grad is None for logits in [*architecture.logits, *architecture.own_logits])


def test_phases_and_temperature_follow_from_the_epoch() -> None:
    architecture = build(epochs=60)
    seen = []
    for epoch in range(60):
        architecture.start_step(epoch, 5 * epoch)
        seen.append(int(architecture.phase))
        assert float(architecture.temperature) == pytest.approx(3 / (epoch + 1) ** 0.5)
    assert seen == [0] + [1] * 41 + [2] * 18
    for epochs, phases in ((1, [1]), (2, [0, 1]), (3, [0, 1, 2])):
        architecture = build(epochs=epochs)
        for epoch, phase in enumerate(phases):
            architecture.start_step(epoch, epoch)
            assert int(architecture.phase) == phase


def test_hard_draws_train_the_logits_of_the_branch() -> None:
    architecture = build()
    architecture.start_step(*BRANCHING)
    inputs = inputs_of(ONE_STREAM)
    torch.manual_seed(0)
    drawn = architecture(inputs, TASKS)
    torch.manual_seed(0)
    assert torch.equal(architecture(inputs, ["b"])["b"], drawn["b"])
    leaves = [
        copy.stages[1](first)
        for copy in architecture.copies
        for first in [other.stages[0](inputs["images"]) for other in architecture.copies]
    ]
    assert all(any(torch.equal(drawn[task], leaf) for leaf in leaves) for task in TASKS)
    drawn["b"].square().sum().backward()
    given = [row.grad is not None for row in architecture.own_logits]
    assert given == [False, True, False]
    gradient = architecture.logits[0].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_fixed_tree_computes_what_it_needs_once() -> None:
    architecture = build()
    set_tree(architecture, [[1, 2, 2], [2, 0, 0]])
    architecture.start_step(*FIXED)
    passes = [[0, 0] for _ in TASKS]
    for number, copy in enumerate(architecture.copies):
        for stage, module in enumerate(copy.stages):

            def count(*_: object, mine: list[int] = passes[number], its: int = stage) -> None:
                mine[its] += 1

            module.register_forward_hook(count)
    inputs = inputs_of(ONE_STREAM)
    found = architecture(inputs, TASKS)
    assert passes == [[0, 1], [1, 0], [1, 1]]
    assert found["b"] is found["c"]
    set_tree(architecture, [[0, 0, 0]] * 2)  # too late
    assert torch.equal(architecture(inputs, TASKS)["a"], found["a"])
    trees = {table.name: table.values for table in architecture.structure()}
    assert trees["ltb/tree/tasks"].argmax(1).tolist() == [2, 0, 0]
    assert trees["ltb/tree/stage_2"].sum(1).tolist() == [1, 1, 1]
    torch.testing.assert_close(trees["ltb/probability/tasks"].sum(1), torch.ones(3))


@pytest.mark.parametrize("where", [WARM, BRANCHING, FIXED])
def test_a_checkpoint_of_any_phase_evaluates_as_the_network_did(where: tuple[int, int]) -> None:
    architecture, fresh = build(), build()
    with torch.no_grad():
        for logits in [*architecture.logits, *architecture.own_logits]:
            logits.normal_()
    architecture.start_step(*where)
    with torch.no_grad():
        architecture.own_logits[0].neg_()
    fresh.load_state_dict(architecture.state_dict())
    inputs = inputs_of(ONE_STREAM)
    expected, found = architecture.eval()(inputs, TASKS), fresh.eval()(inputs, TASKS)
    assert all(torch.equal(found[task], expected[task]) for task in TASKS)


class Leaving(Backbone):
    """Its first stage leaves numbers for its last."""

    def __init__(self, mark: int) -> None:
        super().__init__([nn.Identity(), nn.Identity(), nn.Identity()], [1] * 3, ["vector"] * 3)
        self.mark = nn.Parameter(torch.tensor(float(mark)))

    def step(self, number: int, features: Tensor, kept: Kept) -> Tensor:
        if number == 0:
            kept["whole"] = torch.tensor([int(self.mark)])
            kept["part"] = 10 * self.mark
        if number == 1:
            kept["middle"] = 100 * self.mark
        if number == 2:
            return features + kept["whole"] + kept["part"] + kept["middle"]
        return features


def test_what_stages_leave_comes_down_the_branches() -> None:
    architecture = build(make=lambda copy: Leaving(copy + 1))
    set_tree(architecture, [[2, 0, 0], [1, 0, 2], [0, 1, 2]])
    inputs = {"images": torch.zeros(2, 1)}
    architecture.start_step(*WARM)  # 20 is the mean of the parts, 2 of the copies' own
    assert [float(value[0].detach()) for value in architecture(inputs, TASKS).values()] == [222] * 3
    # The roots of the last stage's copies are 1, 3 and 1
    for where in (BRANCHING, FIXED):
        architecture.start_step(*where)
        for training in (True, False):
            found = architecture.train(training)(inputs, TASKS)
            assert [float(found[task][0].detach()) for task in TASKS] == [211, 133, 311]
    crossed = build(make=lambda copy: Leaving(copy + 1))
    set_tree(crossed, [[0, 0, 0], [1, 2, 1], [0, 1, 2]])  # two go on from one and the same
    crossed.start_step(*FIXED)
    assert [float(crossed(inputs, TASKS)[task][0].detach()) for task in TASKS] == [211, 311, 211]


def test_heads_may_read_stages_on_their_branch() -> None:
    architecture = build(reads={"a": (1, 2)})
    set_tree(architecture, [[1, 2, 2], [2, 0, 0]])
    inputs = inputs_of(ONE_STREAM)
    first = architecture.copies[2].stages[0](inputs["images"])
    expected = torch.cat([first, architecture.copies[2].stages[1](first)], 1)
    for where in (BRANCHING, FIXED):
        architecture.start_step(*where)
        assert torch.equal(architecture(inputs, TASKS)["a"], expected)


def test_own_leaves_are_their_tasks() -> None:
    architecture = build(leaves="own")
    leaf = [id(p) for p in architecture.copies[1].stages[1].parameters()]
    own = [id(p) for p in architecture.task_parameters("b")]
    assert own == [id(architecture.own_logits[1]), *leaf]
    weights = [copy.stages[0][0].weight for copy in architecture.copies]  # type: ignore[index]
    assert list(map(id, architecture.last_shared_layer())) == list(map(id, weights))
    assert [table.name for table in architecture.structure()] == [
        "ltb/probability/stage_2",
        "ltb/tree/stage_2",
    ]


def test_one_task_alone_is_one_network() -> None:
    architecture = build({"images": ("a",)})
    inputs = inputs_of({"images": ("a",)})
    expected = architecture.copies[0](inputs["images"])
    for where in (WARM, BRANCHING, FIXED):
        architecture.start_step(*where)
        assert torch.equal(architecture(inputs, ["a"])["a"], expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nothing to pick\. Use leaves=picked"):
        build(leaves="own", make=maker("mlp", hidden=(5,)))
    with pytest.raises(ValueError, match="for branching: use smaller ones"):
        build(warmup_epochs=4, fixed_epochs=6)
    with pytest.raises(ValueError, match="none of picked, own"):
        build(leaves="mine")
    with pytest.raises(ValueError, match="must be above 0"):
        build(temperature=0.0)


def test_a_tree_is_captured_as_one_graph() -> None:
    architecture = build()
    set_tree(architecture, [[1, 2, 2], [2, 0, 0]])
    inputs = inputs_of(ONE_STREAM)
    for where in (BRANCHING, FIXED):
        architecture.start_step(*where)
        compiled = torch.compile(architecture, backend="eager", fullgraph=True)
        found, expected = compiled(inputs, TASKS), architecture(inputs, TASKS)
        assert all(torch.equal(found[task], expected[task]) for task in TASKS)
    torch.compiler.reset()
