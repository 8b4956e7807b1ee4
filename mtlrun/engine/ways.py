"""The cheapest of the three ways of :mod:`mtlrun.engine.rows` that serves a method."""

from mtlrun.engine.backward import Forward, GradientSettings
from mtlrun.engine.rows import PlainRows, Rows, SweptRows
from mtlrun.engine.segments import SegmentRows
from mtlrun.weighting.base import GramianWeighting, JacobianWeighting


def rows_for(
    forward: Forward,
    weighting: GramianWeighting | JacobianWeighting,
    settings: GradientSettings,
    *,
    everywhere: bool,
    accumulating: bool,
) -> Rows:
    """What holds the rows of a run's steps.

    Args:
        forward: how the network is called.
        weighting: the method.
        settings: of the gradients; ``place`` is set.
        everywhere: whether there are rows of all shared parameters, and not of none.
        accumulating: whether steps have several micro-batches.
    """
    tasks, shared = len(forward.names), forward.model.shared_parameters()
    in_full = (
        accumulating
        or settings.place != "parameters"
        or forward.compiled
        or isinstance(weighting, JacobianWeighting)
        or weighting.tracks_rows
        or weighting.per_layer
        or weighting.batches > 1
    )
    if in_full:
        return PlainRows(shared if everywhere else [], tasks * weighting.batches)
    trunk = forward.model.architecture
    if tasks * sum(p.numel() * p.element_size() for p in shared) > settings.memory:
        return SegmentRows(trunk, shared, tasks, settings.memory)
    return SweptRows(trunk, shared, tasks)
