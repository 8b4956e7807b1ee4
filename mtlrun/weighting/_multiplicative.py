"""The multiplicative update of task weights."""

from torch import Tensor


def reweigh(logits: Tensor, changes: Tensor) -> Tensor:
    """w_i <- w_i exp(change_i) in logarithms, scaled back to the sum that these weights had.

    So tasks that are absent from a step keep both their weight and their share.

    Args:
        logits: log w, [T].
        changes: [T].

    Returns:
        [T].
    """
    moved = logits + changes
    kept: Tensor = moved + (logits.logsumexp(dim=0) - moved.logsumexp(dim=0))
    return kept
