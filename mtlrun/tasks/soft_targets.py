"""What several networks say together about classes, and the loss against it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.tasks.base import masked_mean


def precise(prediction: Tensor) -> Tensor:
    """A prediction in float32 or better."""
    return prediction.to(torch.promote_types(prediction.dtype, torch.float32))


def mean(parts: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape."""
    return torch.stack(list(parts)).mean(0)


def mean_of_softmax(predictions: Sequence[Tensor], temperature: float, dim: int) -> Tensor:
    """The mean over networks of their probabilities of classes that exclude each other.

    Args:
        predictions: of each network the logits, with the classes along ``dim``.
        temperature: that the logits are divided by.
        dim: the classes' dimension.
    """
    return mean([(precise(logits) / temperature).softmax(dim) for logits in predictions])


def mean_of_sigmoid(predictions: Sequence[Tensor], temperature: float) -> Tensor:
    """The mean over networks of the probabilities that each logit stands for."""
    return mean([(precise(logits) / temperature).sigmoid() for logits in predictions])


def soft_cross_entropy(
    logits: Tensor, soft: Tensor, known: Tensor, temperature: float, dim: int
) -> Tensor:
    """Cross-entropy to probabilities at a temperature, times its square, over labelled elements.

    The square keeps gradients as long as those of labels, whatever the temperature (Hinton, Vinyals
    and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2).

    Args:
        logits: with the classes along ``dim``.
        soft: probabilities, of the same shape.
        known: which elements carry a label: bool, of that shape without ``dim``.
        temperature: that the logits are divided by.
        dim: the classes' dimension.
    """
    errors = -(soft * (precise(logits) / temperature).log_softmax(dim)).sum(dim)
    return temperature**2 * masked_mean(errors, known)
