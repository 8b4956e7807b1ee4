"""Task gradients on the shared parameters: three ways to get their Gramian and a weighted sum.

* :class:`PlainRows`: one backward pass through the trunk a task, its gradients in a row of a
  buffer. Serves every method and any number of batches.
* :class:`SweptRows`: the same passes, but layers for which it is cheaper show their output
  gradients only (:mod:`mtlrun.engine.kernels`). One batch, for methods that see its Gramian.
* :class:`~mtlrun.engine.segments.SegmentRows`: where rows do not fit into memory, they are formed
  for one part of the trunk at a time, and a second backward pass makes the sum.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mtlrun.engine.gradients import TaskGradients, gramian
from mtlrun.engine.graph import Graph
from mtlrun.engine.heads import HeadPass
from mtlrun.engine.kernels import Kernel, Taps
from mtlrun.engine.shared_gradients import TaskGradient

Extra = Sequence[Sequence[nn.Parameter]]
"""For each task of a pass, parameters beside the shared ones whose gradients are wanted."""

FEWEST_BATCHED = 4
"""Tasks from which on one batched backward pass is tried: below, it saves nothing."""

MOST_BATCHED = 1_000_000
"""Numbers a task that a batched pass may give: above, it only makes the working set larger."""


class Rows(ABC):
    """One step's task gradients on the shared parameters."""

    @abstractmethod
    def start(self) -> None:
        """Forget the last step."""

    def noting(self) -> AbstractContextManager[None]:
        """What the trunk's forward pass has to run in."""
        return nullcontext()

    @abstractmethod
    def collect(
        self, heads: HeadPass, places: Sequence[int], shares: Sequence[float], extra: Extra
    ) -> list[Sequence[Tensor | None]]:
        """Walk the trunk backward for each task of a (micro-)batch.

        Args:
            heads: from the heads.
            places: the row of each of its tasks.
            shares: what each task's gradient is multiplied by.
            extra: see :data:`Extra`.

        Returns:
            for each task the gradients on its extra parameters.
        """

    @abstractmethod
    def gramian(self, tasks: int) -> Tensor:
        """Inner products of the rows, [tasks, tasks], float64."""

    def hold(self) -> Callable[[int], TaskGradient] | None:
        """The rows one by one, also after :meth:`combine`, until the next step is collected.

        Called before :meth:`combine`. None where rows are never there as a whole.
        """
        return None

    @abstractmethod
    def combine(self, weights: Tensor) -> None:
        """Make the weighted sum of the rows the ``.grad`` of the shared parameters.

        A parameter that no task reached keeps ``.grad`` None, so that weight decay and momentum
        leave it alone.

        Args:
            weights: one for each row.
        """


class PlainRows(Rows):
    """Every gradient in full.

    Args:
        shared: the shared parameters.
        rows: the most rows that a step can need.
    """

    def __init__(self, shared: Sequence[nn.Parameter], rows: int) -> None:
        self.shared = list(shared)
        self.held = TaskGradients(shared, rows)
        self._written: set[int] = set()

    def start(self) -> None:
        """See :meth:`Rows.start`."""
        self.held.start()
        self._written = set()

    def clear(self, places: Sequence[int]) -> None:
        """Rows of zeros, for tasks that are absent from one of several batches."""
        for place in places:
            self.held.buffer[place].zero_()

    def collect(
        self, heads: HeadPass, places: Sequence[int], shares: Sequence[float], extra: Extra
    ) -> list[Sequence[Tensor | None]]:
        """See :meth:`Rows.collect`. Rows of several micro-batches add up."""
        return [
            self._collect_one(heads, number, place, share, extra[number], number + 1 < len(places))
            for number, (place, share) in enumerate(zip(places, shares, strict=True))
        ]

    def _collect_one(
        self,
        heads: HeadPass,
        number: int,
        place: int,
        share: float,
        extra: Sequence[nn.Parameter],
        more: bool,
    ) -> Sequence[Tensor | None]:
        """One task's pass. Its gradients are not held while the next task's are formed."""
        cotangent = heads.cotangents[number]
        gradients = torch.autograd.grad(
            heads.features[number],
            [*self.shared, *extra],
            cotangent if share == 1 else cotangent * share,
            retain_graph=more,
            allow_unused=True,
        )
        self.held.write(place, gradients[: len(self.shared)], add=place in self._written)
        self._written.add(place)
        return gradients[len(self.shared) :]

    def gramian(self, tasks: int) -> Tensor:
        """See :meth:`Rows.gramian`."""
        return gramian(self.held.rows(tasks))

    def hold(self) -> Callable[[int], TaskGradient]:
        """See :meth:`Rows.hold`."""
        first = self.held.cells(0)  # what comes overwrites it
        return lambda place: self.held.cells(place) if place else first

    def combine(self, weights: Tensor) -> None:
        """See :meth:`Rows.combine`."""
        self.held.combine(weights)


