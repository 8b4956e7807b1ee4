"""The Gramian where task gradients do not fit into memory: one part of the trunk at a time."""

from collections.abc import Container, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from mtlrun.engine.gradients import gramian
from mtlrun.engine.graph import hooked, leaf_of
from mtlrun.engine.heads import HeadPass, combined_cotangents
from mtlrun.engine.rows import Extra, Rows


@dataclass
class Frontier:
    """Where the walk down the trunk stands.

    Attributes:
        edges: for each task the edge in autograd's graph.
        cotangents: and the gradient of its loss there.
    """

    edges: list[GradientEdge]
    cotangents: list[Tensor]

    @property
    def nodes(self) -> list[Node]:
        """The distinct nodes of the edges."""
        return list(dict.fromkeys(edge.node for edge in self.edges))


class SegmentRows(Rows):
    """Rows of one part of the trunk at a time; the sum comes from a second backward pass.

    The trunk is cut at outputs of its modules through which everything below acts: so no parameter
    lies on both sides, tied weights and skip connections included. From the top, as many modules
    make a part as fit the budget. Each part costs one pass a task through it, which gives its rows,
    added to the Gramian and dropped, and the tasks' gradients on the output of the part below.

    Args:
        trunk: the part of the network that holds the shared parameters.
        shared: these.
        tasks: number of tasks of the run.
        budget: bytes that the rows of one part may take, where it can be cut so small.
    """

    def __init__(
        self, trunk: nn.Module, shared: Sequence[nn.Parameter], tasks: int, budget: float
    ) -> None:
        self.shared = {id(parameter): parameter for parameter in shared}
        self.modules = [m for m in trunk.modules() if m is not trunk and [*m.parameters()]]
        self.largest = budget / tasks
        self.outputs: list[GradientEdge] = []
        self.inner = torch.zeros(0)
        self._heads: HeadPass | None = None

    def start(self) -> None:
        """See :meth:`Rows.start`."""
        self.outputs = []
        self._heads = None

    def noting(self) -> AbstractContextManager[None]:
        """See :meth:`Rows.noting`."""
        return hooked(self.modules, self._note)

    def _note(self, _module: nn.Module, _arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            self.outputs.append(get_gradient_edge(output))

    def collect(
        self, heads: HeadPass, places: Sequence[int], shares: Sequence[float], extra: Extra
    ) -> list[Sequence[Tensor | None]]:
        """See :meth:`Rows.collect`, for one batch whose shares are 1."""
        assert all(share == 1 for share in shares)
        tasks = len(places)
        device = heads.cotangents[0].device
        self.inner = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)
        own: list[list[Tensor | None]] = [[None] * len(wanted) for wanted in extra]
        frontier: Frontier | None = Frontier(
            [get_gradient_edge(tensor) for tensor in heads.features], heads.cotangents
        )
        while frontier is not None:
            cut, above = self._next_cut(frontier.nodes)
            frontier = self._descend(frontier, cut, above, extra, own)
        self._heads = heads
        return list(own)

    def _next_cut(self, nodes: Sequence[Node]) -> tuple[GradientEdge | None, list[nn.Parameter]]:
        """The lowest cut whose part fits the budget (or else the highest), and the part."""
        best: tuple[GradientEdge | None, list[nn.Parameter]] | None = None
        while self.outputs:
            cut = self.outputs[-1]
            above = self._above(nodes, cut)
            if above is not None and above:
                size = sum(p.numel() * p.element_size() for p in above)
                if best is not None and size > self.largest:
                    return best
                best = cut, above
            self.outputs.pop()
        rest = [self.shared[key] for key in walk(nodes, None)[0] if key in self.shared]
        size = sum(p.numel() * p.element_size() for p in rest)
        return (None, rest) if best is None or size <= self.largest else best

    def _above(self, nodes: Sequence[Node], cut: GradientEdge) -> list[nn.Parameter] | None:
        """Shared parameters above a cut; None where it does not part them from those below."""
        above, found = walk(nodes, cut)
        if not found:
            return None
        below, _ = walk([cut.node], None)
        if any(key in below for key in above):
            return None
        return [self.shared[key] for key in above if key in self.shared]

    def _descend(
        self,
        frontier: Frontier,
        cut: GradientEdge | None,
        above: Sequence[nn.Parameter],
        extra: Extra,
        own: list[list[Tensor | None]],
    ) -> Frontier | None:
        """One part: its rows into the Gramian, and the gradients at the cut below it."""
        width = sum(parameter.numel() for parameter in above)
        first = frontier.cotangents[0]
        kind = above[0].dtype if above else torch.float32
        rows = torch.zeros(len(frontier.edges), width, dtype=kind, device=first.device)
        # What lies below the cut has its turn later: autograd would walk there past the cut.
        below = {} if cut is None else walk([cut.node], None)[0]
        found = [
            _walk_part(edge, cotangent, cut, above, rows[number], extra[number], below, own[number])
            for number, (edge, cotangent) in enumerate(
                zip(frontier.edges, frontier.cotangents, strict=True)
            )
        ]
        self.inner += gramian(rows)
        reached = next((cotangent for cotangent in found if cotangent is not None), None)
        if cut is None or reached is None:
            return None
        cotangents = [torch.zeros_like(reached) if part is None else part for part in found]
        return Frontier([cut] * len(cotangents), cotangents)

    def gramian(self, tasks: int) -> Tensor:
        """See :meth:`Rows.gramian`."""
        assert tasks == len(self.inner)
        return self.inner

    def combine(self, weights: Tensor) -> None:
        """See :meth:`Rows.combine`: a second backward pass."""
        assert self._heads is not None
        tensors, gradients = combined_cotangents(self._heads, weights.tolist())
        self._heads = None
        torch.autograd.backward(tensors, gradients)


