"""Initial predictions of all tasks, and distillation between them."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mtlrun.models.architectures.base import Architecture, MakeBackbone, Pass
from mtlrun.models.checks import expect_choice
from mtlrun.models.sharing.distillation import (
    GATES,
    Dense,
    Distillation,
    Initial,
    bottlenecks,
    last_matrices,
)
from mtlrun.models.sharing.reading import stage_outputs
from mtlrun.settings import check_not_negative, check_whole
from mtlrun.types import Layout, OutputShape, Structure


class PADNet(Architecture):
    """PAD-Net: multi-tasks guided prediction and distillation (Xu et al., CVPR 2018, section 3).

    A branch for each task makes features F_t of the backbone's last stage, and a linear layer a
    first prediction of them, with the task's own loss (the terms ``initial_TASK``). Then each task
    gets messages from all others, weighed by attention (the paper's module C, its best), see
    :class:`~mtlrun.models.sharing.distillation.Distillation`; its head reads the sum.

    Branches are two residual bottlenecks, as in the code by which PAD-Net is compared (Vandenhende
    et al., Multi-Task-Learning-PyTorch; the authors published none). There and in MTI-Net's paper
    the attention on a message comes from the features it is made of: ``gate=source``. In PAD-Net's
    own formula it comes from the receiving task's, and is one for all its messages:
    ``gate=target``.

    Made for maps and dense tasks. On vectors and sequences branches are two linear layers with
    ReLUs, the messages' convolutions linear layers, and a task with one prediction a row makes its
    first one from the mean over positions.

    All branches run for any task, and so each task's loss trains them all.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks. Streams go through everything one after the other; on
            each, the branches of all tasks run.
        outputs: for each task the shape of its prediction.
        channels: of each task's features; a multiple of 4.
        deep_supervision: weight of each initial prediction's loss; 0 leaves the predictions out.
        gate: ``source`` or ``target``.

    Raises:
        ValueError: a setting is wrong, or a task predicts for something that the backbone's last
            stage does not keep.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        outputs: Mapping[str, OutputShape],
        channels: int = 64,
        deep_supervision: float = 1.0,
        gate: str = "source",
    ) -> None:
        super().__init__(streams=streams)
        check_whole("architecture.channels", channels, 4)
        check_not_negative(**{"architecture.deep_supervision": deep_supervision})
        expect_choice("architecture.gate", gate, GATES)
        if channels % 4:
            raise ValueError(
                f"architecture.channels={channels} must be a multiple of 4, for bottlenecks: use "
                f"{channels - channels % 4}"
            )
        self.backbone = make_backbone(0)
        self.channels = channels
        self._layout: Layout = self.backbone.layouts[-1]
        self.tasks = list(self.stream_of)
        self.branches = nn.ModuleList(self._branch() for _ in self.tasks)
        self.distillation = Distillation(self.tasks, self._layout, channels, gate, "messages")
        self.initial: Initial | None = None
        if deep_supervision > 0:
            of = {task: outputs[task] for task in self.tasks}
            self.initial = Initial(self._layout, channels, of)
            self.terms = dict.fromkeys(self.initial.terms.values(), deep_supervision)

    def _branch(self) -> nn.Module:
        """From the backbone's features to a task's."""
        before = self.backbone.channels[-1]
        if self._layout == "map":
            return bottlenecks(before, self.channels)
        return Dense(self._layout, before, self.channels)

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        return self._run(inputs, tasks, None).features

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        """See :meth:`Architecture.with_terms`."""
        return self._run(inputs, tasks, self.initial)

    def _run(
        self, inputs: Mapping[str, Tensor], tasks: Sequence[str], initial: Initial | None
    ) -> Pass:
        """Features of ``tasks``, and where asked for their initial predictions."""
        found = Pass({})
        branched: dict[str, list[Tensor]] = {}
        for stream in self.by_stream(tasks):
            last = stage_outputs(self.backbone, inputs[stream])[-1]
            branched[stream] = [branch(last) for branch in self.branches]
        for task in tasks:
            features = branched[self.stream_of[task]]
            found.features[task] = self.distillation(features, self.tasks.index(task))
            if initial is not None:
                initial.add(found, features, [task])
        return found

    def shared_parameters(self) -> list[nn.Parameter]:
        """The backbone's and all branches', which every task's features pass on."""
        return [*self.backbone.parameters(), *self.branches.parameters()]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Those of the messages to the task."""
        return self.distillation.parameters_of(self.tasks.index(task))

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The last layers of all branches, side by side."""
        return last_matrices(self.branches)

    def out_channels(self, task: str) -> int:
        """Channels of each task's features."""
        del task
        return self.channels

    def layout(self, task: str) -> Layout:
        """That of the backbone's last stage."""
        del task
        return self._layout

    def start_evaluation(self) -> None:
        """Forget the messages of the evaluation before."""
        self.distillation.clear()

    def structure(self) -> list[Structure]:
        """How large the messages are beside the features that they are added to."""
        return [self.distillation.table()] if len(self.tasks) > 1 else []
