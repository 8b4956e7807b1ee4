"""RotoGrad."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlrun.settings import check_whole
from mtlrun.weighting._absent import KeepsAbsent
from mtlrun.weighting._channels import by_channel
from mtlrun.weighting.base import JacobianWeighting, TaskInfo


class Rotation(nn.Module):
    """Rotates the first channels of features: [N, C], [N, C, H, W], or sequences [N, L, C].

    Args:
        size: how many channels.
    """

    matrix: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(size))

    def forward(self, features: Tensor) -> Tensor:
        """The features with each position's first channels multiplied by the matrix."""
        if features.ndim == 3:
            return self._rotated(features.mT).mT
        return self._rotated(features)

    def _rotated(self, features: Tensor) -> Tensor:
        size = len(self.matrix)
        rotated = torch.einsum("ij,nj...->ni...", self.matrix, features[:, :size])
        if size == features.shape[1]:
            return rotated
        return torch.cat([rotated, features[:, size:].to(rotated)], dim=1)


NONE = 1e-30
"""Length of a gradient, relative to the longest one, up to which it counts as none."""


class RotoGrad(KeepsAbsent, JacobianWeighting):
    """RotoGrad (Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR
    2022).

    Each head i reads the shared representation z through a rotation of its own, r_i = R_i z. With
    G_i the gradients dL_i/dz of the rows of the batch, U_i = G_i / |G_i| and G_i^0 those of an
    early step, lengths are made equal, and slowly converging tasks set the common length:

        alpha_i = (|G_i| / |G_i^0|) / sum_j (|G_j| / |G_j^0|),   C = sum_i alpha_i |G_i|
        direction at z = C (U_1 + ... + U_T)

    Rotations make directions agree. They are trained on their own objective, with the mean v of
    the U_i and the gradients dL_i/dr_i held constant,

        L_rot = -sum_i sum_n < R_i' dL_i/dr_i,n , v_n >,

    and not by the tasks' losses. R_i is the matrix exponential of a skew-symmetric matrix, the
    identity at first. Since dL_i/dr_i = R_i dL_i/dz, the objective is known from the gradients at z
    alone. On maps and sequences channels are rotated, at all positions alike; the sum is over
    these, too.
    The paper's convergence result asks for a learning rate below the network's.

    Published code (adrianjav/rotograd) has the squared distance of R_i v to dL_i/dr_i, averaged
    over rows, for the objective, with v |mean of the G_i| times as long: the same gradient up to a
    factor, which Adam takes out. It weakens the rotations' learning rate by 0.99999 a step.

    Args:
        size: channels that are rotated, 2 or more. None means all; each step takes matrix
            exponentials of size x size, so choose fewer for wide representations.
        burn_in: step whose gradients take the place of the first step's as G_i^0, 0 or more; a
            task's steps are counted.
        learning_rate: of the rotations. None means the network's, as in the published example.
        tasks: the tasks of the run.
        channels: of the representation.

    Raises:
        ValueError: a size below 2 or above the number of channels; a burn_in that is no whole
            number, or below 0.
    """

    place = "representation"
    sees_representation = True
    is_weighted_sum = True
    claims = frozenset({"homogeneous", "impartial"})
    initial_lengths: Tensor
    steps: Tensor

    def __init__(
        self,
        size: int | None = None,
        burn_in: int = 20,
        learning_rate: float | None = None,
        *,
        tasks: Sequence[TaskInfo],
        channels: int,
    ) -> None:
        super().__init__()
        size = channels if size is None else size
        if not 2 <= size <= channels:
            raise ValueError(
                f"size={size}: must be 2 or more, and at most {channels}, the channels of the "
                "representation"
            )
        check_whole("burn_in", burn_in, 0)
        self.size = size
        self.burn_in = burn_in
        self.learning_rate = learning_rate
        self.angles = nn.Parameter(torch.zeros(len(tasks), size * (size - 1) // 2))
        lengths = torch.full((len(tasks),), torch.nan, dtype=torch.float64)
        self.register_buffer("initial_lengths", lengths)  # NaN: not seen yet
        self.register_buffer("steps", torch.zeros(len(tasks), dtype=torch.int64))
        # The network's, so no submodules here.
        self.__dict__["_adapters"] = {task.name: Rotation(size) for task in tasks}

    def adapters(self) -> Mapping[str, nn.Module]:
        """See :meth:`Weighting.adapters`: the rotations."""
        adapters: Mapping[str, nn.Module] = self.__dict__["_adapters"]
        return adapters

    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        """See :meth:`JacobianWeighting.direction`; fills the gradient of the rotations."""
        del losses
        assert self.representation is not None
        lengths = torch.linalg.vector_norm(jacobian, dim=1, dtype=torch.float64)
        # A gradient so much smaller than another one is none: its inverse would leave float32.
        inverse = torch.where(lengths > NONE * lengths.max(), 1 / lengths, 0.0)
        ratios = self._ratios(lengths)
        common = (ratios * lengths).sum() / torch.where(lengths.any(), ratios.sum(), 1.0)
        self.task_weights = (common * inverse).to(jacobian)
        gradients = by_channel(jacobian, self.representation)
        self._train(gradients[:, :, : self.size], inverse.to(jacobian))
        return self.task_weights @ jacobian

    def _ratios(self, lengths: Tensor) -> Tensor:
        """|G_i| / |G_i^0|, [T]; notes the lengths of early steps."""
        initial, steps = self.pick(self.initial_lengths), self.pick(self.steps)
        noted = (initial.isnan() | (steps == self.burn_in)) & (lengths > 0)
        initial = torch.where(noted, lengths, initial)
        self.put(self.initial_lengths, initial)
        self.put(self.steps, steps + 1)
        return torch.where(lengths > 0, lengths / initial, 0.0)

    def _train(self, gradients: Tensor, inverse: Tensor) -> None:
        """The gradient of the objective by the angles.

        Args:
            gradients: of the channels that are rotated, [T, N, size, positions].
            inverse: 1 / |G_i|, [T].
        """
        mean = torch.tensordot(inverse, gradients, dims=1) / len(gradients)  # v, [N, size, P]
        products = torch.einsum("tnip,njp->tij", gradients, mean)
        with torch.enable_grad():
            rotations = self.rotations(self.shown(self.angles))
            rotated = rotations.detach() @ products
            (self.angles.grad,) = torch.autograd.grad(-(rotations * rotated).sum(), self.angles)

    def rotations(self, angles: Tensor) -> Tensor:
        """The rotations of angles [T, size (size - 1) / 2], [T, size, size]."""
        row, column = torch.tril_indices(self.size, self.size, -1, device=angles.device)
        lower = angles.new_zeros(len(angles), self.size, self.size)
        tasks = torch.arange(len(angles), device=angles.device)[:, None]
        lower = lower.index_put((tasks, row, column), angles)
        rotations: Tensor = torch.matrix_exp(lower - lower.mT)
        return rotations

    @torch.no_grad()
    def after_step(self) -> None:
        """Hand the rotations of the step's tasks to the network; absent tasks keep theirs."""
        super().after_step()
        adapters = list(self.adapters().values())
        present = [adapters[index] for index in self.step.present]
        for adapter, matrix in zip(present, self.rotations(self.pick(self.angles)), strict=True):
            assert isinstance(adapter, Rotation)
            adapter.matrix.copy_(matrix)
