"""Cityscapes: reading, preparing and augmenting it."""

from mtlrun.data.cityscapes.dataset import Cityscapes

__all__ = ["Cityscapes"]
