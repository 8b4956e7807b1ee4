"""Parts of architectures with experts: a stem, gates, mixtures, and figures of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.layers import only_tokens, pooled, token_mask
from mtlrun.models.sharing.reading import run_stages
from mtlrun.types import InputKind, Layout, Structure

GRID = 8
"""Positions a side of the grid to which images are averaged before a gate reads them."""


def stem_stages(
    stem: int | None, backbone: Backbone, input_kind: InputKind, reads_input: bool = True
) -> int:
    """The number of stages in front of the experts.

    Args:
        stem: the setting; None for 0 where inputs are values, else 1.
        backbone: any copy of it.
        input_kind: of the inputs.
        reads_input: whether gates read what the experts read, which must be numbers then.

    Raises:
        ValueError: no stage is left for the experts, or gates would read codes.
    """
    last = len(backbone.stages) - 1
    codes = input_kind != "values"
    lowest = 1 if codes and reads_input else 0
    if lowest > last:
        raise ValueError(
            f"Gates read numbers, and these inputs ({input_kind}) are codes before the first "
            "stage; this backbone has no other stage that could be an expert: use a backbone of "
            "two stages or more (for backbone=bag_of_words: backbone.hidden=[200,100])"
        )
    if stem is None:
        return min(1 if codes else 0, last)
    if stem == 0 and lowest:
        raise ValueError(
            f"stem=0: gates read what the experts read, and these inputs ({input_kind}) are codes, "
            "no numbers, before the first stage: use stem=1 or more"
        )
    if not lowest <= stem <= last:
        raise ValueError(
            f"stem={stem} leaves no stage for the experts, or is none: this backbone has "
            f"{last + 1}: use stem={lowest}{f' to {last}' if last > lowest else ''}"
        )
    return stem


class GateInput:
    """What gates read, [N, size]: features by their mean over positions; inputs themselves flat.

    Images that are read before any stage are first averaged over a grid of at most 8x8 (the
    papers' gates are linear in the input; on 288x384 pixels such a gate would be larger than its
    experts, and read single pixels).

    Args:
        stem: number of stages before.
        backbone: any copy of it.
        input_shape: of one input, without the batch.
    """

    def __init__(self, stem: int, backbone: Backbone, input_shape: Sequence[int]) -> None:
        self.layout: Layout | None = backbone.layouts[stem - 1] if stem else None
        self.grid: tuple[int, int] | None = None
        shape = tuple(input_shape)
        if len(shape) == 3:
            self.grid = min(GRID, shape[1]), min(GRID, shape[2])
            shape = shape[0], *self.grid
        self.size = backbone.channels[stem - 1] if stem else prod(shape)

    def __call__(self, features: Tensor) -> Tensor:
        """Vectors, [N, size]."""
        if self.layout is not None:
            return pooled(features, self.layout)
        if self.grid is not None:
            features = F.adaptive_avg_pool2d(features, self.grid)
        return features.flatten(1)


class SoftmaxGate(nn.Module):
    """A linear layer and a softmax: [N, size] -> [N, experts].

    The papers write it without a bias; their published ports have one, and so has this.

    Args:
        size: of what it reads.
        experts: that it weighs.
    """

    def __init__(self, size: int, experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, experts)

    def forward(self, read: Tensor) -> Tensor:
        """Weights of the experts, which sum to 1: [N, experts]."""
        weights: Tensor = self.linear(read).softmax(1)
        return weights


def mixed(weights: Tensor, outputs: Tensor, layout: Layout) -> Tensor:
    """The sum of experts' outputs, each times its weight: [N, ...].

    Args:
        weights: [N, E], or [E] where they are the same for all rows.
        outputs: of all experts, [N, E, ...].
        layout: of one expert's output.
    """
    rows, experts, *shape = outputs.shape
    weights = weights.to(outputs.dtype).expand(rows, experts)
    if layout == "vector":
        return (weights.unsqueeze(2) * outputs).sum(1)
    # A product of matrices forms no [N, E, ...]; for vectors it is slower than the sum
    mixture = torch.bmm(weights.unsqueeze(1), outputs.flatten(2)).reshape(rows, *shape)
    # All experts have the same padding
    return only_tokens(mixture, token_mask(outputs[:, 0])) if layout == "sequence" else mixture


class Usage(nn.Module):
    """Mean weights of experts over an evaluation, noted in evaluation mode alone.

    Args:
        name: of the table.
        rows: names of the gates.
        columns: names of the experts.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, name: str, rows: Sequence[str], columns: Sequence[str]) -> None:
        super().__init__()
        self.name, self.rows, self.columns = name, tuple(rows), tuple(columns)
        shape = len(self.rows), len(self.columns)
        self.register_buffer("sums", torch.zeros(shape), persistent=False)
        self.register_buffer("counts", torch.zeros(shape[0], 1), persistent=False)

    def note(self, gate: int, weights: Tensor, rows: int, columns: Sequence[range]) -> None:
        """Add what a gate said of a batch.

        Args:
            gate: its row of the table.
            weights: [N, E], or [E] where they are the same for all rows of the batch.
            rows: N.
            columns: of those E experts.
        """
        if self.training:
            return
        total = weights.detach().expand(rows, -1).sum(0).to(self.sums.dtype)
        for part, where in zip(total.split([len(c) for c in columns]), columns, strict=True):
            self.sums[gate, where.start : where.stop] += part
        self.counts[gate] += rows

    def clear(self) -> None:
        """Forget everything."""
        self.sums.zero_()
        self.counts.zero_()

    def table(self) -> Structure:
        """Mean weights; 0 for a gate that nothing has gone through."""
        means = self.sums / self.counts.clamp(min=1)
        return Structure(self.name, self.rows, self.columns, means)


@dataclass
class Below:
    """What one pass leaves in front of the experts.

    Attributes:
        outputs: of the stem's stages.
        features: that the experts read.
        kept: by the stem.
        read: what the gates read, [N, size].
    """

    outputs: list[Tensor]
    features: Tensor
    kept: Kept
    read: Tensor


def run_stem(backbone: Backbone, stem: int, inputs: Tensor, gate_input: GateInput) -> Below:
    """The first ``stem`` stages of a backbone."""
    kept: Kept = {}
    outputs = run_stages(backbone, range(stem), inputs, kept)
    features = outputs[-1] if outputs else inputs
    return Below(outputs, features, kept, gate_input(features))


def expect_read(depth: int, stem: int) -> None:
    """Raise a ValueError where no head reads what the experts give.

    Args:
        depth: number of stages up to the last that a head reads.
        stem: number of stages before the experts.
    """
    if depth <= stem:
        raise ValueError(
            f"heads.stages: no head reads a stage behind stem={stem}, so that no expert is of use: "
            "use later stages, a smaller stem, or architecture=hps"
        )


def expect_count(argument: str, value: int, lowest: int) -> None:
    """Raise a ValueError where ``value`` is less than ``lowest``."""
    if value < lowest:
        raise ValueError(f"{argument}={value} must be {lowest} or more: use {argument}={lowest}")
