"""CIFAR-10: reading it from the publisher's files or from class folders."""

from mtlrun.data.cifar10.dataset import CIFAR10

__all__ = ["CIFAR10"]
