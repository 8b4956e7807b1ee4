"""What architectures have in common whose networks are held together by a penalty."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone, Pass
from mtlrun.models.architectures.single_task import SingleTask
from mtlrun.models.checks import expect_stages
from mtlrun.settings import check_not_negative
from mtlrun.types import Structure


class SoftSharing(SingleTask):
    """One network a task, as in ``single_task``, and a term that all their weights enter.

    The term is that of all networks in every step, whichever tasks take part in it. No parameter is
    shared: a task's loss reaches its own network alone. With the weight 0 this is ``single_task``.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads.
        term: the term's name.
        weight: what it is multiplied by in the objective.
        stages: whose weights enter the term, counted from 1; None for all.
        dimensions: of a parameter, at least, to enter it.

    Attributes:
        corresponding: for each place in the network the parameters that the tasks have there; a
            task whose head reads earlier stages alone has none in later ones.

    Raises:
        ValueError: the weight is below 0, or the stages are wrong or hold nothing to train.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None,
        term: str,
        weight: float,
        stages: Sequence[int] | None,
        dimensions: int = 1,
    ) -> None:
        super().__init__(make_backbone=make_backbone, streams=streams, reads=reads)
        check_not_negative(weight=weight)
        chosen = expect_stages("stages", stages, len(self.reading.channels))
        self.corresponding: list[tuple[nn.Parameter, ...]] = []
        self._holders: list[list[int]] = []  # the tasks, by number, that each place is of
        networks_of = list(self.backbone_of.values())
        for stage in chosen:
            holders = [
                n for n, t in enumerate(self.backbone_of) if self.reading.deepest([t]) >= stage
            ]
            if len(holders) < min(2, len(self.backbone_of)):
                continue  # one task's stage is tied to no other's
            networks = [
                [
                    parameter
                    for parameter in networks_of[number].stages[stage].parameters()
                    if parameter.requires_grad and parameter.dim() >= dimensions
                ]
                for number in holders
            ]
            places = list(zip(*networks, strict=True))
            self.corresponding += places
            self._holders += [holders] * len(places)
        if not self.corresponding and weight > 0:
            raise ValueError(
                f"architecture.stages={stages}: these stages have no weights that are trained and "
                "could be held together. Use other stages, or architecture=single_task"
            )
        self.term = term
        if weight > 0:
            self.terms[term] = weight

    def penalty(self) -> Tensor:
        """The term's value, a scalar."""
        raise NotImplementedError  # abstract

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        """See :meth:`Architecture.with_terms`."""
        return Pass(self.features(inputs, tasks), {self.term: self.penalty()} if self.terms else {})

    @torch.no_grad()
    def structure(self) -> list[Structure]:
        """How far the tasks' networks are from each other, in the weights that the term ties."""
        count = len(self.backbones)
        squares = torch.zeros(count, count, device=next(self.parameters()).device)
        for parameters, holders in zip(self.corresponding, self._holders, strict=True):
            flat = torch.stack([parameter.flatten() for parameter in parameters]).float()
            flat = flat - flat.mean(0)  # what they have in common would round the rest away
            gramian = flat @ flat.T
            lengths = gramian.diagonal()
            found = (lengths.unsqueeze(0) + lengths.unsqueeze(1) - 2 * gramian).clamp(min=0)
            for number, row in zip(holders, found, strict=True):
                squares[number, holders] += row
        tasks = tuple(self.backbone_of)
        return [Structure("distance", tasks, tasks, squares.fill_diagonal_(0).sqrt())]
