"""Per-task gradients on the shared parameters, in buffers that are kept from step to step."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BLOCK = 65_536
"""Columns of the Jacobian multiplied at a time: float32 inside a block, float64 between blocks. On
2.8 million parameters that loses 1e-6 where one long float32 product loses 1e-3, and is faster."""


def gramian(rows: Tensor) -> Tensor:
    """Inner products of the rows of a Jacobian.

    Args:
        rows: [T, P], float32 or float64.

    Returns:
        [T, T], float64, on the device of ``rows``.
    """
    return inner_products(rows, rows)


def inner_products(first: Tensor, second: Tensor) -> Tensor:
    """Inner products of the rows of two matrices.

    Args:
        first: [T, P], float32 or float64.
        second: [S, P], likewise.

    Returns:
        [T, S], float64, on their device.
    """
    total = torch.zeros(len(first), len(second), dtype=torch.float64, device=first.device)
    for left, right in zip(first.split(BLOCK, dim=1), second.split(BLOCK, dim=1), strict=True):
        total += (left @ right.T).double()
    return total


class TaskGradients:
    """The Jacobian of the task losses on a list of parameters, one row a task.

    Args:
        parameters: what the columns stand for, in this order. All of one type and device.
        rows: the most rows that a step can need.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rows: int) -> None:
        self.parameters = list(parameters)
        sizes = [parameter.numel() for parameter in self.parameters]
        if parameters:
            first = self.parameters[0]
            self.buffer = torch.zeros(rows, sum(sizes), dtype=first.dtype, device=first.device)
        else:
            self.buffer = torch.zeros(rows, 0)
        self._cells = [self._split(row, sizes) for row in self.buffer]
        self._reached = [False] * len(self.parameters)

    def _split(self, flat: Tensor, sizes: list[int]) -> list[Tensor]:
        """Cells laid out in memory as their parameters: fused optimizers do not look at strides."""
        parts = flat.split(sizes)
        return [
            part.as_strided(p.shape, torch.empty_like(p).stride())
            for part, p in zip(parts, self.parameters, strict=True)
        ]

    def start(self) -> None:
        """Forget which parameters the tasks of the last step reached."""
        self._reached = [False] * len(self.parameters)

    def write(self, row: int, gradients: Sequence[Tensor | None], *, add: bool) -> None:
        """Put one task's gradients into its row, or add them to what a micro-batch left there.

        Args:
            row: the task's place among the tasks of this step.
            gradients: one for each parameter; None where the task does not reach it.
            add: whether to add.
        """
        cells = self._cells[row]
        reached_cells, reached_gradients = [], []
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                self._reached[index] = True
                reached_cells.append(cells[index])
                reached_gradients.append(gradient)
            elif not add:
                cells[index].zero_()
        if not reached_cells:
            return
        if add:
            torch._foreach_add_(reached_cells, reached_gradients)
        else:
            torch._foreach_copy_(reached_cells, reached_gradients)

    def rows(self, tasks: int) -> Tensor:
        """The Jacobian of this step, [tasks, P]: a view of the kept buffer."""
        return self.buffer[:tasks]

    def cells(self, row: int) -> list[Tensor | None]:
        """One row as gradients of the parameters; None for those that no task reached.

        They are views of the kept buffer: but :meth:`apply` and :meth:`combine` overwrite the first
        row, so that is a copy.
        """
        cells = self._cells[row]
        if row == 0:
            cells = [cell.clone() for cell in cells]
        return [
            cell if reached else None for cell, reached in zip(cells, self._reached, strict=True)
        ]

    def columns(self, parameters: Sequence[nn.Parameter], tasks: int) -> Tensor:
        """The part of the Jacobian that belongs to some of the parameters, [tasks, columns]."""
        wanted = {id(parameter) for parameter in parameters}
        cells = [
            torch.stack([self._cells[row][index].reshape(-1) for row in range(tasks)])
            for index, parameter in enumerate(self.parameters)
            if id(parameter) in wanted
        ]
        return torch.cat(cells, dim=1)

    def by_layer(self, layers: Sequence[Sequence[nn.Parameter]], tasks: int) -> list[Tensor]:
        """The parts of the Jacobian that belong to groups of neighbouring parameters.

        Args:
            layers: the parameters, in their order, in groups.
            tasks: of this step.

        Returns:
            views, [tasks, columns] each.
        """
        widths = [sum(parameter.numel() for parameter in layer) for layer in layers]
        return list(self.rows(tasks).split(widths, dim=1))

    def apply(self, direction: Tensor) -> None:
        """Make ``direction``, [P], the ``.grad`` of the parameters.

        A parameter that no task reached keeps ``.grad`` None, so that weight decay and momentum
        leave it alone.
        """
        self.buffer[0].copy_(direction)
        self._hand_out()

    def _hand_out(self) -> None:
        """The first row becomes ``.grad``: the rows have been used by now."""
        for parameter, update, reached in zip(
            self.parameters, self._cells[0], self._reached, strict=True
        ):
            parameter.grad = update if reached else None

    def combined(self, weights: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        """The weighted sum of the first rows, for each parameter that was reached."""
        rows = self.rows(len(weights))
        parts = self._split(weights.to(rows) @ rows, [p.numel() for p in self.parameters])
        return [
            (parameter, part)
            for parameter, part, reached in zip(self.parameters, parts, self._reached, strict=True)
            if reached
        ]

    def combine(self, weights: Tensor) -> None:
        """Make the weighted sum of this step's rows the ``.grad`` of the parameters.

        Args:
            weights: [rows of this step].
        """
        rows = self.rows(len(weights))
        scales = weights.to(rows)
        for block in rows.split(BLOCK, dim=1):
            block[0] = scales @ block
        self._hand_out()
