"""The confusion matrix that metrics of classes follow from."""

import torch
from torch import Tensor


def confusion_matrix(logits: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """How often each class was predicted as each, over the labelled elements.

    Elements without a label fall into one cell more, which is cut off: none has to be picked, and
    so nothing has to be read back from the device.

    Args:
        logits: [N, classes, ...].
        target: int64 [N, ...].
        labelled: bool [N, ...].

    Returns:
        int64 [classes (true), classes (predicted)].
    """
    size = logits.shape[1]
    cell = torch.where(labelled, target * size + logits.argmax(1), size * size).flatten()
    counts = torch.zeros(size * size + 1, dtype=torch.int64, device=cell.device)
    counts.scatter_add_(0, cell, torch.ones_like(cell))
    return counts[:-1].view(size, size)
