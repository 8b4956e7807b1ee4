"""Soft sharing: what holds the networks together, and how its gradient looks."""

from typing import Any

import numpy as np
import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, build, inputs_of, maker
from torch import Tensor

from mtlrun.models.architectures.single_task import SingleTask
from mtlrun.models.architectures.soft_l2 import spread
from mtlrun.models.architectures.soft_trace_norm import flattenings, nuclear_norms
from mtlrun.models.sharing.soft_sharing import SoftSharing

NAMES = ("soft_l2", "soft_trace_norm")
FORMS = ("last_axis", "tucker", "tensor_train")
TASKS = ("a", "b", "c")


def soft(name: str, backbone: str = "mlp", apart: bool = True, **settings: Any) -> SoftSharing:
    """An architecture whose networks differ, unless ``apart`` is False."""
    architecture = build(name, TWO_STREAMS, backbone, **settings)
    assert isinstance(architecture, SoftSharing)
    if apart:
        with torch.no_grad():
            for parameter in architecture.parameters():
                parameter.add_(torch.randn_like(parameter))
    return architecture


@pytest.mark.parametrize("name", NAMES)
def test_without_weight_it_is_single_task(name: str) -> None:
    make = maker("mlp")
    architecture = soft(name, apart=False, make=make, weight=0.0)
    single = SingleTask(make_backbone=make, streams=TWO_STREAMS)
    assert architecture.terms == {}
    assert list(architecture.state_dict()) == list(single.state_dict())
    inputs = inputs_of(TWO_STREAMS)
    found = architecture.with_terms(inputs, TASKS)
    assert found.terms == {}
    for task, expected in single(inputs, TASKS).items():
        assert torch.equal(found.features[task], expected)


def test_squared_distances_by_hand() -> None:
    first, second, third = tensors = [torch.randn(2, 3, requires_grad=True) for _ in range(3)]
    pairs = sum(
        (p - q).square().sum() for p, q in ((first, second), (first, third), (second, third))
    )
    value = 3 * spread(tensors)
    torch.testing.assert_close(value, pairs)
    (gradient,) = torch.autograd.grad(value, [second])
    torch.testing.assert_close(gradient, 2 * (2 * second - first - third))


def test_the_distance_is_that_of_all_weights() -> None:
    architecture = soft("soft_l2")
    flat = torch.stack(
        [torch.nn.utils.parameters_to_vector(b.parameters()) for b in architecture.backbones]
    )
    apart = torch.cdist(flat, flat)
    pairs = architecture.with_terms(inputs_of(TWO_STREAMS), ["a"]).terms["distance"]
    torch.testing.assert_close(pairs, apart.square().sum() / 2)
    (table,) = architecture.structure()
    assert table.rows == table.columns == TASKS
    torch.testing.assert_close(table.values, apart.detach(), atol=1e-4, rtol=1e-4)
    mean = soft("soft_l2", to="mean")
    mean.load_state_dict(architecture.state_dict())
    torch.testing.assert_close(3 * mean.penalty(), pairs)


def test_chosen_stages_alone_are_held_together() -> None:
    architecture = soft("soft_l2", stages=[2])
    gradients = torch.autograd.grad(
        architecture.penalty(), list(architecture.parameters()), allow_unused=True
    )
    names = [name for name, _ in architecture.named_parameters()]
    reached = {n for n, g in zip(names, gradients, strict=True) if g is not None}
    assert reached == {name for name in names if ".stages.1." in name}
    assert len(reached) == 6
    for wrong in ([0], [3], []):
        with pytest.raises(ValueError, match=r"stages 1 to 2\. Use"):
            build("soft_l2", stages=wrong)


def test_a_large_weight_makes_the_networks_equal() -> None:
    gaps = []
    for weight in (0.0, 5.0):
        architecture = soft("soft_l2", apart=False)
        inputs = inputs_of(TWO_STREAMS)
        optimizer = torch.optim.SGD(architecture.parameters(), lr=0.05)
        for _ in range(50):
            found = architecture.with_terms(inputs, TASKS)
            wanted = zip(found.features.values(), (0.0, 1.0, 2.0), strict=True)
            losses = [(features - target).square().mean() for features, target in wanted]
            optimizer.zero_grad()
            (sum(losses) + weight * found.terms["distance"]).backward()
            optimizer.step()
        gaps.append(architecture.structure()[0].values.max().item())
    assert gaps[0] > 0.2
    assert gaps[1] < 0.1 * gaps[0]


@pytest.mark.parametrize("form", FORMS)
def test_nuclear_norms_are_those_of_a_singular_value_decomposition(form: str) -> None:
    tensor = torch.randn(3, 4, 2, 5)  # the last axis is that of tasks
    values = tensor.numpy()
    expected = {
        "last_axis": [values.reshape(24, 5)],
        "tucker": [
            np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) for axis in range(4)
        ],
        "tensor_train": [values.reshape(3, 40), values.reshape(12, 10), values.reshape(24, 5)],
    }[form]
    found = nuclear_norms(flattenings(tensor, form))
    singular = [np.linalg.svd(matrix, compute_uv=False).sum() for matrix in expected]
    np.testing.assert_allclose(found.numpy(), singular, rtol=1e-6)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7)])
