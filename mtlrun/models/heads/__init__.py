"""Heads: from features to one task's prediction."""
