"""Per-task gradients by plain autograd, and comparisons with them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from engine_toys import SEED, Heads
from torch import Tensor, nn

from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global_step
from mtlrun.tasks.base import Task
from mtlrun.types import Batch, StreamBatch

# -- plain autograd -------------------------------------------------------------------------------


@dataclass
class Plain:
    """Per-task gradients by plain autograd.

    Attributes:
        names: the parameters' names.
        losses: for each present task its loss.
        gradients: for each present task, for each parameter its gradient, None if not reached.
        cotangents: for each present task its gradient on the features (of the last micro-batch).
    """

    names: list[str]
    losses: dict[str, Tensor]
    gradients: dict[str, dict[str, Tensor | None]]
    cotangents: dict[str, Tensor]

    def row(self, task: str, names: Sequence[str]) -> Tensor:
        """The task's gradient on the parameters named, zero where it does not reach."""
        one = next(g for row in self.gradients.values() for g in row.values() if g is not None)
        parts = []
        for name in names:
            gradient = self.gradients[task][name]
            size = next(
                (row[name].numel() for row in self.gradients.values() if row[name] is not None), 0
            )
            parts.append(one.new_zeros(size) if gradient is None else gradient.reshape(-1))
        return torch.cat(parts).double()

    def jacobian(self, names: Sequence[str]) -> Tensor:
        return torch.stack([self.row(task, names) for task in self.gradients])

    def gramian(self, names: Sequence[str]) -> Tensor:
        jacobian = self.jacobian(names)
        return jacobian @ jacobian.T

    def combined(self, weights: Mapping[str, float], name: str) -> Tensor | None:
        """The weighted sum of the task gradients on one parameter."""
        parts = [
            w * self.gradients[task][name] for task, w in weights.items() if self._has(task, name)
        ]
        return sum(parts[1:], parts[0]) if parts else None

    def _has(self, task: str, name: str) -> bool:
        return self.gradients[task][name] is not None


def in_double(batch: Batch) -> Batch:
    def wide(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    return {
        stream: StreamBatch(
            wide(part.inputs), {t: wide(v) for t, v in part.targets.items()}, part.present
        )
        for stream, part in batch.items()
    }


def plain_gradients(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    batches: Sequence[Batch],
    *,
    double: bool = True,
    epoch: int = 0,
    step: int = 0,
) -> Plain:
    """Per-task gradients of the mean over micro-batches of the losses, on a copy of the model.

    The copy is float64, or float32 with the step's own dropout masks.
    """
    model = copy.deepcopy(model)
    if double:
        model, batches = model.double(), [in_double(batch) for batch in batches]
    seed_global_step(SEED, "dropout", epoch, step)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parts: dict[str, list[tuple[Tensor, list[Tensor | None]]]] = {}
    cotangents = {}
    for batch in batches:
        present = [t for t in tasks if any(t in part.present for part in batch.values())]
        inputs = {stream: part.inputs for stream, part in batch.items()}
        features = model.architecture(inputs, present)
        for task in present:
            target = batch[model.architecture.stream_of[task]].targets[task]
            loss = tasks[task].loss(model.head_of[task](features[task]), target)
            *gradients, cotangent = torch.autograd.grad(
                loss, [*trained.values(), features[task]], retain_graph=True, allow_unused=True
            )
            parts.setdefault(task, []).append((loss.detach(), gradients))
            cotangents[task] = cotangent
    order = [task for task in tasks if task in parts]
    return Plain(
        list(trained),
        {task: torch.stack([loss for loss, _ in parts[task]]).mean() for task in order},
        {task: _mean_gradients(list(trained), [g for _, g in parts[task]]) for task in order},
        cotangents,
    )


def _mean_gradients(
    names: Sequence[str], micro_batches: Sequence[Sequence[Tensor | None]]
) -> dict[str, Tensor | None]:
    means: dict[str, Tensor | None] = {}
    for place, name in enumerate(names):
        found = [row[place] for row in micro_batches if row[place] is not None]
        means[name] = sum(found[1:], found[0]) / len(micro_batches) if found else None
    return means


def names_of(model: nn.Module, parameters: Sequence[nn.Parameter]) -> list[str]:
    by_id = {id(p): name for name, p in model.named_parameters()}
    return [by_id[id(parameter)] for parameter in parameters]


def gradients_of(model: nn.Module) -> dict[str, Tensor | None]:
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


# -- comparisons ----------------------------------------------------------------------------------


def assert_near(actual: Tensor | None, expected: Tensor | None, relative: float = 1e-5) -> None:
    """The distance is at most ``relative`` of the expected tensor's norm."""
    if expected is None or actual is None:
        assert actual is None, "expected None"
        assert expected is None, "expected a tensor"
        return
    assert actual.shape == expected.shape
    distance = (actual.double() - expected.double()).norm()
    assert distance <= relative * expected.double().norm(), f"{distance} of {expected.norm()}"


def assert_gramian(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Every entry is right relative to the norms of its two gradients."""
    assert actual.dtype == torch.float64
    norms = expected.diagonal().sqrt()
    scale = torch.outer(norms, norms).clamp(min=1e-300)
    assert ((actual - expected) / scale).abs().max() <= relative
    assert ((actual - actual.T) / scale).abs().max() <= 1e-6


def check_update(
    model: MultiTaskModel,
    plain,
    shared: Sequence[str],
    weights: Mapping[str, float],
    heads: Heads,
    relative: float = 1e-5,
) -> None:
    """``.grad`` of every parameter is the weighted sum, or the task's own."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None
            continue
        own = weights if name in shared or heads == "weighted" else dict.fromkeys(weights, 1.0)
        assert_near(parameter.grad, plain.combined(own, name), relative)
