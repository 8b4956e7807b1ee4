"""NYU Depth v2: reading, preparing and augmenting it."""

from mtlrun.data.nyuv2.dataset import NYUv2

__all__ = ["NYUv2"]
