"""Having a step take its gradients in one of the engine's ways, however small the network is."""

import math

import pytest
from engine_toys import NAMES

from mtlrun.engine import kernels
from mtlrun.engine import rows as rows_module
from mtlrun.engine.balanced import FromGradients
from mtlrun.engine.rows import PlainRows, SweptRows
from mtlrun.engine.segments import SegmentRows
from mtlrun.engine.step import TrainingStep

WAYS = ["chosen", "plain", "kernels", "batched", "segments"]


def memory_of(way: str) -> float:
    """The bytes that a step may have for its rows, so that they are taken in this way."""
    return 0 if way == "segments" else 1e9


def force(way: str, step: TrainingStep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the step take its gradients in one way wherever that is right."""
    backward = step.backward
    assert isinstance(backward, FromGradients)
    if way == "plain":
        backward.rows = PlainRows(backward.shared, len(NAMES))
    if way in ("kernels", "batched"):
        monkeypatch.setattr(kernels, "MARGIN", math.inf)
    if way == "batched":
        monkeypatch.setattr(rows_module, "FEWEST_BATCHED", 1)
    expected = SegmentRows if way == "segments" else PlainRows if way == "plain" else SweptRows
    assert type(backward.rows) is expected
