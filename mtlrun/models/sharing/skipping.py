"""Blocks of a backbone that can be skipped."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.layers import only_tokens, token_mask
from mtlrun.models.residual import Gate, Residual, gated, residual_blocks
from mtlrun.models.sharing.reading import Reading
from mtlrun.types import InputKind


@dataclass(frozen=True)
class Place:
    """What can be skipped in one stage.

    Attributes:
        first: the number of its first block, over all stages.
        names: of the blocks.
        blocks: the residual ones; empty where the stage is skipped as a whole.
    """

    first: int
    names: tuple[str, ...]
    blocks: tuple[Residual, ...]


@dataclass(frozen=True)
class _Group:
    """Tasks that went the same way so far, and where they are."""

    tasks: tuple[str, ...]
    features: Tensor
    kept: Kept
    outputs: tuple[Tensor, ...]


class SkippingTrunk:
    """A backbone in which each task may skip blocks: the residual ones, and stages as a whole.

    A stage without residual blocks can be skipped where its output has the shape of its input; the
    first cannot. Blocks are named by stage and place, counted from 1: ``3.2``, or ``2`` for a whole
    stage.

    Args:
        backbone: the trunk. It is looked at through a copy of it: neither it nor the generators of
            random numbers change.
        reading: which stages heads read.
        input_kind: of the inputs.
        input_shape: likewise, without the batch.
        depth: number of stages up to the last that a head reads; None for all.
    """

    def __init__(
        self,
        backbone: Backbone,
        reading: Reading,
        input_kind: InputKind,
        input_shape: Sequence[int],
        depth: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.reading = reading
        self.places: list[Place | None] = []
        self.names: tuple[str, ...] = ()
        depth = len(backbone.stages) if depth is None else depth
        whole = _same_shape(backbone, example(input_kind, input_shape), depth)
        for number, stage in enumerate(backbone.stages[:depth]):
            blocks = tuple(residual_blocks(stage))
            names = tuple(f"{number + 1}.{place + 1}" for place in range(len(blocks)))
            if number in whole:
                names = (str(number + 1),)
            self.places.append(Place(len(self.names), names, blocks) if names else None)
            self.names += names

    def __call__(self, inputs: Tensor, gates: Mapping[str, Sequence[Gate]]) -> dict[str, Tensor]:
        """What each task's head reads. Tasks with the same gates so far share the computation.

        Gates that are tensors count as different for each task.

        Args:
            inputs: of one stream.
            gates: for each task of it one gate a block.
        """
        groups = [_Group(tuple(gates), inputs, {}, ())]
        for number in range(len(self.places)):
            groups = [part for group in groups for part in self._step(number, group, gates)]
        found: dict[str, Tensor] = {}
        for group in groups:
            found |= self.reading.shared(group.tasks, group.outputs)
        return found

    def _step(
        self, number: int, group: _Group, gates: Mapping[str, Sequence[Gate]]
    ) -> list[_Group]:
        """A group behind a stage, in as many parts as its tasks have ways through it."""
        place = self.places[number]
        ways: dict[tuple[object, ...], list[str]] = {}
        for task in group.tasks:
            here = gates[task][place.first : place.first + len(place.names)] if place else ()
            known = all(isinstance(gate, bool) for gate in here)
            ways.setdefault(tuple(here) if known else (task,), []).append(task)
        parts = []
        for tasks in ways.values():
            kept = dict(group.kept) if len(ways) > 1 else group.kept
            output = self._stage(number, group.features, kept, gates[tasks[0]])
            parts.append(_Group(tuple(tasks), output, kept, (*group.outputs, output)))
        return parts

    def _stage(self, number: int, features: Tensor, kept: Kept, gates: Sequence[Gate]) -> Tensor:
        """The output of a stage for one task's gates."""
        place = self.places[number]
        if place is None:
            return self.backbone.step(number, features, kept)
        here = gates[place.first : place.first + len(place.names)]
        if place.blocks:
            with gated(place.blocks, here):
                return self.backbone.step(number, features, kept)
        (gate,) = here
        if gate is False:
            return features
        output = self.backbone.step(number, features, kept)
        if gate is True:
            return output
        mixed = gate * output + (1 - gate) * features
        if self.backbone.layouts[number] != "sequence":
            return mixed
        return only_tokens(mixed, token_mask(features))


def example(input_kind: InputKind, input_shape: Sequence[int]) -> Tensor:
    """One input that any backbone for its kind can read, to see what comes out: [1, ...]."""
    if input_kind in ("tokens", "bags"):
        return torch.ones(1, *input_shape, dtype=torch.long)
    return torch.zeros(1, *input_shape)


def _same_shape(backbone: Backbone, inputs: Tensor, depth: int) -> set[int]:
    """Stages without residual blocks that can be left out, as they give what they take."""
    candidates = {
        number
        for number in range(1, depth)
        if backbone.channels[number] == backbone.channels[number - 1]
        and backbone.layouts[number] == backbone.layouts[number - 1]
        and not residual_blocks(backbone.stages[number])
    }
    if not candidates:
        return candidates
    found: set[int] = set()
    looked_at = copy.deepcopy(backbone).eval()
    features, kept = inputs, Kept()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for number in range(depth):
            before, left = features.shape, len(kept)
            features = looked_at.step(number, features, kept)
            # What a stage leaves for later ones would be missing there
            if number in candidates and features.shape == before and len(kept) == left:
                found.add(number)
    return found
