"""CelebA: reading, preparing and serving it."""

from mtlrun.data.celeba.dataset import CelebA

__all__ = ["CelebA"]
