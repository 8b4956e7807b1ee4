"""Layers of other kinds, and layers used in other ways: gradients are right in every way."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_reference import assert_gramian, check_update, names_of, plain_gradients
from engine_toys import WEIGHTS, WIDTH, given, hps_model, toy_batch, toy_tasks, training_step
from engine_trunks import ROWS, Trunk, images, vectors, words
from engine_ways import force, memory_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

WAYS = ["kernels", "batched", "segments"]


class Calls(nn.Module):
    """Two layers of five and one on top, called as a function says."""

    def __init__(self, call: Callable[["Calls", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
        self.last = nn.Linear(5, WIDTH)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.call = call

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.tanh(self.call(self, inputs)))


def in_turn(trunk: Calls, inputs: Tensor) -> Tensor:
    return trunk.two(torch.tanh(trunk.one(inputs)))


def functional(trunk: Calls, inputs: Tensor) -> Tensor:
    return in_turn(trunk, inputs) + F.linear(inputs, trunk.one.weight)


def functional_first(trunk: Calls, inputs: Tensor) -> Tensor:
    return in_turn(trunk, torch.tanh(F.linear(inputs, trunk.one.weight, trunk.two.bias)))


def by_keyword(trunk: Calls, inputs: Tensor) -> Tensor:
    return trunk.two(input=trunk.one(input=inputs))


def skips(trunk: Calls, inputs: Tensor) -> Tensor:
    hidden = inputs + torch.tanh(trunk.one(inputs))
    return hidden + torch.tanh(trunk.two(hidden)) + inputs


def twice_by_two(trunk: Calls, inputs: Tensor) -> Tensor:
    return trunk.one(in_turn(trunk, inputs)) * trunk.two(inputs)


class Kept(torch.autograd.Function):
    """A node of Python code that happens to keep something called ``variable``."""

    @staticmethod
    def forward(context: Any, inputs: Tensor) -> Tensor:
        context.variable = 2
        return inputs * 2

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * context.variable


def by_function(trunk: Calls, inputs: Tensor) -> Tensor:
    return trunk.two(Kept.apply(trunk.one(inputs)))


def tied() -> nn.Module:
    trunk = Calls(in_turn)
    trunk.two.weight = trunk.one.weight
    return trunk


def half_frozen() -> nn.Module:
    trunk = Calls(in_turn)
    trunk.one.bias.requires_grad_(False)
    trunk.two.weight.requires_grad_(False)
    return trunk


def convolutions(*layers: nn.Module) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.Tanh(),
            *layers,
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, WIDTH),
        )

    return make


class Sampled(nn.Module):
    """A spatial transformer: where it looks depends on the layer below."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Linear(3, 6)
        self.last = nn.Conv2d(3, WIDTH, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        theta = torch.tanh(self.place(inputs.mean((2, 3)))).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(inputs.shape), align_corners=False)
        return self.last(F.grid_sample(inputs, grid, align_corners=False)).mean((2, 3))


class Widened(nn.Module):
    """WIDTH features without a layer."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, inputs.sum(1, keepdim=True)], dim=1)


class Words(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table
        self.last = nn.Linear(8, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        vectors = self.table(inputs)
        return self.last(torch.tanh(vectors.sum(1) if vectors.ndim == 3 else vectors))


class Branches(nn.Module):
    """Two layers side by side that join again, with a layer's output read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Linear(5, 8)
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        below = self.below(inputs)
        return self.last(torch.tanh(self.left(below)) * self.right(torch.relu(below)))


def table(**options: Any) -> Callable[[], nn.Module]:
    return lambda: Words(nn.Embedding(9, 8, **options))


TRUNKS = {
    "functional": Trunk(lambda: Calls(functional), vectors),
    "functional_first": Trunk(lambda: Calls(functional_first), vectors),
    "by_keyword": Trunk(lambda: Calls(by_keyword), vectors),
    "skips": Trunk(lambda: Calls(skips), vectors),
    "twice_by_two": Trunk(lambda: Calls(twice_by_two), vectors),
    "by_function": Trunk(lambda: Calls(by_function), vectors),
    "tied_layers": Trunk(tied, vectors),
    "half_frozen": Trunk(half_frozen, vectors),
    "branches": Trunk(Branches, vectors),
    "weight_norm": Trunk(
        lambda: Calls(in_turn, two=parametrizations.weight_norm(nn.Linear(5, 5))), vectors
    ),
    "spectral_norm": Trunk(
        lambda: Calls(in_turn, two=parametrizations.spectral_norm(nn.Linear(5, 5))), vectors
    ),
    "hooked_spectral_norm": Trunk(
        lambda: Calls(in_turn, two=nn.utils.spectral_norm(nn.Linear(5, 5))), vectors
    ),
    "depthwise": Trunk(convolutions(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1)), images),
    "transposed": Trunk(convolutions(nn.ConvTranspose2d(4, 4, 3, stride=2), nn.ReLU()), images),
    "reflected": Trunk(convolutions(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), images),
    "strided": Trunk(convolutions(nn.Conv2d(4, 4, 3, 2, padding=2, dilation=2)), images),
    "enlarged": Trunk(
        convolutions(nn.UpsamplingBilinear2d(scale_factor=2), nn.Conv2d(4, 4, 3)), images
    ),
    "sampled": Trunk(Sampled, images),
    "padded_words": Trunk(table(padding_idx=2), words),
    "short_words": Trunk(table(max_norm=1.0), words),
    "rare_words": Trunk(table(scale_grad_by_freq=True), words),
    "bag": Trunk(lambda: Words(nn.EmbeddingBag(9, 8, mode="mean")), words),
    "no_kernels": Trunk(
        lambda: nn.Sequential(nn.BatchNorm1d(5), nn.PReLU(5), Widened()),
        vectors,
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TRUNKS)
def test_gramian_and_update(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    tasks = toy_tasks()
    model = hps_model(TRUNKS[name].make(), tasks)
    inputs = TRUNKS[name].inputs(torch.Generator().manual_seed(2))
    batch = toy_batch(rows=ROWS, inputs=inputs)
    plain = plain_gradients(model, tasks, [batch])
    weighting = given()
    step = training_step(model, tasks, weighting, memory=memory_of(way))
    force(way, step, monkeypatch)

    step([batch], 0, 0)

    shared = names_of(model, model.shared_parameters())
    assert_gramian(weighting.gramians[0], plain.gramian(shared))
    check_update(model, plain, shared, WEIGHTS, "unweighted")
