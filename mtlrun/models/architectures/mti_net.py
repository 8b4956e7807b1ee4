"""Distillation between tasks at several scales."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import Architecture, MakeBackbone, Pass
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_choice
from mtlrun.models.layers import resize
from mtlrun.models.sharing.distillation import (
    Distillation,
    Initial,
    basic_blocks,
    last_matrices,
)
from mtlrun.models.sharing.probing import stage_shapes
from mtlrun.models.sharing.propagation import PROPAGATIONS, FeaturePropagation
from mtlrun.models.sharing.reading import stage_outputs
from mtlrun.settings import check_not_negative, check_whole
from mtlrun.types import InputKind, Layout, OutputShape, Structure

MOST_SCALES = 4
"""Scales where none are named; the paper's."""


class MTINet(Architecture):
    """MTI-Net: multi-scale task interaction networks (Vandenhende, Georgoulis and Van Gool, ECCV
    2020, section 3).

    From the coarsest scale to the finest, a branch for each task (two residual blocks) makes
    features of the backbone's maps, beside which stand, from the second scale on, the task's
    features that :class:`~mtlrun.models.sharing.propagation.FeaturePropagation` brings up
    from the scale before. A 1x1 convolution makes an initial prediction at each scale, with the
    task's own loss (the terms ``initial_TASK_stageN``). At each scale the tasks hand one another
    messages, as in PAD-Net. A head reads a task's distilled features of all scales side by side, at
    the size of the finest.

    The scales are stages of the backbone: ResNet's layer1 to layer4, HRNet's branches in the paper,
    or the stages of a decoder. They are ordered by the size of their maps; of two of one size, the
    later stage counts as the coarser. The paper's branches keep each scale's channels
    (``channels=null``); with T tasks and C channels a scale's messages alone are 18 T (T - 1) C^2
    weights, which is why 64 is the default here. The softmax of the propagation departs in the
    published code from the paper, see ``propagation``.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks. Streams go through everything one after the other; on
            each, the branches of all tasks run.
        outputs: for each task the shape of its prediction.
        input_shape: of one input, without the batch.
        input_kind: of the inputs.
        stages: whose maps are the scales, counted from 1, two or more; None for the last four (or
            fewer) that are maps. Stages behind the last of them are let go.
        channels: of each task's features at each scale; None for as many as the stage has.
        deep_supervision: weight of each initial prediction's loss; 0 leaves the predictions out.
        propagation: ``tasks`` or ``neighbours``, see
            :class:`~mtlrun.models.sharing.propagation.FeaturePropagation`.

    Raises:
        ValueError: a setting is wrong, or the backbone has fewer than two stages of maps.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        outputs: Mapping[str, OutputShape],
        input_shape: Sequence[int],
        input_kind: InputKind = "values",
        stages: Sequence[int] | None = None,
        channels: int | None = 64,
        deep_supervision: float = 1.0,
        propagation: str = "tasks",
    ) -> None:
        super().__init__(streams=streams)
        if channels is not None:
            check_whole("architecture.channels", channels, 1)
        check_not_negative(**{"architecture.deep_supervision": deep_supervision})
        expect_choice("architecture.propagation", propagation, PROPAGATIONS)
        self.backbone = make_backbone(0)
        self.tasks = list(self.stream_of)
        chosen = _scales(self.backbone, stages)
        self.depth = max(chosen) + 1
        shapes = [s.output for s in stage_shapes(self.backbone, input_kind, input_shape)]
        self.backbone.drop(range(self.depth, len(shapes)))
        self.stages = sorted(chosen, key=lambda s: (shapes[s].size[0] * shapes[s].size[1], -s))
        of = {task: outputs[task] for task in self.tasks}
        self.scales = nn.ModuleList()
        before = 0
        for stage in self.stages:
            width = channels or self.backbone.channels[stage]
            scale = Scale(
                stage,
                self.backbone.channels[stage] + before,
                width,
                of,
                supervised=deep_supervision > 0,
                propagation=None if stage == self.stages[-1] else propagation,
            )
            if scale.initial is not None:
                self.terms |= dict.fromkeys(scale.initial.terms.values(), deep_supervision)
            self.scales.append(scale)
            before = width
        self.channels = sum(scale.channels for scale in self._scales())

    def _scales(self) -> Iterator["Scale"]:
        """The scales, the coarsest first."""
        for scale in self.scales:
            assert isinstance(scale, Scale)
            yield scale

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        return self._run(inputs, tasks, supervised=False).features

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        """See :meth:`Architecture.with_terms`."""
        return self._run(inputs, tasks, supervised=True)

    def _run(self, inputs: Mapping[str, Tensor], tasks: Sequence[str], *, supervised: bool) -> Pass:
        """Features of ``tasks``, and where asked for their initial predictions."""
        found = Pass({})
        for stream, here in self.by_stream(tasks).items():
            maps = stage_outputs(self.backbone, inputs[stream], self.depth - 1)
            parts: dict[str, list[Tensor]] = {task: [] for task in here}
            received: list[Tensor] | None = None
            for stage, scale in zip(self.stages, self._scales(), strict=True):
                features = scale.branched(maps[stage], received)
                for task in here:
                    parts[task].append(scale.distillation(features, self.tasks.index(task)))
                if supervised and scale.initial is not None:
                    scale.initial.add(found, features, here)
                received = None if scale.propagate is None else scale.propagate(features)
            height, width = maps[self.stages[-1]].shape[2:]
            for task, distilled in parts.items():
                resized = [resize(part, (height, width)) for part in distilled]
                found.features[task] = torch.cat(resized, 1)
        found.features = {task: found.features[task] for task in tasks}
        return found

    # -- parameters --------------------------------------------------------------------------------

    def shared_parameters(self) -> list[nn.Parameter]:
        """The backbone's, all branches' and what brings features from scale to scale."""
        found = list(self.backbone.parameters())
        for scale in self._scales():
            found += scale.branches.parameters()
            if scale.propagate is not None:
                found += scale.propagate.parameters()
        return found

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Those of the messages to the task, the coarsest scale's first."""
        place = self.tasks.index(task)
        return [p for scale in self._scales() for p in scale.distillation.parameters_of(place)]

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The last layers of all branches at the finest scale, side by side."""
        *_, finest = self._scales()
        return last_matrices(finest.branches)

    def out_channels(self, task: str) -> int:
        """Channels of a task's features, of all scales together."""
        del task
        return self.channels

    def layout(self, task: str) -> Layout:
        """Maps."""
        del task
        return "map"

    def start_evaluation(self) -> None:
        """Forget the messages of the evaluation before."""
        for scale in self._scales():
            scale.distillation.clear()

    def structure(self) -> list[Structure]:
        """At each scale, how large messages are beside the features that they are added to."""
        if len(self.tasks) == 1:
            return []
        return [scale.distillation.table() for scale in self._scales()]


