"""Numbers that a task needs on the device of its batches."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Constants:
    """A few numbers, [len(values)], made once on every device that asks for them.

    The device fills them in by itself: a copy from the host would make the host wait for it.

    Args:
        values: the numbers.
        dtype: of the tensors.
    """

    def __init__(self, values: Sequence[float], dtype: torch.dtype) -> None:
        self.values = tuple(values)
        self.dtype = dtype
        self._made: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """The numbers on that device."""
        if device not in self._made:
            # An evaluation may be the first to ask, and training must be able to use them too.
            with torch.inference_mode(False):
                parts = [torch.full((), v, dtype=self.dtype, device=device) for v in self.values]
                self._made[device] = torch.stack(parts)
        return self._made[device]
