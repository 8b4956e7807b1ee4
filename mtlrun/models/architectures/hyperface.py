"""HyperFace: all tasks read stages of different depth, fused."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.architectures.base import Architecture, MakeBackbone
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_widths
from mtlrun.models.layers import Pointwise, channel_dimension, only_tokens, pooled, token_mask
from mtlrun.models.sharing.attention import brought
from mtlrun.models.sharing.probing import Shape, stage_shapes
from mtlrun.models.sharing.reading import stage_outputs
from mtlrun.types import InputKind, Layout, OutputShape


class HyperFace(Architecture):
    """Fusion of intermediate stages (Ranjan, Patel and Chellappa, TPAMI 2019, section 3.1).

    Shallow layers know where things are and deep ones what they are, and tasks want both. Of one
    backbone some stages are chosen; each but the last of them is brought to the last one's size and
    channels by a convolution whose kernel and stride are as large as the map is larger (4 and 2 for
    AlexNet's conv1 and conv3, against pool5); the results stand side by side, and a 1x1 convolution
    to ``channels`` fuses them. All tasks read that, or, with ``hidden``, a fully connected layer on
    it. Each layer is followed by a ReLU.

    The paper's own network has ``hidden=3072``, and heads with a hidden layer of 512
    (``heads=mlp heads.hidden=[512]``). Tasks for each pixel or token read the fused map or sequence
    itself, with ``hidden=null``. Maps smaller than the last one are interpolated behind a 1x1
    convolution. Vectors and sequences are brought to the last one's channels by a linear layer.
    Where the stages' layouts differ, all are averaged over their positions, and vectors are fused.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        input_kind: of the inputs.
        input_shape: of one input.
        outputs: for each task the shape of its prediction.
        stages: that are fused, counted from 1. None is the first, the middle and the last.
        channels: of the fused features; the paper's 192.
        hidden: width of the fully connected layer; None is without.

    Raises:
        ValueError: a setting is wrong, or gives one vector a row where a task wants more.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        input_kind: InputKind,
        input_shape: Sequence[int],
        outputs: Mapping[str, OutputShape],
        stages: Sequence[int] | None = None,
        channels: int = 192,
        hidden: int | None = None,
    ) -> None:
        super().__init__(streams=streams)
        expect_widths("channels", [channels])
        self.backbone = make_backbone(0)
        self.chosen = _chosen(self.backbone, stages)
        self._one = len(streams) == 1
        _expect_places(self.backbone, self.chosen, hidden, outputs)
        shapes = stage_shapes(self.backbone, input_kind, input_shape)
        self.backbone.drop(range(self.chosen[-1] + 1, len(self.backbone.stages)))
        parts = [shapes[stage].output for stage in self.chosen]
        if len({part.layout for part in parts}) > 1:
            parts = [Shape("vector", part.channels, (1, 1)) for part in parts]
        self.fused_layout: Layout = parts[-1].layout
        self.bring = nn.ModuleList(Bring(part, parts[-1]) for part in parts[:-1])
        self.fuse = Pointwise(self.fused_layout, len(parts) * parts[-1].channels, channels)
        self.channels = channels
        self.hidden: nn.Linear | None = None
        if hidden is not None:
            expect_widths("hidden", [hidden])
            positions = parts[-1].size[0] * parts[-1].size[1]
            self.hidden = nn.Linear(channels * positions, hidden)

    @property
    def one_representation(self) -> bool:
        """True where there is one stream."""
        return self._one

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        found = {stream: self._fused(inputs[stream]) for stream in self.by_stream(tasks)}
        return {task: found[self.stream_of[task]] for task in tasks}

    def _fused(self, inputs: Tensor) -> Tensor:
        """What all tasks of a stream read."""
        outputs = stage_outputs(self.backbone, inputs, self.chosen[-1])
        parts = [outputs[stage] for stage in self.chosen]
        if self.fused_layout == "vector":
            layouts = [self.backbone.layouts[stage] for stage in self.chosen]
            parts = [pooled(part, layout) for part, layout in zip(parts, layouts, strict=True)]
        last = parts[-1]
        beside = [bring(part, last) for bring, part in zip(self.bring, parts[:-1], strict=True)]
        joined = torch.cat([*beside, last], channel_dimension(self.fused_layout))
        fused = F.relu(self.fuse(joined))
        if self.hidden is not None:
            flat = pooled(fused, "sequence") if fused.ndim == 3 else fused.flatten(1)
            return F.relu(self.hidden(flat))
        return only_tokens(fused, token_mask(last)) if fused.ndim == 3 else fused

    def shared_parameters(self) -> list[nn.Parameter]:
        """All of them."""
        return list(self.parameters())

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """None: a task has its head alone."""
        del task
        return []

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The fully connected layer, or the fusing one."""
        layer = self.fuse.linear if self.hidden is None else self.hidden
        assert isinstance(layer.weight, nn.Parameter)
        return [layer.weight]

    def out_channels(self, task: str) -> int:
        """Those of the fused features, or of the fully connected layer."""
        del task
        return self.channels if self.hidden is None else self.hidden.out_features

    def layout(self, task: str) -> Layout:
        """Of the fused features; vectors behind the fully connected layer."""
        del task
        return self.fused_layout if self.hidden is None else "vector"


class Bring(nn.Module):
    """Features of a stage at the size and with the channels of another: one layer and ReLU.

    Args:
        part: shape of the features.
        last: shape wanted, of the same layout.
    """

    def __init__(self, part: Shape, last: Shape) -> None:
        super().__init__()
        self.layer: nn.Module
        if part.layout == "map":
            steps = [max(a // b, 1) for a, b in zip(part.size, last.size, strict=True)]
            kernel = (steps[0], steps[1])
            self.layer = nn.Conv2d(part.channels, last.channels, kernel, kernel)
        else:
            self.layer = Pointwise(part.layout, part.channels, last.channels)

    def forward(self, features: Tensor, last: Tensor) -> Tensor:
        """Features of the size of ``last``; where the stride does not divide the map, what is left
        of the difference is pooled or interpolated."""
        return brought(F.relu(self.layer(features)), last)


def _chosen(backbone: Backbone, stages: Sequence[int] | None) -> list[int]:
    """The stages that are fused, counted from 0, in order.

    Raises:
        ValueError: there are no such stages.
    """
    count = len(backbone.stages)
    if stages is None:
        return sorted({0, (count - 1) // 2, count - 1})
    if not stages or any(not 1 <= stage <= count for stage in stages):
        raise ValueError(
            f"architecture.stages={list(stages)} must name stages, and this backbone has 1 to "
            f"{count}: use architecture.stages=null for the first, the middle and the last"
        )
    return sorted({stage - 1 for stage in stages})


def _expect_places(
    backbone: Backbone,
    chosen: Sequence[int],
    hidden: int | None,
    outputs: Mapping[str, OutputShape],
) -> None:
    """Raise a ValueError where a task predicts for each pixel or token, and features are vectors.

    Args:
        backbone: any copy of it.
        chosen: the stages that are fused.
        hidden: width of the fully connected layer.
        outputs: for each task the shape of its prediction.
    """
    dense = [task for task, output in outputs.items() if output.per != "row"]
    if not dense:
        return
    per = outputs[dense[0]].per
    if hidden is not None:
        raise ValueError(
            f"architecture.hidden={hidden} gives one vector a row, and task {dense[0]} predicts "
            f"for each {per}: use architecture.hidden=null"
        )
    layouts = [backbone.layouts[stage] for stage in chosen]
    if len(set(layouts)) > 1:
        wanted = "map" if per == "pixel" else "sequence"
        same = [n + 1 for n, layout in enumerate(backbone.layouts) if layout == wanted]
        advice = f"architecture.stages={same[:1] + same[1:][-1:]}" if same else "architecture=hps"
        raise ValueError(
            "architecture=hyperface fuses stages of different layouts "
            f"({', '.join(layouts)}) as one vector a row, and task {dense[0]} predicts for each "
            f"{per}: use {advice}"
        )
