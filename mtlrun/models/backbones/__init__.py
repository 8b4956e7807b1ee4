"""Backbones: lists of stages with known output channels."""
