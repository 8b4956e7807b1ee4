"""MTAN: one network, and for each task masks that pick from its features."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.layers import only_tokens, token_mask
from mtlrun.models.residual import residual_blocks
from mtlrun.models.sharing.attention import Link, Mask
from mtlrun.models.sharing.probing import stage_shapes
from mtlrun.models.sharing.reading import Reading, StageReading
from mtlrun.types import InputKind, Structure

RESIDUAL_REDUCTION = 4
"""Of the authors' ResNet."""


class MTAN(StageReading):
    """Multi-task attention network (Liu, Johns and Davison, CVPR 2019, section 3.2).

    One backbone computes shared features; each task i multiplies them by a mask of its own at each
    stage j (equations 1 and 2, with p and u as in lorenmt/mtan)::

        mask = sigmoid(norm(1x1(ReLU(norm(1x1([p_j ; r_j]))))))
        attended_j = mask * u_j
        r_{j+1} = pool(f_j(attended_j))        in an encoder
        r_{j+1} = f_j(upsample(attended_j))    in a decoder; there is no r_1

    p_j and u_j are what :meth:`Backbone.inner` gives, before and behind the last part of a stage.
    f_j is shared by all tasks. A head reads the attended features of the last stage, as in the
    authors' SegNet and ResNet. (In their Wide ResNet for Visual Decathlon it reads one more f
    behind them.) A head that reads other stages gets those attended as well, and pooled where the
    stage is: with all masks at 1 every head reads what it does under ``architecture=hps``.

    Two published forms, both from lorenmt/mtan:

    * SegNet, ``reduction=1``: a mask's hidden layer is as wide as the mask, f is a 3x3 convolution,
      normalisation and ReLU.
    * ResNet, ``reduction=4``: the hidden layer has a quarter of the channels, f is a residual
      bottleneck that has as well, and the stem has no masks.

    Vectors get linear layers with batch normalisation, sequences linear layers with layer
    normalisation. Where a stage changes the layout, r is averaged over its positions.

    Each task's features go through f's normalisation by themselves, as in that code: with batch
    normalisation, evaluation uses running statistics of all tasks together.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        input_kind: of the inputs.
        input_shape: of one input.
        reads: for each task the stages that its head reads.
        after: the stages with masks, counted from 1. None is those of residual blocks where the
            backbone has any, else all; and the last that each head reads.
        reduction: see above; None is 4 where the backbone has residual blocks, else 1.

    Raises:
        ValueError: ``after`` or ``reduction`` is wrong.
    """

    mask_sums: Tensor
    mask_counts: Tensor

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        input_kind: InputKind,
        input_shape: Sequence[int],
        reads: Mapping[str, Sequence[int]] | None = None,
        after: Sequence[int] | None = None,
        reduction: int | None = None,
    ) -> None:
        super().__init__(streams=streams)
        if reduction is not None and reduction < 1:
            raise ValueError(f"architecture.reduction={reduction} must be 1 or more, or null")
        self.backbone = make_backbone(0)
        self.reading = Reading(self.backbone, reads)
        self._last = {task: max(self.reading.of(task)) for task in self.stream_of}
        self.attended = _attended(self.backbone, after, self._last)
        if reduction is None:
            reduction = RESIDUAL_REDUCTION if residual_blocks(self.backbone) else 1
        self._build(input_kind, input_shape, reduction)
        self.backbone.drop(range(max(self._last.values()) + 1, len(self.backbone.stages)))
        shape = (len(self.stream_of), len(self.attended))
        self.register_buffer("mask_sums", torch.zeros(shape), persistent=False)
        self.register_buffer("mask_counts", torch.zeros(shape), persistent=False)

    def _build(self, input_kind: InputKind, input_shape: Sequence[int], reduction: int) -> None:
        """The masks, [task][stage], and the links between stages."""
        shapes = stage_shapes(self.backbone, input_kind, input_shape)
        self.links = nn.ModuleList(
            Link(shapes[here], shapes[there].late, reduction)
            for here, there in pairwise(self.attended)
        )
        self.masks = nn.ModuleList()
        for last in self._last.values():
            masks = nn.ModuleList()
            for stage in (stage for stage in self.attended if stage <= last):
                late = shapes[stage].late
                received = late.channels if masks else 0
                masks.append(Mask(late, shapes[stage].early.channels + received, reduction))
            self.masks.append(masks)
        self._number = {task: number for number, task in enumerate(self.stream_of)}

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        found: dict[str, Tensor] = {}
        for stream, here in self.by_stream(tasks).items():
            found |= self._of_stream(inputs[stream], here)
        return {task: found[task] for task in tasks}

    def _of_stream(self, inputs: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Features of tasks that have the same inputs."""
        kept: Kept = {}
        outputs: list[Tensor] = []
        seen: dict[str, list[Tensor]] = {task: [] for task in tasks}  # of each task, each stage
        attended: dict[str, Tensor] = {}
        before = 0  # the stage with masks that comes before
        features = inputs
        for stage in range(max(self._last[task] for task in tasks) + 1):
            early, late = self.backbone.inner(stage, features, kept)
            features = self.backbone.outer(stage, late, kept)
            outputs.append(features)
            for task in tasks:
                output = features
                if stage in self.attended and stage <= self._last[task]:
                    shared = outputs[before]
                    attended[task] = self._attend(
                        task, stage, early, late, attended.get(task), shared
                    )
                    if stage in self.reading.of(task):
                        output = self.backbone.outer(stage, attended[task], dict(kept))
                seen[task].append(output)
            before = stage if stage in self.attended else before
        return {task: self.reading(task, seen[task]) for task in tasks}

    def _attend(
        self,
        task: str,
        stage: int,
        early: Tensor,
        late: Tensor,
        previous: Tensor | None,
        shared: Tensor,
    ) -> Tensor:
        """A task's attended features at a stage.

        Args:
            task: its name.
            stage: counted from 0.
            early: p of the stage.
            late: u of it.
            previous: what the task attended to at the stage with masks before; None at the first.
            shared: output of that stage.
        """
        place = self.attended.index(stage)
        if previous is not None:
            previous = self.links[place - 1](previous, shared, late)
        masks = self.masks[self._number[task]]
        assert isinstance(masks, nn.ModuleList)
        mask: Tensor = masks[place](early, previous, late)
        if not self.training:
            self._note(task, place, mask, late)
        if late.ndim == 3:  # a mask at 0 leaves a token a token
            return only_tokens(mask * late, token_mask(late))
        return mask * late

    # -- parameters --------------------------------------------------------------------------------

    def _shared(self, stage: int) -> bool:
        """Whether more than one task goes as far as a stage, or there is only one."""
        reaching = [task for task, last in self._last.items() if last >= stage]
        return len(reaching) > 1 or len(self._last) == 1

    def _reached(self) -> list[tuple[nn.Parameter, int]]:
        """The parameters beside the masks, each with the first stage that needs it."""
        first: dict[nn.Parameter, int] = {}
        for number, stage in enumerate(self.backbone.stages):
            for parameter in stage.parameters():
                first.setdefault(parameter, number)
        found = [(parameter, first.get(parameter, 0)) for parameter in self.backbone.parameters()]
        for link, target in zip(self.links, self.attended[1:], strict=True):
            found += [(parameter, target) for parameter in link.parameters()]
        return found

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those of the backbone, and of what stands between the stages."""
        return [parameter for parameter, stage in self._reached() if self._shared(stage)]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """The task's masks, and the stages that it alone goes to."""
        alone = [
            parameter
            for parameter, stage in self._reached()
            if not self._shared(stage) and self._last[task] >= stage
        ]
        return [*alone, *self.masks[self._number[task]].parameters()]

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The backbone's last layer among the stages that all tasks go to."""
        common = min(self._last.values())
        if common == len(self.backbone.stages) - 1:
            return self.backbone.last_layer()
        matrices = [p for p in self.backbone.stages[: common + 1].parameters() if p.dim() >= 2]
        return matrices[-1:]

    # -- over a run --------------------------------------------------------------------------------

    def start_evaluation(self) -> None:
        """Forgets the masks of the evaluation before."""
        self.mask_sums.zero_()
        self.mask_counts.zero_()

    @torch.no_grad()
    def _note(self, task: str, place: int, mask: Tensor, late: Tensor) -> None:
        """Adds a mask to the figures of this evaluation; padding does not count."""
        number = self._number[task]
        values = mask.float()
        if late.ndim == 3:
            here = token_mask(late)
            self.mask_sums[number, place] += values.mean(2).masked_fill(~here, 0).sum()
            self.mask_counts[number, place] += here.sum()
        else:
            self.mask_sums[number, place] += values.mean() * len(values)
            self.mask_counts[number, place] += len(values)

    def structure(self) -> list[Structure]:
        """The mean of each task's mask at each stage over the last evaluation; 0 where it has
        none."""
        columns = tuple(f"stage {stage + 1}" for stage in self.attended)
        means = self.mask_sums / self.mask_counts.clamp(min=1)
        return [Structure("attention", tuple(self.stream_of), columns, means)]


def _attended(
    backbone: Backbone, after: Sequence[int] | None, last: Mapping[str, int]
) -> tuple[int, ...]:
    """The stages with masks, counted from 0, in order.

    Args:
        backbone: any copy of it.
        after: as the user says it, counted from 1.
        last: for each task the last stage that its head reads, counted from 0.

    Raises:
        ValueError: ``after`` names no stages, or leaves out one of ``last``.
    """
    stages = range(max(last.values()) + 1)
    if after is None:
        residual = [stage for stage in stages if residual_blocks(backbone.stages[stage])]
        return tuple(sorted({*(residual or stages), *last.values()}))
    if not after or any(stage - 1 not in stages for stage in after):
        raise ValueError(
            f"architecture.after={list(after)} must name stages between 1 and {len(stages)}, the "
            "last that a head reads: use architecture.after=null for all that are usual"
        )
    chosen = {stage - 1 for stage in after}
    missing = sorted(set(last.values()) - chosen)
    if missing:
        full = sorted(stage + 1 for stage in {*chosen, *missing})
        raise ValueError(
            f"architecture.after={list(after)} leaves out stage {missing[0] + 1}, the last that a "
            "head reads, so that no mask would reach that head: "
            f"use architecture.after={full} or null"
        )
    return tuple(sorted(chosen))
