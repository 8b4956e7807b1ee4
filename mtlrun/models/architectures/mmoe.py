"""Multi-gate mixture of experts."""

from collections.abc import Mapping, Sequence

from torch import nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.sharing.experts import SoftmaxGate
from mtlrun.models.sharing.shared_experts import SharedExperts
from mtlrun.types import InputKind


class MMoE(SharedExperts):
    """Multi-gate mixture of experts (Ma et al., KDD 2018, equations 5 to 7).

    Task t reads sum over e of g_t(x)_e f_e(x), where the experts f_e are shared, and its gate is
    g_t(x) = softmax(W_t x + b_t). (The paper has no bias; keras-mmoe and others have.) Maps and
    sequences are weighed as a whole. A gate reads what the experts read: the inputs themselves, as
    in the paper, or with a stem the mean of its output over positions. See
    :class:`~mtlrun.models.sharing.experts.GateInput` for images.

    One expert is hard parameter sharing.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks. Streams go through stem and experts one after the other.
        reads: for each task the stages that its head reads.
        input_kind: of the inputs.
        input_shape: of one input, without the batch.
        experts: how many; the paper has 8 of one layer with 16 units or fewer. An expert is a whole
            backbone (behind the stem), so that 4 of them are four times a run's work.
        stem: stages that are common to all experts, below the backbone's number; None for 0 where
            inputs are values, and 1 where they are tokens or columns of codes.

    Raises:
        ValueError: a setting is wrong, or the backbone has too few stages for a stem.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        input_shape: Sequence[int],
        input_kind: InputKind = "values",
        reads: Mapping[str, Sequence[int]] | None = None,
        experts: int = 4,
        stem: int | None = None,
    ) -> None:
        super().__init__(
            make_backbone=make_backbone,
            streams=streams,
            reads=reads,
            input_kind=input_kind,
            input_shape=input_shape,
            experts=experts,
            stem=stem,
        )
        if experts > 1:
            gates = [SoftmaxGate(self.gate_input.size, experts) for _ in self.stream_of]
            self.gates = nn.ModuleList(gates)