def test_the_gradient_of_a_nuclear_norm(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: nuclear_norms([m, m[:2]]), matrix)


def nuclear_gradient(matrix: Tensor) -> Tensor:
    matrix = matrix.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nuclear_norms([matrix]).sum(), [matrix])
    return gradient


def test_the_gradient_where_singular_values_are_0_or_equal() -> None:
    assert torch.equal(nuclear_gradient(torch.zeros(4, 3)), torch.zeros(4, 3))
    assert torch.allclose(nuclear_gradient(3 * torch.eye(3)), torch.eye(3))
    column = torch.randn(1000, 1)
    unit = column / column.norm()
    equal = nuclear_gradient(column.repeat(1, 4))  # rank 1: U V^T is the unit column / sqrt(4)
    torch.testing.assert_close(equal, unit.repeat(1, 4) / 2)
    # A second direction of 1e-4 of the first is no rounding: it is pulled on with full strength
    other = torch.randn(1000, 1)
    other -= unit * (unit * other).sum()
    signs = torch.tensor([[1.0, -1.0]])
    near = nuclear_gradient(column.repeat(1, 2) + 1e-4 * other * signs)
    expected = (unit.repeat(1, 2) + other / other.norm() * signs) / 2**0.5
    torch.testing.assert_close(near, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_equal_networks_give_finite_gradients(form: str) -> None:
    architecture = soft("soft_trace_norm", "cnn", apart=False, form=form)
    total = architecture.with_terms(inputs_of(TWO_STREAMS, "cnn"), ["b"]).terms["trace_norm"]
    gradients = torch.autograd.grad(total, list(architecture.parameters()), allow_unused=True)
    assert sum(gradient is not None for gradient in gradients) == 6  # kernels, three tasks
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


def test_the_trace_norm_of_a_network() -> None:
    architecture = soft("soft_trace_norm", "cnn", form="tucker")
    norms = []
    for stage in (0, 1):
        kernels = [backbone.stages[stage][0].weight for backbone in architecture.backbones]
        norms.append(nuclear_norms(flattenings(torch.stack(kernels, -1), "tucker")))
    torch.testing.assert_close(architecture.penalty(), torch.cat(norms).sum())
    mean = soft("soft_trace_norm", "cnn", form="tucker", reduction="mean")
    mean.load_state_dict(architecture.state_dict())
    torch.testing.assert_close(mean.penalty(), torch.cat(norms).mean())  # 5 each


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_captured_in_the_graph(name: str) -> None:
    architecture = soft(name)
    inputs = inputs_of(TWO_STREAMS)
    compiled = torch.compile(architecture.with_terms, backend="eager", fullgraph=True)
    (value,) = compiled(inputs, TASKS).terms.values()
    torch.testing.assert_close(value, architecture.penalty())
    value.backward()
    assert architecture.corresponding[0][0].grad is not None
    torch.compiler.reset()


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="weight=-1"):
        build("soft_l2", ONE_STREAM, weight=-1)
    with pytest.raises(ValueError, match=r"architecture.to='all'"):
        build("soft_l2", ONE_STREAM, to="all")
    with pytest.raises(ValueError, match=r"architecture.form='cp'"):
        build("soft_trace_norm", ONE_STREAM, form="cp")


def test_a_stage_ties_the_tasks_that_have_it() -> None:
    reads = {"a": [1], "b": [2], "c": [1, 2]}
    architecture = soft("soft_l2", reads=reads)
    first, second = (
        [torch.nn.utils.parameters_to_vector(b.stages[n].parameters()) for b in networks]
        for n, networks in ((0, architecture.backbones), (1, architecture.backbones[1:]))
    )
    apart = [(first, 0, 1), (first, 0, 2), (first, 1, 2), (second, 0, 1)]
    expected = sum((of[i] - of[j]).square().sum() for of, i, j in apart)
    torch.testing.assert_close(architecture.penalty(), expected)
    (table,) = architecture.structure()
    both = (first[1] - first[2]).square().sum() + (second[0] - second[1]).square().sum()
    torch.testing.assert_close(table.values[1, 2], both.sqrt().detach())
    torch.testing.assert_close(table.values[0, 1], (first[0] - first[1]).norm().detach())
    stacked = soft("soft_trace_norm", reads=reads).corresponding
    assert [len(parameters) for parameters in stacked] == [3, 2]
    with pytest.raises(ValueError, match="could be held together"):
        build("soft_l2", TWO_STREAMS, reads={"a": [1], "b": [1]}, stages=[2])
