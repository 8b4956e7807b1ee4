"""Residual blocks: a branch beside a shortcut."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

Gate = Tensor | bool
"""What a branch is multiplied by, a scalar; True and False for 1 and 0 that cost nothing."""


class Residual(nn.Module):
    """``close(branch(x) + shortcut(x))``: a block that can be skipped.

    ``branch`` and ``shortcut`` read the same tensor, so neither changes it in place.

    Attributes:
        gate: in this pass, see :func:`gated`.
    """

    gate: Gate = True

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
        if self.gate is False:
            alone = self.shortcut(features)
            # What closes a block may work in place, on a sum; here that would be the block's input
            return self.close(alone.clone() if alone is features else alone)
        branch = self.branch(features)
        if self.gate is not True:
            branch = branch * self.gate
        return self.close(branch + self.shortcut(features))


def residual_blocks(module: nn.Module) -> list[Residual]:
    """The residual blocks inside a module, in their order."""
    return [part for part in module.modules() if isinstance(part, Residual)]


def around_last_block(stage: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
    """The features before a stage's last block and behind it.

    Where the stage is no Sequential of several parts whose last is a residual block, that is its
    output twice.
    """
    parts = list(stage.children()) if isinstance(stage, nn.Sequential) else [stage]
    if len(parts) == 1 or not isinstance(parts[-1], Residual):
        output = stage(features)
        return output, output
    for part in parts[:-1]:
        features = part(features)
    return features, parts[-1](features)


@contextmanager
def gated(blocks: Sequence[Residual], gates: Iterable[Gate]) -> Iterator[None]:
    """Passes inside see each block's branch times its gate; where that is False, there is none."""
    try:
        for block, gate in zip(blocks, gates, strict=True):
            # A module would register a parameter as its own; a view of it is not one
            block.gate = gate.view_as(gate) if isinstance(gate, Tensor) else gate
        yield
    finally:
        for block in blocks:
            block.gate = True
