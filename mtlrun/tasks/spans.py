"""Entities as spans of tokens, found in whole batches of tags at once."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

OUTSIDE = "O"
INSIDE = re.compile(r"([BI])(?:-(.*))?", re.DOTALL)


class Tags(NamedTuple):
    """What the classes of a task mean as BIO tags.

    Attributes:
        types: the types of entities, in the order in which classes name them.
        begins: for each class whether it always begins a span.
        type_of: for each class the index of its type, -1 for ``O``.
    """

    types: tuple[str, ...]
    begins: tuple[bool, ...]
    type_of: tuple[int, ...]


class Spans(NamedTuple):
    """The spans of a batch of tags.

    Attributes:
        starts: whether a span starts at a token, bool [N, L].
        type: the type of the span that a token lies in, int64 [N, L], -1 outside.
        end: the last token of the span that a token lies in, int64 [N, L]; means nothing outside.
    """

    starts: Tensor
    type: Tensor
    end: Tensor


def bio_tags(class_names: Sequence[str]) -> Tags:
    """Classes read as BIO tags: ``B-x`` and ``I-x`` of a type x, ``B`` and ``I`` alone, and ``O``.

    Raises:
        ValueError: a class is no such tag, or none stands for an entity.
    """
    found = [(name, INSIDE.fullmatch(name)) for name in class_names]
    wrong = [name for name, match in found if match is None and name != OUTSIDE]
    if wrong:
        raise ValueError(f"class {wrong[0]!r} is no BIO tag: these are B-x, I-x and O")
    types = tuple(dict.fromkeys(match[2] or "" for _, match in found if match))
    if not types:
        raise ValueError("no class is a BIO tag of an entity, B-x or I-x")
    return Tags(
        types,
        tuple(match is not None and match[1] == "B" for _, match in found),
        tuple(types.index(match[2] or "") if match else -1 for _, match in found),
    )


def spans(type: Tensor, begins: Tensor) -> Spans:
    """The spans of tags, as the evaluation of the CoNLL-2000 shared task (conlleval) reads them.

    A span of a type starts at every B, and at an I that does not follow a B or I of its type.

    Args:
        type: of each token's tag, int64 [N, L], -1 for O and where there is no token.
        begins: whether the tag is a B, bool [N, L].
    """
    length = type.shape[1]
    inside = type >= 0
    starts = inside & (begins | (type != F.pad(type, (1, 0), value=-1)[:, :length]))
    started_after = F.pad(starts, (0, 1), value=False)[:, 1:]
    ends = inside & (started_after | (type != F.pad(type, (0, 1), value=-1)[:, 1:]))
    position = torch.where(ends, torch.arange(length, device=type.device), length)
    return Spans(starts, type, position.flip(1).cummin(1).values.flip(1))


def matches(first: Spans, second: Spans) -> Tensor:
    """Where a span of the first starts that the second has too, type and end alike: bool [N, L]."""
    same = (first.type == second.type) & (first.end == second.end)
    return first.starts & second.starts & same


def count_by_type(where: Tensor, type: Tensor, types: int) -> Tensor:
    """How many tokens of each type hold: int64 [types].

    Args:
        where: bool [N, L], only where ``type`` is not -1.
        type: int64 [N, L].
        types: number of types.
    """
    # Other tokens fall into one cell more, which is cut off, so that none has to be picked.
    cell = torch.where(where, type, types).flatten()
    counts = torch.zeros(types + 1, dtype=torch.int64, device=cell.device)
    counts.scatter_add_(0, cell, torch.ones_like(cell))
    return counts[:-1]
