"""Residual blocks: a branch beside a shortcut."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


class Residual(nn.Module):
    """``close(branch(x) + shortcut(x))``: a block that can be skipped.

    Attributes:
        gate: what the branch is multiplied by in this pass (a scalar tensor); None for 1. See
            :func:`gated`.
    """

    gate: Tensor | None = None

    def branch(self, features: Tensor) -> Tensor:
        """What the block adds to its shortcut."""
        raise NotImplementedError  # abstract

    def shortcut(self, features: Tensor) -> Tensor:
        """The features, brought to the branch's shape."""
        return features

    def close(self, features: Tensor) -> Tensor:
        """What is done to the sum: nothing, or an activation."""
        return features

    def forward(self, features: Tensor) -> Tensor:
        """Features behind the block."""
        branch = self.branch(features)
        if self.gate is not None:
            branch = branch * self.gate
        return self.close(branch + self.shortcut(features))


def residual_blocks(module: nn.Module) -> list[Residual]:
    """The residual blocks inside a module, in their order."""
    return [part for part in module.modules() if isinstance(part, Residual)]


@contextmanager
def gated(blocks: Sequence[Residual], gates: Iterable[Tensor]) -> Iterator[None]:
    """Passes inside see each block's branch times its gate."""
    try:
        for block, gate in zip(blocks, gates, strict=True):
            block.gate = gate
        yield
    finally:
        for block in blocks:
            block.gate = None
