"""What autograd's graph says about a parameter's uses."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from mtlrun.engine.graph import LONGEST_CHAIN, Graph

INPUTS = torch.randn(7, 5)


def node_of(tensor: Tensor) -> Node:
    assert tensor.grad_fn is not None
    return tensor.grad_fn


def test_a_weight_that_acts_in_its_layer_alone() -> None:
    layer = nn.Linear(5, 3)
    for inputs in (INPUTS, torch.randn(2, 4, 5)):
        output = layer(inputs)
        graph = Graph([torch.tanh(output), output.sum()])
        assert graph.used_only_by(layer.weight, node_of(output))
        assert graph.used_only_by(layer.bias, node_of(output))


def test_a_weight_with_a_second_user() -> None:
    layer = nn.Linear(5, 3)
    output = layer(INPUTS)
    for other in (layer.weight.sum(), INPUTS @ layer.weight.T, layer.weight * layer.weight):
        assert not Graph([output, other]).used_only_by(layer.weight, node_of(output))
        assert Graph([output, other]).used_only_by(layer.bias, node_of(output))
    # a second user outside the outputs' graph does not count
    assert Graph([output]).used_only_by(layer.weight, node_of(output))


def test_a_weight_used_twice_by_one_node() -> None:
    weight = nn.Parameter(torch.randn(5))
    assert not Graph([weight * weight]).used_only_by(weight, node_of(weight * weight))
    product = weight * weight
    assert not Graph([product]).used_only_by(weight, node_of(product))


def test_a_cast_that_autocast_shares() -> None:
    layer = nn.Linear(5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(INPUTS)
        both = output + nn.functional.linear(INPUTS, layer.weight)
    cast = [node for node in Graph([both]).parents if node.name() == "ToCopyBackward0"]
    assert len(cast) == 2  # of the weight, once, and of the bias
    assert not Graph([both]).used_only_by(layer.weight, node_of(output))
    assert Graph([both]).used_only_by(layer.bias, node_of(output))
    assert Graph([output]).used_only_by(layer.weight, node_of(output))


def test_a_parameter_outside_the_graph_is_used_by_nothing() -> None:
    layer, other = nn.Linear(5, 3), nn.Linear(5, 3)
    output = layer(INPUTS)
    assert not Graph([output]).used_only_by(other.weight, node_of(output))
    assert not Graph([output]).used_only_by(layer.weight, node_of(other(INPUTS)))
    assert Graph([torch.zeros(3)]).leaves == {}


def test_a_chain_that_is_too_long_is_not_followed() -> None:
    weight = nn.Parameter(torch.randn(5))
    hidden: Tensor = weight
    for _ in range(LONGEST_CHAIN):
        hidden = hidden.neg()
    assert Graph([hidden]).used_only_by(weight, node_of(hidden))
    assert not Graph([hidden.neg()]).used_only_by(weight, node_of(hidden.neg()))


class Kept(torch.autograd.Function):
    """A node of Python code that happens to keep something called ``variable``."""

    @staticmethod
    def forward(context: Any, inputs: Tensor) -> Tensor:
        context.variable = 3
        return inputs * 2

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def test_nodes_of_python_code_are_walked_through() -> None:
    layer = nn.Linear(5, 3)
    output = layer(INPUTS)
    graph = Graph([Kept.apply(output)])
    assert graph.used_only_by(layer.weight, node_of(output))
    assert not graph.batchable


@pytest.mark.parametrize(
    ("layer", "batchable"),
    [
        (nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.ReLU(inplace=True)), True),
        (nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5), nn.Sigmoid(), nn.GELU()), True),
        (nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), False),
        (nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3)), False),
        (nn.GRU(5, 3), False),
    ],
)
def test_whether_one_batched_pass_serves(layer: nn.Module, batchable: bool) -> None:
    output = layer(INPUTS)
    output = output[0] if isinstance(output, tuple) else output
    assert Graph([output]).batchable == batchable
