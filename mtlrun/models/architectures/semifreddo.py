"""A frozen network whose features each task's own network blends in."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.architectures.single_task import SingleTask
from mtlrun.models.backbones.base import Kept
from mtlrun.models.checks import expect_stages
from mtlrun.models.sharing.reading import run_stages
from mtlrun.models.sharing.units import with_padding_of
from mtlrun.types import Structure


class Semifreddo(SingleTask):
    """SemifreddoNets (Isikdogan, Nayak, Wu, Moreira, Rao and Michael, ECCV 2020, section 3).

    A frozen core, whose weights never change, and for each task a trainable core of the same shape.
    After each of the chosen stages a task's features become

        sigmoid(a) * frozen + (1 - sigmoid(a)) * trainable,

    with a learned scalar a for each task and stage, and the task's next stage reads those. The
    frozen core reads its own features only, so it runs once for all tasks of a stream, without
    gradients, and always as in evaluation: no dropout, batch normalisation by its statistics.

    The paper freezes a network trained on other data. Here ``model.init_from=RUN`` fills the frozen
    core, and the trainable ones too, with the backbone of a run of ``architecture=hps``, or the
    trainable cores alone with those of ``architecture=single_task``; a backbone with pretrained
    weights has them in all cores. Without either the frozen core is a random network, which is
    legal and seldom of use.

    The paper has two trainable cores, whose channels it shuffles, that together serve one task on
    special hardware; here each task has one core and there is no shuffle. Tasks share no trained
    weights.

    All cores start equal, so that blends change nothing at first, and a start from a trained
    network begins with its predictions.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads, behind the blend.
        mix_after: the stages after which features are blended, counted from 1; None for all.
            A task has those that are no later than what its head reads.

    Raises:
        ValueError: ``mix_after`` names no stage, one that is not there, or none that a head sees.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None = None,
        mix_after: Sequence[int] | None = None,
    ) -> None:
        super().__init__(make_backbone=make_backbone, streams=streams, reads=reads)
        self.backbone = make_backbone(0).requires_grad_(False).eval()
        count = len(self.backbone.stages)
        if mix_after is not None and not mix_after:
            raise ValueError(
                "architecture.mix_after=[] takes nothing from the frozen core. Use stages, counted "
                "from 1, or architecture=single_task"
            )
        mixed = expect_stages("mix_after", mix_after, count)
        # For each task the stages that are blended; those behind what its head reads are not made
        self.mixed_of = {
            task: [stage for stage in mixed if stage <= self.reading.deepest([task])]
            for task in self.stream_of
        }
        for task, stages in self.mixed_of.items():
            if not stages:
                raise ValueError(
                    f"architecture.mix_after={[stage + 1 for stage in mixed]}: the head of {task} "
                    f"reads stage {self.reading.deepest([task]) + 1} at the latest, and would get "
                    "nothing of the frozen core. Use earlier stages, or null for all"
                )
        self.mixed = [stage for stage in mixed if stage <= self.reading.deepest([*self.stream_of])]
        self.backbone.drop(range(self.mixed[-1] + 1, count))
        # For each task a for each of its blends; features start half frozen, half trainable
        self.alphas = nn.ParameterList(torch.zeros(len(own)) for own in self.mixed_of.values())
        self.alpha_of: dict[str, Tensor] = dict(zip(self.stream_of, self.alphas, strict=True))

    def train(self, mode: bool = True) -> Self:
        """The frozen core stays as in evaluation."""
        super().train(mode)
        self.backbone.eval()
        return self

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        frozen: dict[str, list[Tensor]] = {}
        for stream, here in self.by_stream(tasks).items():
            last = max(self.mixed_of[task][-1] for task in here)
            with torch.no_grad():
                frozen[stream] = run_stages(self.backbone, range(last + 1), inputs[stream], {})
        found: dict[str, Tensor] = {}
        for task in tasks:
            stream = self.stream_of[task]
            found[task] = self.reading(task, self._blended(task, inputs[stream], frozen[stream]))
        return found

    def _blended(self, task: str, inputs: Tensor, frozen: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of the stages of a task's core, each behind its blend."""
        backbone, shares = self.backbone_of[task], self.alpha_of[task].sigmoid()
        outputs: list[Tensor] = []
        kept: Kept = {}
        features = inputs
        mixed = self.mixed_of[task]
        for stage, layout in enumerate(backbone.layouts[: self.reading.deepest([task]) + 1]):
            features = backbone.step(stage, features, kept)
            if stage in mixed:
                share = shares[mixed.index(stage)].to(features.dtype)
                mixture = features + share * (frozen[stage] - features)
                (features,) = with_padding_of(frozen[stage], [mixture], layout)
            outputs.append(features)
        return outputs

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Those of the task's core, and of its blends."""
        alphas = list(self.alphas)[list(self.stream_of).index(task)]
        return [*super().task_parameters(task), alphas]

    def structure(self) -> list[Structure]:
        """The share of the frozen core in each task's features, after each blended stage; 0 after
        those that the task has not."""
        shares = torch.zeros(len(self.alphas), len(self.mixed), device=self.alphas[0].device)
        for row, alpha in zip(shares, self.alphas, strict=True):
            row[: len(alpha)] = alpha.detach().sigmoid()
        stages = tuple(f"stage {stage + 1}" for stage in self.mixed)
        return [Structure("frozen_share", tuple(self.stream_of), stages, shares)]