class SweptRows(Rows):
    """Gradients in the kernel form where that is cheaper, and in full elsewhere.

    Args:
        trunk: the part of the network that holds the shared parameters.
        shared: these.
        tasks: number of tasks of the run.
    """

    def __init__(self, trunk: nn.Module, shared: Sequence[nn.Parameter], tasks: int) -> None:
        self.shared = list(shared)
        self.tasks = tasks
        self.taps = Taps(trunk, shared)
        self.kernels: list[Kernel] = []
        self.dense = TaskGradients([], tasks)
        self.batchable = True
        self._buffers: dict[nn.Module, Tensor] = {}

    def start(self) -> None:
        """See :meth:`Rows.start`."""
        self.kernels = []

    def noting(self) -> AbstractContextManager[None]:
        """See :meth:`Rows.noting`."""
        return self.taps.listening()

    def collect(
        self, heads: HeadPass, places: Sequence[int], shares: Sequence[float], extra: Extra
    ) -> list[Sequence[Tensor | None]]:
        """See :meth:`Rows.collect`, for one batch whose shares are 1."""
        assert all(share == 1 for share in shares)
        graph = Graph(heads.features)
        self.kernels = self.taps.take(graph, self.tasks)
        self._place_dense()
        edges = [kernel.edge for kernel in self.kernels]
        if self._batched(heads, graph, extra) and self._collect_batched(heads, edges):
            return [() for _ in places]
        self._place_buffers(len(places))
        return [
            self._collect_one(heads, number, place, extra[number], number + 1 < len(places))
            for number, place in enumerate(places)
        ]

    def _collect_one(
        self, heads: HeadPass, number: int, place: int, extra: Sequence[nn.Parameter], more: bool
    ) -> Sequence[Tensor | None]:
        """One task's pass. Its gradients are not held while the next task's are formed."""
        edges = [kernel.edge for kernel in self.kernels]
        gradients = torch.autograd.grad(
            heads.features[number],
            [*edges, *self.dense.parameters, *extra],  # type: ignore[arg-type]  # a mixture
            heads.cotangents[number],
            retain_graph=more,
            allow_unused=True,
        )
        for kernel, delta in zip(self.kernels, gradients, strict=False):
            kernel.write(place, delta)
        own = len(edges) + len(self.dense.parameters)
        self.dense.write(place, gradients[len(edges) : own], add=False)
        return gradients[own:]

    def _place_buffers(self, tasks: int) -> None:
        """Give each kernel its buffer, kept from step to step."""
        for kernel in self.kernels:
            weight = kernel.weight
            shape = (self.tasks, *kernel.shape)
            buffer = self._buffers.get(kernel.module)
            if buffer is None or buffer.shape != shape:
                buffer = torch.empty(shape, dtype=weight.dtype, device=weight.device)
                self._buffers[kernel.module] = buffer
            kernel.buffer = buffer[:tasks]

    def _place_dense(self) -> None:
        """Give the parameters that have no kernel their rows, kept from step to step."""
        tapped = {id(parameter) for kernel in self.kernels for parameter in kernel.parameters}
        dense = [parameter for parameter in self.shared if id(parameter) not in tapped]
        same = len(dense) == len(self.dense.parameters) and all(
            one is other for one, other in zip(dense, self.dense.parameters, strict=True)
        )
        if not same:
            self.dense = TaskGradients(dense, self.tasks)
        self.dense.start()

    def _batched(self, heads: HeadPass, graph: Graph, extra: Extra) -> bool:
        """Whether one batched pass serves: by sizes alone, so that runs can be repeated."""
        if len(heads.features) < FEWEST_BATCHED or any(extra):
            return False
        if not (self.batchable and graph.batchable):
            return False
        if not heads.one_tensor or not heads.features[0].is_cpu:
            return False
        numbers = sum(kernel.shape.numel() for kernel in self.kernels)
        return numbers + sum(p.numel() for p in self.dense.parameters) <= MOST_BATCHED

    def _collect_batched(self, heads: HeadPass, edges: Sequence[object]) -> bool:
        """One backward pass for all tasks; False where the trunk does not allow it."""
        try:
            gradients = torch.autograd.grad(
                heads.features[0],
                [*edges, *self.dense.parameters],  # type: ignore[arg-type]  # a mixture is allowed
                torch.stack(heads.cotangents),
                is_grads_batched=True,
                retain_graph=True,
                allow_unused=True,
            )
        except RuntimeError:  # a checkpointed part draws anew, which a batched pass forbids
            self.batchable = False
            return False
        for kernel, deltas in zip(self.kernels, gradients, strict=False):
            kernel.reached = deltas is not None
            if deltas is None:
                kernel.buffer = kernel.weight.new_zeros(len(heads.features), *kernel.shape)
            else:
                kernel.buffer = deltas.to(kernel.weight)
        rest = gradients[len(edges) :]
        for place in range(len(heads.features)):
            self.dense.write(place, [None if g is None else g[place] for g in rest], add=False)
        return True

    def gramian(self, tasks: int) -> Tensor:
        """See :meth:`Rows.gramian`."""
        total = gramian(self.dense.rows(tasks)).to(self.shared[0].device)
        for kernel in self.kernels:
            total += kernel.gramian()
        return (total + total.T) / 2

    def hold(self) -> Callable[[int], TaskGradient]:
        """See :meth:`Rows.hold`. Those of layers in the kernel form are formed when asked for."""
        kernels, first = self.kernels, self.dense.cells(0)

        def gradient(place: int) -> TaskGradient:
            found = dict(zip(self.dense.parameters, self.dense.cells(place), strict=True))
            if place == 0:
                found = dict(zip(self.dense.parameters, first, strict=True))
            for kernel in kernels:
                found |= dict(zip(kernel.parameters, kernel.of_task(place), strict=True))
            return [found[parameter] for parameter in self.shared]

        return gradient

    def combine(self, weights: Tensor) -> None:
        """See :meth:`Rows.combine`."""
        if self.dense.parameters:
            self.dense.combine(weights)
        for kernel in self.kernels:
            kernel.combine(weights)
        self.kernels = []  # they hold the step's inputs
