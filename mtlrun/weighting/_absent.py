"""Tasks that are absent from a step."""

import torch
from torch import Tensor

from mtlrun.weighting.base import Weighting


@torch.no_grad()
def restore_absent(weighting: Weighting, parameter: Tensor, before: Tensor) -> None:
    """Give tasks that are absent from the step the values that they had before it.

    An optimizer with momentum moves them, too.

    Args:
        weighting: the method.
        parameter: of the method, with one row a task of the run.
        before: its values before the step.
    """
    if len(weighting.step.present) < len(parameter):
        kept = before.clone()
        weighting.put(kept, weighting.pick(parameter))
        parameter.copy_(kept)
