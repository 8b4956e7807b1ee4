"""The kernel form of a layer, against the weight gradients that autograd gives it."""

import math
from collections.abc import Callable

import pytest
import torch
from engine_reference import assert_gramian, assert_near
from torch import Tensor, nn

from mtlrun.engine import kernels
from mtlrun.engine.graph import Graph
from mtlrun.engine.kernels import Kernel, Taps

TASKS = 4


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MARGIN", math.inf)


def taken(trunk: nn.Module, call: Callable[[], Tensor]) -> tuple[list[Kernel], Tensor]:
    """The layers of a trunk that get the kernel form, and what the trunk gives."""
    taps = Taps(trunk, [p for p in trunk.parameters() if p.requires_grad])
    with taps.listening():
        output = call()
    return taps.take(Graph([output]), TASKS), output


# -- layers that have one -------------------------------------------------------------------------


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def rows_of(text: str) -> Tensor:
    return torch.tensor([[int(word) for word in row.split()] for row in text.split(",")])


LAYERS: dict[str, tuple[nn.Module, Tensor]] = {
    "linear": (nn.Linear(5, 3), numbers(7, 5)),
    "linear without bias": (nn.Linear(5, 3, bias=False), numbers(7, 5)),
    "linear, one row": (nn.Linear(5, 3), numbers(5)),
    "linear, sequences": (nn.Linear(5, 3), numbers(4, 6, 5)),
    "linear, sequences without bias": (nn.Linear(5, 3, bias=False), numbers(4, 6, 5)),
    "linear, transposed sequences": (nn.Linear(5, 3), numbers(4, 5, 6).transpose(1, 2)),
    "linear, maps": (nn.Linear(5, 3), numbers(2, 3, 4, 5)),
    "convolution": (nn.Conv2d(3, 4, 3), numbers(2, 3, 7, 6)),
    "convolution without bias": (nn.Conv2d(3, 4, 3, bias=False), numbers(2, 3, 7, 6)),
    "convolution with everything": (
        nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
        numbers(2, 3, 8, 7),
    ),
    "convolution of points": (nn.Conv2d(3, 4, 1, stride=2), numbers(2, 3, 5, 5)),
    "convolution, channels last": (
        nn.Conv2d(3, 4, 3, padding=1).to(memory_format=torch.channels_last),
        numbers(2, 3, 6, 5).contiguous(memory_format=torch.channels_last),
    ),
    "embedding": (nn.Embedding(6, 3), rows_of("1 4 4, 0 1 4")),
    "embedding of one word": (nn.Embedding(6, 3), torch.tensor([2, 2, 5, 2])),
    "embedding with padding": (nn.Embedding(6, 3, padding_idx=4), rows_of("1 4 4, 0 1 4")),
    "embedding with padding, counted from the end": (
        nn.Embedding(6, 3, padding_idx=-1),
        rows_of("1 5 4, 5 1 4"),
    ),
    "embedding of short numbers": (nn.Embedding(6, 3), rows_of("1 4 4, 0 1 4").int()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gramian_and_weighted_sum_are_those_of_weight_gradients(name: str) -> None:
    layer, inputs = LAYERS[name]
    layer.double()
    (kernel,), output = taken(layer, lambda: layer(inputs))
    kernel.buffer = output.new_empty(TASKS, *output.shape)
    parameters = list(layer.parameters())
    draws = torch.Generator().manual_seed(6)
    rows = []
    for place in range(TASKS):
        cotangent = torch.randn(output.shape, generator=draws, dtype=torch.float64)
        delta, *gradients = torch.autograd.grad(
            output,
            [kernel.edge, *parameters],
            cotangent,
            retain_graph=True,
        )
        kernel.write(place, delta)
        rows.append(gradients)
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    assert_gramian(kernel.gramian(), jacobian @ jacobian.T, 1e-12)

    weights = torch.tensor([0.5, -2.0, 0.0, 1.25], dtype=torch.float64)
    kernel.combine(weights)
    for number, parameter in enumerate(parameters):
        wanted = sum(w * row[number] for w, row in zip(weights, rows, strict=True))
        assert_near(parameter.grad, wanted, 1e-12)
        assert parameter.grad.stride() == parameter.stride()


def test_a_task_that_does_not_reach_a_layer_has_no_part_in_it() -> None:
    layer, inputs = nn.Linear(5, 3), torch.randn(7, 5)
    (kernel,), output = taken(layer, lambda: layer(inputs))
    kernel.buffer = torch.full((2, *output.shape), torch.nan)
    kernel.write(0, torch.ones_like(output))
    kernel.write(1, None)
    inner = kernel.gramian()
    assert inner[0, 0] > 0
    assert inner[1].tolist() == inner[:, 1].tolist() == [0, 0]


def test_a_layer_that_no_task_reaches_keeps_no_gradient() -> None:
    layer = nn.Linear(5, 3)
    layer.weight.grad = torch.ones_like(layer.weight)
    (kernel,), output = taken(layer, lambda: layer(torch.randn(7, 5)))
    kernel.buffer = torch.empty(2, *output.shape)
    kernel.write(0, None)
    kernel.write(1, None)
    kernel.combine(torch.ones(2))
    assert layer.weight.grad is None
    assert layer.bias.grad is None


@pytest.mark.parametrize(
    ("layer", "inputs", "size"),
    [
        (nn.Linear(5, 3), torch.randn(4, 6, 5), (24, 5, 3)),
        (nn.Conv2d(3, 4, (3, 2)), torch.randn(2, 3, 7, 6), (2 * 5 * 5, 18, 4)),
        (nn.Embedding(6, 3), torch.zeros(2, 5, dtype=torch.long), (10, 6, 3)),
    ],
)
def test_cost_by_positions_inputs_and_outputs(
    layer: nn.Module, inputs: Tensor, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (kernel,), _ = taken(layer, lambda: layer(inputs))
    assert kernel.size == size
    positions, fan_in, outputs = size
    # Kernel, N N in, and its products, T N N out, over T weight gradients, T N in out.
    ratio = (positions**2 * fan_in + TASKS * positions**2 * outputs) / (
        TASKS * positions * fan_in * outputs
    )
    monkeypatch.setattr(kernels, "MARGIN", ratio * 1.01)
    assert kernel.cheaper(TASKS)
    monkeypatch.setattr(kernels, "MARGIN", ratio * 0.99)
    assert not kernel.cheaper(TASKS)


# -- layers and uses that have none ---------------------------------------------------------------


class Doubled(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


def patched() -> nn.Module:
    layer = nn.Linear(5, 3)
    layer.forward = lambda inputs: 2 * nn.Linear.forward(layer, inputs)  # type: ignore[method-assign]
    return layer


def hooked(before: bool) -> nn.Module:
    layer = nn.Linear(5, 3)
    if before:
        layer.register_forward_pre_hook(lambda _, arguments: (2 * arguments[0],))
    else:
        layer.register_forward_hook(lambda _, __, output: 2 * output)
    return layer


def frozen(name: str) -> nn.Module:
    layer = nn.Linear(5, 3)
    layer.get_parameter(name).requires_grad_(False)
    return layer


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (Doubled(5, 3), torch.randn(7, 5)),
        (patched(), torch.randn(7, 5)),
        (hooked(before=True), torch.randn(7, 5)),
        (hooked(before=False), torch.randn(7, 5)),
        (frozen("weight"), torch.randn(7, 5)),
        (frozen("bias"), torch.randn(7, 5)),
        (nn.utils.parametrizations.weight_norm(nn.Linear(5, 3)), torch.randn(7, 5)),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 6, 6)),
        (nn.utils.spectral_norm(nn.Linear(5, 3)), torch.randn(7, 5)),
        (nn.Conv2d(4, 4, 3, groups=4), torch.randn(2, 4, 6, 6)),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), torch.randn(2, 3, 6, 6)),
        (nn.Conv2d(3, 4, 3, padding="same"), torch.randn(2, 3, 6, 6)),
        (nn.Conv2d(3, 4, 3), torch.randn(3, 6, 6)),
        (nn.Conv1d(3, 4, 3), torch.randn(2, 3, 6)),
        (nn.Embedding(6, 3, max_norm=0.5), torch.tensor([1, 1, 3])),
        (nn.Embedding(6, 3, sparse=True), torch.tensor([1, 1, 3])),
        (nn.Embedding(6, 3, scale_grad_by_freq=True), torch.tensor([1, 1, 3])),
        (nn.EmbeddingBag(6, 3), torch.tensor([[1, 1], [3, 2]])),
    ],
)
def test_other_layers_are_left_to_autograd(layer: nn.Module, inputs: Tensor) -> None:
    assert taken(layer, lambda: layer(inputs))[0] == []


