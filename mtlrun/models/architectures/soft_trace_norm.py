"""Networks whose weights, stacked, are kept of low rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.checks import expect_choice
from mtlrun.models.sharing.soft_sharing import SoftSharing

FORMS = ("last_axis", "tucker", "tensor_train")
REDUCTIONS = ("sum", "mean")

ROUNDING = 1e-14
"""Eigenvalues of a Gramian in float64 below this, times its size and its largest one, are 0."""


class SoftTraceNorm(SoftSharing):
    """Trace norm regularised networks (Yang and Hospedales, ICLR workshop 2017, section 2).

    One network a task, all of one shape. Each matrix or kernel of the chosen stages, stacked over
    the tasks along a last axis, is a tensor; the term ``trace_norm`` is the nuclear norm (the sum
    of the singular values) of its flattenings, which asks the tasks to reuse each other's weights:

    * ``last_axis``: all weights of a layer by tasks, one matrix of T columns;
    * ``tucker``: for each axis, that axis by all others;
    * ``tensor_train``: for each k, the first k axes by the others.

    Biases and norms' scales, which are vectors, are left out. The regulariser is the sum over
    flattenings and layers; the authors' code (wOOL/TNRDMTL) shows a mean over both, with the
    weight 0.001.

    The gradient is U V^T over the singular values that are not 0, the shortest one where there are
    several. All networks start equal, so that flattenings start with such values: each stack
    has rank 1 by tasks.

    Singular values come from the Gramian of a flattening's shorter side in float64: [T, T] for
    ``last_axis``, as large as a layer has channels for the others. Three tasks' kernels of
    512 x 512 x 3 x 3 cost one CPU core 0.3 s a step by ``last_axis``, 1.8 s by ``tucker`` and 1.2 s
    by ``tensor_train``. On a GPU eigenvalue problems wait for the device.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads.
        weight: of the term; 0 is ``single_task``.
        form: ``last_axis``, ``tucker`` or ``tensor_train``.
        reduction: over flattenings and layers, ``sum`` or ``mean``.
        stages: whose weights are stacked, counted from 1; None for all.

    Raises:
        ValueError: where a setting is wrong.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None = None,
        weight: float = 0.001,
        form: str = "last_axis",
        reduction: str = "sum",
        stages: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            make_backbone=make_backbone,
            streams=streams,
            reads=reads,
            term="trace_norm",
            weight=weight,
            stages=stages,
            dimensions=2,
        )
        expect_choice("architecture.form", form, FORMS)
        expect_choice("architecture.reduction", reduction, REDUCTIONS)
        self.form, self.reduction = form, reduction

    def penalty(self) -> Tensor:
        """The sum of the nuclear norms, or for ``mean`` the mean over layers of their means."""
        tensors = [torch.stack(parameters, -1) for parameters in self.corresponding]
        layers = [flattenings(tensor, self.form) for tensor in tensors]
        norms = nuclear_norms([matrix for matrices in layers for matrix in matrices])
        if self.reduction == "sum":
            return norms.sum()
        means = [part.mean() for part in norms.split([len(matrices) for matrices in layers])]
        return torch.stack(means).mean()


def flattenings(tensor: Tensor, form: str) -> list[Tensor]:
    """The matrices of a tensor whose nuclear norms count, see :class:`SoftTraceNorm`."""
    if form == "last_axis":
        return [tensor.flatten(0, -2)]
    if form == "tucker":
        return [tensor.movedim(axis, 0).flatten(1) for axis in range(tensor.dim())]
    return [tensor.flatten(0, axis - 1).flatten(1) for axis in range(1, tensor.dim())]


def nuclear_norms(matrices: Sequence[Tensor]) -> Tensor:
    """The sum of the singular values of each of K matrices, [K], with finite gradients."""
    norms: Tensor = _NuclearNorms.apply(*matrices)  # type: ignore[no-untyped-call]  # torch's
    return norms


class _NuclearNorms(torch.autograd.Function):
    """Nuclear norms; the gradient of |M| is U V^T = M (M^T M)^(-1/2)."""

    @staticmethod
    def forward(ctx: Any, *matrices: Tensor) -> Tensor:
        gramians = [_gramian(matrix.double()) for matrix in matrices]
        norms = [torch.empty(())] * len(matrices)
        roots = [torch.empty(())] * len(matrices)
        for size in sorted({len(gramian) for gramian in gramians}):  # those of a size at once
            places = [place for place, gramian in enumerate(gramians) if len(gramian) == size]
            squares, vectors = torch.linalg.eigh(torch.stack([gramians[p] for p in places]))
            some = squares > squares[:, -1:] * (size * ROUNDING)
            values = torch.where(some, squares, 1).sqrt()
            inverse = torch.where(some, 1 / values, 0)
            root = (vectors * inverse.unsqueeze(1)) @ vectors.mT
            for number, place in enumerate(places):
                norms[place] = torch.where(some, values, 0)[number].sum()
                roots[place] = root[number]
        ctx.save_for_backward(*matrices, *roots)
        return torch.stack(norms).to(matrices[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors
        half = len(saved) // 2
        return tuple(
            (_polar(matrix.double(), root) * gradient).to(matrix.dtype)
            for matrix, root, gradient in zip(saved[:half], saved[half:], gradients[0], strict=True)
        )


def _gramian(matrix: Tensor) -> Tensor:
    """Of the shorter side."""
    rows, columns = matrix.shape
    return matrix.mT @ matrix if columns <= rows else matrix @ matrix.mT


def _polar(matrix: Tensor, root: Tensor) -> Tensor:
    """U V^T, given the inverse root of the Gramian of the shorter side."""
    rows, columns = matrix.shape
    return matrix @ root if columns <= rows else root @ matrix
