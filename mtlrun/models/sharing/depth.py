"""How deep the tasks go into a backbone, where their heads read different stages."""

from collections.abc import Sequence

from torch import nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.sharing.reading import Reading


def drop_unread(backbone: Backbone, reading: Reading, tasks: Sequence[str]) -> int:
    """Let go of the stages behind the last that any head reads.

    Returns:
        the number of stages that are left.
    """
    depth = reading.deepest(tasks) + 1
    backbone.drop(range(depth, len(backbone.stages)))
    return depth


def behind_others(
    backbone: Backbone, reading: Reading, task: str, tasks: Sequence[str]
) -> list[nn.Parameter]:
    """Parameters of the stages behind all that the heads of the other tasks read.

    None where there are no other tasks: what is theirs as well is then the whole backbone.
    """
    others = [other for other in tasks if other != task]
    if not others:
        return []
    first, end = reading.deepest(others) + 1, reading.deepest([task]) + 1
    return list(backbone.stages[first:end].parameters())


def last_common_layer(
    backbone: Backbone, reading: Reading, tasks: Sequence[str]
) -> list[nn.Parameter]:
    """The weights of the last layer that all heads' stages rest on."""
    end = min(reading.deepest([task]) for task in tasks) + 1
    if end == len(backbone.stages):
        return backbone.last_layer()
    return [p for p in backbone.stages[:end].parameters() if p.dim() >= 2][-1:]