def test_a_layer_counts_where_all_of_its_parameters_are_shared() -> None:
    trunk = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 3))
    taps = Taps(trunk, [trunk[0].weight, *trunk[1].parameters()])
    assert taps.layers == [trunk[1]]


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))


INPUTS = torch.randn(7, 5)


def again_by_hand(trunk: nn.Sequential) -> Tensor:
    return nn.functional.linear(trunk(INPUTS), trunk[0].weight)


def first_by_hand(trunk: nn.Sequential) -> Tensor:
    return trunk(nn.functional.linear(INPUTS, trunk[0].weight))


def twice(trunk: nn.Sequential) -> Tensor:
    return trunk[0](trunk(INPUTS))


def thrice(trunk: nn.Sequential) -> Tensor:
    return trunk[0](trunk[0](trunk(INPUTS)))


def by_keyword(trunk: nn.Sequential) -> Tensor:
    return trunk[1](trunk[0](input=INPUTS))


def penalised(trunk: nn.Sequential) -> Tensor:
    return trunk(INPUTS) + trunk[0].weight.norm()


def bias_elsewhere(trunk: nn.Sequential) -> Tensor:
    return trunk(INPUTS) * trunk[0].bias


def inputs_changed(trunk: nn.Sequential) -> Tensor:
    inputs = INPUTS.clone()
    output = trunk(inputs)
    inputs.mul_(3)
    return output