def _walk_part(
    edge: GradientEdge,
    cotangent: Tensor,
    cut: GradientEdge | None,
    above: Sequence[nn.Parameter],
    row: Tensor,
    extra: Sequence[nn.Parameter],
    below: Container[int],
    own: list[Tensor | None],
) -> Tensor | None:
    """One task's pass through one part. Nothing else is held when the next task's begins.

    Args:
        edge: where the part begins.
        cotangent: the gradient there.
        cut: where it ends.
        above: its shared parameters.
        row: gets the gradients on them, [columns].
        extra: parameters of the task alone.
        below: those, by ``id``, that lie below the cut.
        own: gets the gradients on those of ``extra`` that do not.

    Returns:
        the gradient at the cut; None where there is none.
    """
    cuts = [] if cut is None else [cut]
    places = [place for place, parameter in enumerate(extra) if id(parameter) not in below]
    wanted = [*cuts, *above, *(extra[place] for place in places)]
    if not wanted:
        return None
    gradients = torch.autograd.grad(
        edge,
        wanted,  # type: ignore[arg-type]  # a mixture is allowed
        cotangent,
        retain_graph=True,
        allow_unused=True,
    )
    cells = row.split([parameter.numel() for parameter in above])
    for cell, gradient in zip(cells, gradients[len(cuts) :], strict=False):
        if gradient is not None:
            cell.view(gradient.shape).copy_(gradient)
    for place, gradient in zip(places, gradients[len(cuts) + len(above) :], strict=True):
        if gradient is not None:
            own[place] = gradient
    return gradients[0] if cuts else None


def walk(start: Sequence[Node], cut: GradientEdge | None) -> tuple[dict[int, None], bool]:
    """Parameters (by ``id``) behind some nodes, not through a cut, and whether that is met.

    Whatever passes beside the cut through another output of its node is met as well: then the
    parameters behind it show up on both sides.
    """
    found: dict[int, None] = {}
    met = False
    seen: set[Node] = set(start)
    todo = list(start)
    if cut is not None and cut.node in seen:
        return found, False
    while todo:
        node = todo.pop()
        children = node.next_functions
        if not children:
            variable = leaf_of(node)
            if variable is not None:
                found[id(variable)] = None
            continue
        for child, output in children:
            if child is None:
                continue
            if cut is not None and child is cut.node and output == cut.output_nr:
                met = True
                continue
            if child not in seen:
                seen.add(child)
                todo.append(child)
    return found, met
