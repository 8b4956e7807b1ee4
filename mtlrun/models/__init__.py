"""Backbones, heads, and the architectures that share backbones between tasks."""
