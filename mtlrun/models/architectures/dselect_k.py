"""Differentiable selection of k experts."""

from collections.abc import Mapping, Sequence
from math import ceil, log2

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone, Pass
from mtlrun.models.sharing.experts import expect_count
from mtlrun.models.sharing.shared_experts import SharedExperts
from mtlrun.types import InputKind

W_RANGE = 0.05
"""Selectors' logits begin uniform in plus or minus this, and codes in gamma / 100."""
EPSILON = 1e-6
"""Keeps the logarithm of the entropy finite, as in the published code."""


def smooth_step(values: Tensor, gamma: float) -> Tensor:
    """0 up to -gamma / 2, 1 from gamma / 2, and in between the cubic that joins them smoothly.

    -2 z^3 / gamma^3 + 3 z / (2 gamma) + 1/2 (Hazimeh et al., ICML 2020).
    """
    scaled = (values / gamma).clamp(-0.5, 0.5)
    return scaled * (1.5 - 2 * scaled.square()) + 0.5


def selections(bits: Tensor) -> Tensor:
    """What a selector gives to each number that its bits may spell, [..., m] -> [..., 2^m].

    The product over the bits of b where the number has a 1, and of 1 - b where it has a 0; the
    first bit is the highest. They sum to 1.
    """
    found = torch.ones_like(bits[..., :1])
    for bit in bits.unbind(-1):
        bit = bit.unsqueeze(-1)
        found = torch.stack([found * (1 - bit), found * bit], -1).flatten(-2)
    return found


class Selectors(nn.Module):
    """A task's gate: a weighted sum of ``selectors`` selections of one expert each.

    Args:
        size: of what it reads; None for a gate that is the same for all rows.
        experts: to select from.
        selectors: k.
        gamma: width of the smooth step.
    """

    def __init__(self, size: int | None, experts: int, selectors: int, gamma: float) -> None:
        super().__init__()
        self.experts, self.selectors, self.gamma = experts, selectors, gamma
        self.bits = ceil(log2(experts))
        shape = (selectors * (self.bits + 1), *(() if size is None else (size,)))
        # Codes first, then the selectors' logits: one product gives both
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = None if size is None else nn.Parameter(torch.empty(shape[0]))
        for parameter in self.parameters():
            codes, logits = parameter.data.split([selectors * self.bits, selectors])
            codes.uniform_(-gamma / 100, gamma / 100)
            logits.uniform_(-W_RANGE, W_RANGE)

    def selected(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of the experts, and what each selector gives to each.

        Args:
            read: [N, size]; unread where the gate is the same for all rows.

        Returns:
            [N, E] and [N, k, E], or [E] and [k, E]. Where E is no power of two, selectors may give
            something to numbers that no expert has, and these do not sum to 1.
        """
        values: Tensor = self.weight
        if self.bias is not None:
            # Half precision, as autocast gives, is too coarse for what begins about one half
            values = nn.functional.linear(read, self.weight, self.bias).to(self.weight.dtype)
        codes, logits = values.split([self.selectors * self.bits, self.selectors], -1)
        bits = smooth_step(codes.unflatten(-1, (self.selectors, self.bits)), self.gamma)
        chosen = selections(bits)[..., : self.experts]
        return (logits.softmax(-1).unsqueeze(-1) * chosen).sum(-2), chosen

    def forward(self, read: Tensor) -> Tensor:
        """The weights of the experts, [N, E] or [E]."""
        return self.selected(read)[0]


class DSelectK(SharedExperts):
    """DSelect-k (Hazimeh et al., NeurIPS 2021): MMoE whose gates select k experts at most.

    A gate has k selectors. One picks an expert by its number in binary, m = ceil(log2 E) bits, each
    a smooth step of something learned: 0 or 1 beyond +-gamma / 2, and between where it is
    undecided. The selectors' sum, weighted by a softmax, is the gate. What is learned is a number
    for each task (``per_example=false``), or linear in what MMoE's gates read.

    Added to the objective, for each task of the step, are the sum of its selectors' entropies
    (``entropy``: it hurries them to decide) and, where E is no power of two, the sum of 1 / (what a
    selector gives to numbers that there are) (``unreachable``: it keeps them from the others).
    With ``per_example`` these are means over the rows, as losses are; the published code
    (google-research, dselect_k_moe) sums them, so its weights count as often as a batch has rows.

    One expert is hard parameter sharing, without a gate.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks. Streams go through stem and experts one after the other.
        input_shape: of one input, without the batch.
        input_kind: of the inputs.
        reads: for each task the stages that its head reads.
        experts: how many, E; each is a whole backbone behind the stem. All of them run.
        selectors: k, at most ``experts``.
        per_example: whether a gate depends on the input.
        gamma: width of the smooth step, above 0.
        entropy: weight of the selectors' entropy; 0 leaves it out.
        unreachable: weight of the other term.
        stem: stages in front of all experts; None for 0 where inputs are values, else 1.

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
        selectors: int = 2,
        per_example: bool = False,
        gamma: float = 1.0,
        entropy: float = 1e-6,
        unreachable: float = 1.0,
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
            gates_read=per_example,
        )
        _check(experts, selectors, gamma, entropy, unreachable)
        if experts == 1:
            return
        size = self.gate_input.size if per_example else None
        gates = [Selectors(size, experts, selectors, gamma) for _ in self.stream_of]
        self.gates = nn.ModuleList(gates)
        self._gate_of = dict(zip(self.stream_of, gates, strict=True))
        weights = {"entropy": entropy, "unreachable": unreachable}
        if experts == 2 ** gates[0].bits:
            del weights["unreachable"]
        self.terms = {name: weight for name, weight in weights.items() if weight > 0}

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        """Features, and what the selectors of ``tasks`` add to the objective."""
        if not self.terms:
            return Pass(self.features(inputs, tasks))
        below = self.below(inputs, tasks)
        weights: dict[str, Tensor] = {}
        chosen: list[Tensor] = []
        for task in tasks:
            read = below[self.stream_of[task]].read
            weights[task], selected = self._gate_of[task].selected(read)
            chosen.append(selected)
        made = {
            "entropy": lambda one: -(one * (one + EPSILON).log()).sum(-1),
            "unreachable": lambda one: 1 / one.sum(-1),
        }
        terms = {
            name: torch.stack([made[name](one).sum(-1).mean() for one in chosen]).sum()
            for name in self.terms
        }
        return Pass(self.above(below, weights, tasks), terms)


def _check(experts: int, selectors: int, gamma: float, entropy: float, unreachable: float) -> None:
    """Raise a ValueError where a setting is outside what there is."""
    expect_count("selectors", selectors, 1)
    if selectors > experts:
        raise ValueError(
            f"selectors={selectors} of experts={experts}: a gate cannot select more than there "
            f"are: use selectors={experts} or less"
        )
    if gamma <= 0:
        raise ValueError(f"gamma={gamma} must be above 0: use gamma=1")
    for name, weight in (("entropy", entropy), ("unreachable", unreachable)):
        if weight < 0:
            raise ValueError(f"{name}={weight} must be 0 or more: use {name}=0 to leave it out")
