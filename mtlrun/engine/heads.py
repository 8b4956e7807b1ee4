"""The heads' part of a backward pass: once for each task, on detached features."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mtlrun.engine.backward import Forward
from mtlrun.engine.shared_gradients import SharedGradients, from_graph
from mtlrun.types import Batch

OwnGradients = dict[nn.Parameter, Tensor]
"""Gradients of the parameters that one task alone trains."""


@dataclass
class HeadPass:
    """What one walk through the heads gives, for the tasks of a (micro-)batch.

    Attributes:
        features: the tensor that each task reads, part of the trunk's graph.
        cotangents: gradient of each task's loss on it.
        losses: the scalar losses, detached.
        own: gradients on each task's head.
        linked: the cotangents as functions of the heads' parameters, where asked for.
    """

    features: list[Tensor]
    cotangents: list[Tensor]
    losses: list[Tensor]
    own: list[Sequence[Tensor | None]]
    linked: list[Tensor] = field(default_factory=list)

    @property
    def one_tensor(self) -> bool:
        """Whether all tasks read the very same tensor."""
        return all(tensor is self.features[0] for tensor in self.features)


def walk_heads(
    forward: Forward,
    heads: Sequence[Sequence[nn.Parameter]],
    batch: Batch,
    present: Sequence[int],
    features: dict[str, Tensor],
    *,
    link: bool = False,
) -> HeadPass:
    """Losses, and their gradients on the heads and on what these read.

    Args:
        forward: how the network is called.
        heads: for each task of the run the trainable parameters of its head.
        batch: the (micro-)batch.
        present: the tasks with labels in it.
        features: what the trunk gave for them.
        link: whether to keep the heads' graph, so that cotangents can be differentiated.
    """
    leaves: dict[int, Tensor] = {}
    result = HeadPass([], [], [], [])
    for index in present:
        tensor = features[forward.names[index]]
        leaf = leaves.get(id(tensor))
        if leaf is None:
            leaf = leaves[id(tensor)] = tensor.detach().requires_grad_()
        loss = forward.loss(batch, index, leaf)
        wanted = [leaf, *heads[index]]
        cotangent, *own = torch.autograd.grad(loss, wanted, allow_unused=True, create_graph=link)
        cotangent = torch.zeros_like(leaf) if cotangent is None else cotangent
        if link:
            result.linked.append(cotangent)
            cotangent = cotangent.detach()
            own = [None if gradient is None else gradient.detach() for gradient in own]
        result.features.append(tensor)
        result.cotangents.append(cotangent)
        result.losses.append(loss.detach())
        result.own.append(own)
    return result


def combined_cotangents(
    heads: HeadPass, scales: Sequence[float]
) -> tuple[list[Tensor], list[Tensor]]:
    """The distinct tensors that the heads read, and the weighted sums of the gradients on them."""
    combined: dict[int, tuple[Tensor, Tensor]] = {}
    for tensor, cotangent, scale in zip(heads.features, heads.cotangents, scales, strict=True):
        _, total = combined.get(id(tensor), (tensor, torch.zeros_like(cotangent)))
        combined[id(tensor)] = (tensor, total.add_(cotangent, alpha=scale))
    return [tensor for tensor, _ in combined.values()], [total for _, total in combined.values()]


def trunk_gradients(heads: HeadPass, parameters: Sequence[nn.Parameter]) -> SharedGradients:
    """Task gradients on the trunk's parameters, whose graph is kept for that."""
    return SharedGradients(from_graph(heads.features, heads.cotangents, parameters))


def rows_on(heads: HeadPass, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Task gradients on a few of the trunk's parameters, [T, columns]; the graph is kept."""
    rows = []
    for tensor, cotangent in zip(heads.features, heads.cotangents, strict=True):
        gradients = torch.autograd.grad(
            tensor, parameters, cotangent, retain_graph=True, allow_unused=True
        )
        parts = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def add_own(
    own: OwnGradients,
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor | None],
    share: float,
) -> None:
    """Add a micro-batch's gradients, times its share, to those of one task's own parameters."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        part = gradient if share == 1 else gradient * share
        own[parameter] = own[parameter] + part if parameter in own else part


def give_own(own: Sequence[OwnGradients], scales: Sequence[float]) -> None:
    """Fill ``.grad`` of the parameters of single tasks with their gradients times the scales."""
    for gradients, scale in zip(own, scales, strict=True):
        if not gradients:  # all of the task's own parameters are frozen
            continue
        # New tensors: what autograd returns may be shared between parameters, and clipping works
        # in place.
        scaled = torch._foreach_mul(list(gradients.values()), scale)
        for parameter, gradient in zip(gradients, scaled, strict=True):
            parameter.grad = _laid_out_as(parameter, gradient)


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those of the parameters that are trained."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def _laid_out_as(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """The gradient in the parameter's memory order: fused optimizers do not look at strides."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
