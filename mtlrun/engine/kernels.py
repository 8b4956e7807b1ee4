"""Layers whose task gradients need not be formed: inputs and output gradients say the same.

The gradient of a layer y = x W' + b for task t is the product of the gradients d_t on its outputs,
[N, out], with its inputs x, [N, in], where N is the number of rows times positions. So

    <dW_s, dW_t> + <db_s, db_t> = <d_s, (x x' + 1) d_t>          and
    sum_t w_t dW_t = (sum_t w_t d_t)' x,

and T products of the size of the weight become one [N, N] kernel and T small products with it.
Where N is small beside the layer's fan-in and T times its outputs, that is cheaper, and it holds
[T, N, out] numbers instead of [T, out, in]. An embedding is the same with 1 where two positions
hold the same word and 0 elsewhere.

The inputs come from forward hooks, and the output gradients from autograd, asked for the edges of
its graph: an edge, unlike the tensor, outlives an in-place activation.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from mtlrun.engine.gradients import inner_products
from mtlrun.engine.graph import Graph, hooked

MARGIN = 0.5
"""Multiply-adds of the kernel form over those of T weight gradients, below which it is used."""


class Kernel(ABC):
    """One call of one layer in this step, its inputs and a place for the gradients on its outputs.

    Args:
        module: the layer.
        inputs: its inputs, detached.
        edge: of its output in autograd's graph.
        shape: of its output.
    """

    def __init__(
        self, module: nn.Module, inputs: Tensor, edge: GradientEdge, shape: torch.Size
    ) -> None:
        self.module = module
        self.inputs = inputs
        self.edge = edge
        self.shape = shape
        self.version = inputs._version
        self.weight = cast(nn.Parameter, module.weight)
        self.bias = cast("nn.Parameter | None", getattr(module, "bias", None))
        self.buffer = torch.empty(0)
        """Output gradients of the tasks, [T, *shape]."""
        self.reached = False

    @property
    @abstractmethod
    def size(self) -> tuple[int, int, int]:
        """Positions N, fan-in and outputs of the layer."""

    @abstractmethod
    def matrix(self) -> tuple[Tensor, bool]:
        """The kernel, [N, N], and whether positions come last in :meth:`deltas`."""

    @abstractmethod
    def deltas(self, buffer: Tensor) -> Tensor:
        """Output gradients as [T, N, out], or as [T, out, N] where positions come last."""

    @abstractmethod
    def weight_gradient(self, delta: Tensor) -> Tensor:
        """The gradient on the weight from one gradient on the outputs, [*shape]."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weight, and the bias where there is one."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def cheaper(self, tasks: int) -> bool:
        """Whether this form costs less than ``tasks`` weight gradients."""
        positions, fan_in, outputs = self.size
        return positions * (1 / (tasks * outputs) + 1 / fan_in) < MARGIN

    def exact(self, graph: Graph) -> bool:
        """Whether the layer's parameters act here alone, on inputs still as they were."""
        return self.inputs._version == self.version and all(
            graph.used_only_by(parameter, self.edge.node) for parameter in self.parameters
        )

    def write(self, place: int, delta: Tensor | None) -> None:
        """Put one task's gradient on the outputs into its place; None where it has none."""
        if delta is None:
            self.buffer[place].zero_()
        else:
            self.buffer[place].copy_(delta)
            self.reached = True

    def gramian(self) -> Tensor:
        """The layer's part of the Gramian, [T, T], float64."""
        kernel, last = self.matrix()
        if self.bias is not None:
            kernel += 1
        deltas = self.deltas(self.buffer)
        products = deltas @ kernel if last else kernel @ deltas
        return inner_products(deltas.flatten(1), products.flatten(1))

    def combine(self, weights: Tensor) -> None:
        """Fill ``.grad`` of the layer's parameters with the weighted sum over the tasks."""
        for parameter in self.parameters:
            parameter.grad = None
        if not self.reached:
            return
        delta = torch.tensordot(weights.to(self.buffer), self.buffer, dims=1)
        for parameter, gradient in zip(self.parameters, self._gradients(delta), strict=True):
            parameter.grad = gradient

    def of_task(self, place: int) -> list[Tensor | None]:
        """One task's gradients on :attr:`parameters`; None where no task reaches the layer."""
        if not self.reached:
            return [None for _ in self.parameters]
        return [*self._gradients(self.buffer[place])]

    def _gradients(self, delta: Tensor) -> list[Tensor]:
        """Gradients on :attr:`parameters` from one gradient on the outputs."""
        gradient = self.weight_gradient(delta)
        if gradient.stride() != self.weight.stride():  # fused optimizers do not look at strides
            gradient = torch.empty_like(self.weight).copy_(gradient)
        return [gradient] if self.bias is None else [gradient, self.bias_gradient(delta)]

    def bias_gradient(self, delta: Tensor) -> Tensor:
        """The gradient on the bias from one gradient on the outputs."""
        return delta.reshape(-1, delta.shape[-1]).sum(dim=0)


class LinearKernel(Kernel):
    """A linear layer: inputs [..., in], outputs [..., out]."""

    @property
    def size(self) -> tuple[int, int, int]:
        """See :attr:`Kernel.size`."""
        outputs, fan_in = self.weight.shape
        return self.shape.numel() // outputs, fan_in, outputs

    def matrix(self) -> tuple[Tensor, bool]:
        """See :meth:`Kernel.matrix`."""
        rows = self.inputs.reshape(-1, self.inputs.shape[-1]).to(self.buffer)
        return rows @ rows.T, False

    def deltas(self, buffer: Tensor) -> Tensor:
        """See :meth:`Kernel.deltas`."""
        return buffer.reshape(len(buffer), -1, buffer.shape[-1])

    def weight_gradient(self, delta: Tensor) -> Tensor:
        """See :meth:`Kernel.weight_gradient`."""
        rows = self.inputs.reshape(-1, self.inputs.shape[-1]).to(delta)
        return delta.reshape(-1, delta.shape[-1]).T @ rows


