"""Customized gate control."""

from collections.abc import Mapping, Sequence

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.architectures.ple import PLE
from mtlrun.types import InputKind


class CGC(PLE):
    """Customized gate control (Tang et al., RecSys 2020, section 4.1): shared and private experts.

    The gate of a task mixes the shared experts and its own, never those of other tasks. It is
    :class:`~mtlrun.models.architectures.ple.PLE` with one level.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        input_shape: of one input, without the batch.
        input_kind: of the inputs.
        reads: for each task the stages that its head reads.
        shared_experts: how many all tasks share.
        task_experts: how many each task has; without any this is MMoE.
        stem: stages in front of all experts; None for 0 where inputs are values, else 1.

    Raises:
        ValueError: a setting is wrong, or the backbone has too few stages.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        input_shape: Sequence[int],
        input_kind: InputKind = "values",
        reads: Mapping[str, Sequence[int]] | None = None,
        shared_experts: int = 2,
        task_experts: int = 1,
        stem: int | None = None,
    ) -> None:
        super().__init__(
            make_backbone=make_backbone,
            streams=streams,
            input_shape=input_shape,
            input_kind=input_kind,
            reads=reads,
            shared_experts=shared_experts,
            task_experts=task_experts,
            levels=1,
            stem=stem,
        )
