"""Architectures: how tasks share backbones."""
