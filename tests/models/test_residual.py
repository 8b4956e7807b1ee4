"""Residual blocks: what a gate does to them, in every backbone that has any."""

import pytest
import torch
from backbone_inputs import build, inputs_of, kind_of
from torch import Tensor, nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.backbones.residual_network import BasicBlock
from mtlrun.models.residual import Residual, around_last_block, gated, residual_blocks

BLOCKS = {
    "resnet": 8,
    "resnet18": 8,
    "resnet34": 16,
    "resnet50": 16,
    "resnet50_dilated": 16,
    "resnet101": 33,
    "mobile": 10,  # of the 17, those that keep their shape
    "transformer": 2 * 2,  # attention and feed-forward part
    "vit": 4 * 2,
}


class Tripled(Residual):
    """2x beside x, and a square behind the sum."""

    def branch(self, features: Tensor) -> Tensor:
        return 2 * features

    def close(self, features: Tensor) -> Tensor:
        return features.square()


def small(name: str) -> Backbone:
    return build(name, **({"width": 4} if name.startswith("resnet") else {}))


@pytest.mark.parametrize("name", BLOCKS)
def test_gates_of_1_change_nothing_and_of_0_leave_the_shortcuts(name: str) -> None:
    backbone = small(name).eval()
    blocks = residual_blocks(backbone)
    assert len(blocks) == BLOCKS[name]
    inputs = inputs_of(kind_of(name), 2)
    with torch.no_grad():
        expected = backbone(inputs)
        with gated(blocks, torch.ones(len(blocks)).unbind()):
            assert torch.equal(backbone(inputs), expected)
    seen: list[nn.Module] = []

    def expect_shortcut(block: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(block, Residual)
        assert torch.equal(output, block.close(block.shortcut(given[0]).clone()))
        seen.append(block)

    handles = [block.register_forward_hook(expect_shortcut) for block in blocks]
    with torch.no_grad(), gated(blocks, torch.zeros(len(blocks)).unbind()):
        skipped = backbone(inputs)
    assert seen == blocks
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        assert not torch.equal(skipped, expected)
        assert torch.equal(backbone(inputs), expected)  # the gates are gone


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_no_block_changes_its_input_in_place(name: str, gate: bool) -> None:
    backbone = small(name).train()
    blocks = residual_blocks(backbone)
    given: list[tuple[Tensor, int]] = []

    def note(_: nn.Module, features: tuple[Tensor, ...]) -> None:
        given.append((features[0], features[0]._version))

    for block in blocks:
        block.register_forward_pre_hook(note)
    with torch.no_grad(), gated(blocks, [gate] * len(blocks)):
        backbone(inputs_of(kind_of(name), 2))
    assert len(given) == BLOCKS[name]
    assert all(features._version == before for features, before in given)


def test_a_gate_is_a_factor_and_learns() -> None:
    blocks = nn.Sequential(Tripled(), Tripled())
    gate = nn.Parameter(torch.tensor(0.5))
    features = torch.tensor([3.0, -1.0])
    with gated(residual_blocks(blocks)[:1], [gate]):
        output = blocks(features)
    assert output.tolist() == [(3 * 6**2) ** 2, (3 * 2**2) ** 2]
    # d/dg of (3 (x + 2gx)^2)^2 = 9 x^4 (1 + 2g)^4
    (slope,) = torch.autograd.grad(output.sum(), [gate])
    assert slope.item() == pytest.approx(9 * (3**4 + 1) * 4 * 2 * 2**3)
    assert not list(blocks.parameters())  # a parameter that is a gate stays its owner's


def test_gates_are_gone_after_an_error() -> None:
    blocks = [Tripled(), Tripled()]
    with pytest.raises(ValueError, match="shorter"), gated(blocks, [torch.tensor(0.0)]):
        pass
    assert all(block.gate is True for block in blocks)


def test_gates_are_captured_in_one_graph() -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Tripled(), Tripled())
            self.gates = nn.Parameter(torch.tensor([0.25, -1.0]))

        def forward(self, features: Tensor) -> Tensor:
            with gated(residual_blocks(self.blocks), self.gates.sigmoid().unbind()):
                output: Tensor = self.blocks(features)
            return output

    policy, features = Policy(), torch.randn(4)
    compiled = torch.compile(policy, backend="eager", fullgraph=True)
    assert torch.equal(compiled(features), policy(features))
    torch.compiler.reset()


def test_a_stage_around_its_last_block() -> None:
    features = torch.tensor([2.0])
    three = nn.Sequential(Tripled(), Tripled(), Tripled())
    early, late = around_last_block(three, features)
    assert (early.item(), late.item()) == ((3 * (3 * 2) ** 2) ** 2, three(features).item())
    for stage in (Tripled(), nn.Sequential(Tripled()), nn.Sequential(Tripled(), nn.ReLU())):
        early, late = around_last_block(stage, features)
        assert early is late
        assert early.item() == 36


def test_a_skipped_block_leaves_the_features_alone() -> None:
    block = BasicBlock(4, 4, 1, (1, 1))
    features = torch.randn(2, 4, 3, 3)
    before = features.clone()
    with gated([block], [False]):
        output = block(features)
    assert torch.equal(output, before.relu())
    assert torch.equal(features, before)
