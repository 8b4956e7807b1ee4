"""Networks that are pulled towards each other."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.checks import expect_choice
from mtlrun.models.sharing.soft_sharing import SoftSharing

TO = ("pairs", "mean")


class SoftL2(SoftSharing):
    """Soft parameter sharing by squared distances (Duong, Cohn, Bird and Cook, ACL 2015).

    One network a task, all of one shape, and the term ``distance``: the sum over pairs of tasks of
    ``|W_i - W_j|^2``, where W are all weights, biases and scales of the chosen stages. The paper
    pulls the parser of a language with few trees towards that of one with many, and leaves word
    vectors out, which no two languages have in common (``stages`` can do so here).

    The sum over T tasks' pairs is T times that of ``|W_i - mean W|^2``, which ``to=mean`` takes:
    the pull on a network then does not grow with the number of tasks.

    All networks start equal. A gradient step shrinks differences by ``2 * learning rate * weight``
    (times T for pairs), so under SGD this product must stay below 2; it is like a weight decay
    towards the mean network.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads.
        weight: of the term; 0 is ``single_task``.
        to: ``pairs`` or ``mean``, see above.
        stages: whose weights are held together, counted from 1; None for all.

    Raises:
        ValueError: where a setting is wrong.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None = None,
        weight: float = 0.01,
        to: str = "pairs",
        stages: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            make_backbone=make_backbone,
            streams=streams,
            reads=reads,
            term="distance",
            weight=weight,
            stages=stages,
        )
        expect_choice("architecture.to", to, TO)
        self.distances = to

    def penalty(self) -> Tensor:
        """The sum of the squared distances."""
        pairs = self.distances == "pairs"  # their sum is so many times that from the mean
        spreads = [spread(p) * (len(p) if pairs else 1) for p in self.corresponding]
        return torch.stack(spreads).sum()


def spread(parameters: Sequence[Tensor]) -> Tensor:
    """The sum of the squared distances of some tensors from their mean, a scalar."""
    stacked = torch.stack(list(parameters))
    return (stacked - stacked.mean(0)).square().sum()