USES = [
    again_by_hand,
    first_by_hand,
    twice,
    thrice,
    by_keyword,
    penalised,
    bias_elsewhere,
    inputs_changed,
]


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("use", USES)
def test_a_layer_used_otherwise_is_left_to_autograd(
    use: Callable[[nn.Sequential], Tensor], amp: bool
) -> None:
    trunk = pair()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        found, _ = taken(trunk, lambda: use(trunk))
    assert [kernel.module for kernel in found] == [trunk[1]]
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        found, _ = taken(trunk, lambda: trunk(INPUTS))
    assert [kernel.module for kernel in found] == list(trunk)


def test_a_weight_in_two_layers_is_left_to_autograd() -> None:
    trunk = pair()
    trunk[1].weight = trunk[0].weight
    assert taken(trunk, lambda: trunk(INPUTS))[0] == []
    # and where only one of them is called, too
    assert taken(trunk, lambda: trunk[0](INPUTS))[0] == []


def test_a_layer_that_is_not_called_or_leads_nowhere() -> None:
    trunk = pair()
    assert [k.module for k in taken(trunk, lambda: trunk[1](INPUTS))[0]] == [trunk[1]]

    def aside() -> Tensor:
        trunk[0](INPUTS)
        return trunk[1](INPUTS)

    assert [k.module for k in taken(trunk, aside)[0]] == [trunk[1]]


def test_the_hooks_are_gone_after_an_exception() -> None:
    trunk = pair()

    def fail() -> Tensor:
        trunk(INPUTS)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        taken(trunk, fail)
    assert not any(module._forward_hooks for module in trunk.modules())