class ConvolutionKernel(Kernel):
    """A convolution over maps: inputs [B, in, H, W], outputs [B, out, H', W']."""

    @property
    def size(self) -> tuple[int, int, int]:
        """See :attr:`Kernel.size`."""
        outputs = len(self.weight)
        return self.shape.numel() // outputs, self.weight[0].numel(), outputs

    def matrix(self) -> tuple[Tensor, bool]:
        """See :meth:`Kernel.matrix`."""
        module = cast(nn.Conv2d, self.module)
        padding = cast("tuple[int, int]", module.padding)
        columns = F.unfold(
            self.inputs.to(self.buffer),
            module.kernel_size,
            module.dilation,
            padding,
            module.stride,
        )  # [B, fan-in, positions]
        rows = columns.transpose(1, 2).reshape(-1, columns.shape[1])
        return rows @ rows.T, True

    def deltas(self, buffer: Tensor) -> Tensor:
        """See :meth:`Kernel.deltas`."""
        tasks, _, outputs = buffer.shape[:3]
        return buffer.flatten(3).transpose(1, 2).reshape(tasks, outputs, -1)

    def weight_gradient(self, delta: Tensor) -> Tensor:
        """See :meth:`Kernel.weight_gradient`."""
        module = cast(nn.Conv2d, self.module)
        gradient: Tensor = conv2d_weight(
            self.inputs.to(delta),
            self.weight.shape,
            delta,
            module.stride,
            cast("tuple[int, int]", module.padding),
            module.dilation,
        )
        return gradient

    def bias_gradient(self, delta: Tensor) -> Tensor:
        """See :meth:`Kernel.bias_gradient`."""
        return delta.sum(dim=(0, 2, 3))


class EmbeddingKernel(Kernel):
    """A table of vectors: inputs [...] are row numbers, outputs [..., width]."""

    @property
    def size(self) -> tuple[int, int, int]:
        """See :attr:`Kernel.size`."""
        rows, width = self.weight.shape
        return self.inputs.numel(), rows, width

    def matrix(self) -> tuple[Tensor, bool]:
        """See :meth:`Kernel.matrix`."""
        numbers = self.inputs.reshape(-1)
        same = numbers[:, None] == numbers
        padding = cast(nn.Embedding, self.module).padding_idx
        if padding is not None:
            same &= numbers != padding
        return same.to(self.buffer), False

    def deltas(self, buffer: Tensor) -> Tensor:
        """See :meth:`Kernel.deltas`."""
        return buffer.reshape(len(buffer), -1, buffer.shape[-1])

    def weight_gradient(self, delta: Tensor) -> Tensor:
        """See :meth:`Kernel.weight_gradient`."""
        numbers = self.inputs.reshape(-1)
        rows = delta.reshape(-1, delta.shape[-1])
        padding = cast(nn.Embedding, self.module).padding_idx
        if padding is not None:
            kept = numbers != padding
            numbers, rows = numbers[kept], rows[kept]
        return torch.zeros_like(self.weight).index_add_(0, numbers, rows)


def kind_of(module: nn.Module) -> type[Kernel] | None:
    """The kernel form that a module has; None where it has none.

    Subclasses, and layers with hooks or a forward of their own, may compute something else.
    """
    if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
        return None
    if type(module) is nn.Linear:
        return LinearKernel
    if type(module) is nn.Conv2d:
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return ConvolutionKernel if plain and module.groups == 1 else None
    if type(module) is nn.Embedding:
        plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
        return EmbeddingKernel if plain else None
    return None


class Taps:
    """Notes the layers that a forward pass goes through and that have a kernel form.

    Args:
        trunk: the part of the network that tasks share.
        shared: its trainable parameters; a layer counts where all of its parameters are among them.
    """

    def __init__(self, trunk: nn.Module, shared: Sequence[nn.Parameter]) -> None:
        known = {id(parameter) for parameter in shared}
        owners: dict[int, int] = {}
        for module in trunk.modules():
            for parameter in module._parameters.values():
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        self.layers = [
            module
            for module in trunk.modules()
            if kind_of(module) is not None
            and all(
                id(p) in known and owners[id(p)] == 1
                for p in module._parameters.values()
                if p is not None
            )
            and isinstance(module._parameters.get("weight"), nn.Parameter)
        ]
        self.calls: dict[nn.Module, Kernel | None] = {}

    def listening(self) -> AbstractContextManager[None]:
        """Note the calls of this forward pass. The hooks are gone afterwards."""
        self.calls = {}
        return hooked(self.layers, self._note)

    def _note(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        if module in self.calls or len(arguments) != 1 or not output.requires_grad:
            self.calls[module] = None  # called twice, or in a way that is not known here
            return
        kind = _KINDS[type(module)]
        inputs = arguments[0]
        if kind is ConvolutionKernel and inputs.ndim != 4:
            self.calls[module] = None
            return
        edge = get_gradient_edge(output)
        self.calls[module] = kind(module, inputs.detach(), edge, output.shape)

    def take(self, graph: Graph, tasks: int) -> list[Kernel]:
        """The layers of the noted pass for which the kernel form is exact and cheaper."""
        calls, self.calls = self.calls, {}
        return [
            call
            for call in calls.values()
            if call is not None and call.cheaper(tasks) and call.exact(graph)
        ]


_KINDS: dict[type[nn.Module], type[Kernel]] = {
    nn.Linear: LinearKernel,
    nn.Conv2d: ConvolutionKernel,
    nn.Embedding: EmbeddingKernel,
}