class Scale(nn.Module):
    """What MTI-Net has at one scale.

    Args:
        stage: of the backbone, counted from 0.
        in_channels: of its maps, and of what is received from the coarser scale.
        channels: of each task's features.
        outputs: for each task the shape of its prediction.
        supervised: whether there are initial predictions.
        propagation: how features go to the next scale; None at the finest.
    """

    def __init__(
        self,
        stage: int,
        in_channels: int,
        channels: int,
        outputs: Mapping[str, OutputShape],
        *,
        supervised: bool,
        propagation: str | None,
    ) -> None:
        super().__init__()
        tasks = list(outputs)
        self.channels = channels
        self.branches = nn.ModuleList(basic_blocks(in_channels, channels) for _ in tasks)
        suffix = f"stage{stage + 1}"
        self.initial = Initial("map", channels, outputs, f"_{suffix}") if supervised else None
        self.distillation = Distillation(tasks, "map", channels, "source", f"messages/{suffix}")
        self.propagate = (
            None if propagation is None else FeaturePropagation(len(tasks), channels, propagation)
        )

    def branched(self, maps: Tensor, received: Sequence[Tensor] | None) -> list[Tensor]:
        """The features of each task.

        Args:
            maps: of the backbone.
            received: of each task from the coarser scale.
        """
        if received is None:
            return [branch(maps) for branch in self.branches]
        size = (maps.shape[2], maps.shape[3])
        return [
            branch(torch.cat([maps, resize(part, size)], 1))
            for branch, part in zip(self.branches, received, strict=True)
        ]


def _scales(backbone: Backbone, stages: Sequence[int] | None) -> list[int]:
    """The stages whose maps are the scales, counted from 0."""
    maps = [stage for stage, layout in enumerate(backbone.layouts) if layout == "map"]
    named = ", ".join(str(stage + 1) for stage in maps)
    if len(maps) < 2:
        raise ValueError(
            "architecture=mti_net works on maps at two or more scales, and this backbone has "
            f"{f'one stage of maps ({named})' if maps else 'no stage of maps'}: use "
            "architecture=pad_net, or a backbone such as cnn or resnet18"
        )
    if stages is None:
        return maps[-MOST_SCALES:]
    chosen = sorted({stage - 1 for stage in stages})
    if len(chosen) < 2 or len(chosen) < len(stages) or not set(chosen) <= set(maps):
        raise ValueError(
            f"architecture.stages={list(stages)}: use two or more different ones of {named}, the "
            "stages of this backbone that are maps"
        )
    return chosen
