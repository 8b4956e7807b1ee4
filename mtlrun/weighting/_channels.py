"""Gradients at the representation, by channel."""

import torch
from torch import Tensor


def by_channel(jacobian: Tensor, representation: Tensor) -> Tensor:
    """Task gradients with the channels of the representation in one place, [T, N, C, positions].

    Args:
        jacobian: [T, P].
        representation: vectors [N, C], maps [N, C, H, W] or sequences [N, L, C], of P elements.
    """
    if representation.ndim == 3:
        return jacobian.view(-1, *representation.shape).mT
    return jacobian.view(len(jacobian), *representation.shape[:2], -1)


def as_representation(gradient: Tensor, representation: Tensor) -> Tensor:
    """One gradient, [N, C, positions], in the order of the representation's elements: [P]."""
    return (gradient.mT if representation.ndim == 3 else gradient).flatten()


def shares_of_positions(representation: Tensor) -> Tensor:
    """The part of each position in the mean over a row's positions, [N, positions].

    A sequence is 0 in all channels where a row is padded, and padding has no part.
    """
    if representation.ndim == 3:
        here = (representation != 0).any(2).float()
        return here / here.sum(1, keepdim=True).clamp(min=1)
    positions = representation[0, 0].numel()
    return torch.full((len(representation), positions), 1 / positions, device=representation.device)
