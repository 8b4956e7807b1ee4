"""A shared network that cannot tell the tasks apart, beside a private one for each task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun.models.architectures.base import MakeBackbone, Pass
from mtlrun.models.architectures.hps import HPS
from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.checks import expect_choice
from mtlrun.models.layers import channel_dimension, pooled
from mtlrun.models.sharing.reading import run_stages
from mtlrun.settings import check_not_negative
from mtlrun.types import InputKind, Structure

ADVERSARY, ORTHOGONALITY = "adversary", "orthogonality"
FORMS = ("normalised", "paper")
LAMBDA, GAMMA = 0.05, 0.01
"""The paper's weights of the two terms, section 6.2."""


@dataclass
class _SharedPass:
    """A stream's pass through the shared backbone.

    Attributes:
        features: that the first private stages read.
        kept: by the stages in front of those.
        outputs: of all stages.
    """

    features: Tensor
    kept: Kept
    outputs: list[Tensor]


class SharedPrivate(HPS):
    """Adversarial shared-private networks (Liu, Qiu and Huang, ACL 2017, sections 4 and 5).

    A head reads the features of a backbone that all tasks share, and beside them, as further
    channels, those of its task's own. Two terms keep the two kinds of features apart:

    * ``adversary``: a linear discriminator says from the shared features which task a row is of,
      and the shared backbone is trained against it by gradient reversal: what it learns then serves
      all tasks. Rows of tasks that read the same stream are the same rows, so what is told apart
      are streams. The value is the cross-entropy, a mean over the rows of each stream, summed over
      the step's streams. The discriminator's parameters are trained by this term alone.
    * ``orthogonality``: the squared Frobenius norm of S^T P, where the rows of S and P, [N, C], are
      the shared and the private features of the batch, summed over the tasks of the step.

    Both read means over positions of what the heads read. The paper's features are the last states
    of LSTMs, its mini-batches 16 rows of one task.

    ``orthogonality_form`` says what is summed:

    * ``normalised``: as in the code of Domain Separation Networks (Bousmalis et al., NeurIPS 2016)
      and in FrankWork/fudan_mtl_reviews, the port of the paper whose tables are known: the mean of
      the batch is taken off, each row has length 1, and the value is the mean of the C x C squares;
    * ``paper``: the features as they are, and the sum of the squares. It grows with the square of
      the batch and of the width and with the fourth power of the features' size. The paper's 0.01,
      made for 16 rows of small features, drives all features of a wide ReLU network to 0 within an
      epoch: choose the weight with care.

    ``stem`` is the number of first stages of the shared backbone that private ones build on: the
    word vectors of a backbone for text, which the paper's networks have in common.

    Private backbones all start from the weights of copy 1: what a task starts from does not hang on
    which others there are.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads, of both backbones.
        input_kind: of the inputs.
        private: whether there are private backbones; without them this is hard parameter sharing.
        stem: stages in front of both; None is 0, or 1 where inputs are codes (tokens, columns) and
            there is a stage behind it.
        adversarial: weight of ``adversary``, lambda in the paper; None is 0.05 where there are
            several streams, else 0.
        orthogonality: weight of ``orthogonality``, gamma in the paper; None is 0.01 where there are
            private backbones, else 0.
        orthogonality_form: ``normalised`` or ``paper``, see above.

    Raises:
        ValueError: a weight is below 0, or asks for a term that has nothing to work on; ``stem``
            leaves no stage, or a head reads one in front of it.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None = None,
        input_kind: InputKind = "values",
        private: bool = True,
        stem: int | None = None,
        adversarial: float | None = None,
        orthogonality: float | None = None,
        orthogonality_form: str = "normalised",
    ) -> None:
        super().__init__(make_backbone=make_backbone, streams=streams, reads=reads)
        expect_choice("architecture.orthogonality_form", orthogonality_form, FORMS)
        self.terms = _weights(len(streams), private, adversarial, orthogonality)
        self.form = orthogonality_form
        # What heads read of each backbone
        self.stages = sorted({stage for task in self.stream_of for stage in self.reading.of(task)})
        self.stem = self._stem(stem, input_kind, private)
        self.label_of = {stream: label for label, stream in enumerate(streams)}
        self.private_of: dict[str, Backbone] = (
            {task: make_backbone(1) for task in self.stream_of} if private else {}
        )
        for task, backbone in self.private_of.items():
            beyond = range(self.reading.deepest([task]) + 1, len(backbone.stages))
            backbone.drop([*range(self.stem), *beyond])  # nobody reads these
        self.backbones = nn.ModuleList(self.private_of.values())
        if ADVERSARY in self.terms:
            width = sum(self.reading.channels[stage] for stage in self.stages)
            self.discriminator = nn.Linear(width, len(streams))
        # Of evaluations: sums of the features' lengths, and rows; [T, shared and private]
        self.lengths: Tensor
        self.rows: Tensor
        sums = torch.zeros(len(self.private_of), 2)
        self.register_buffer("lengths", sums, persistent=False)
        self.register_buffer("rows", torch.zeros_like(sums), persistent=False)

    def _stem(self, stem: int | None, input_kind: InputKind, private: bool) -> int:
        """The number of stages in front of the shared and the private ones."""
        if not private:
            if stem:
                raise ValueError(
                    f"architecture.stem={stem}: with architecture.private=false nothing stands "
                    "beside the shared backbone. Use architecture.stem=0, or null"
                )
            return 0
        first, last = self.stages[0], len(self.reading.channels) - 1
        if stem is None:
            return min(0 if input_kind == "values" else 1, first)
        if not 0 <= stem <= last:
            raise ValueError(
                f"architecture.stem={stem} leaves no private stage, or is none: this backbone has "
                f"{last + 1} stages. Use architecture.stem=0" + (f" to {last}" if last else "")
            )
        if first < stem:
            raise ValueError(
                f"architecture.stem={stem}: a head reads stage {first + 1}, which shared and "
                f"private backbones then have in common. Use architecture.stem={first}"
            )
        return stem

    @property
    def one_representation(self) -> bool:
        """False with private backbones; without them as in hard parameter sharing."""
        return not self.private_of and super().one_representation

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        return self._joined(*self._both(tasks, self._shared(inputs, tasks)))

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        """See :meth:`Architecture.with_terms`."""
        # The discriminator reads what any head of any task reads
        deepest = self.stages[-1] if ADVERSARY in self.terms else None
        passes = self._shared(inputs, tasks, deepest)
        shared, private = self._both(tasks, passes)
        found = Pass(self._joined(shared, private))
        if ADVERSARY in self.terms:
            found.terms[ADVERSARY] = self._adversary(passes)
        if ORTHOGONALITY in self.terms:
            layouts = [self.reading.layout(task) for task in tasks]
            parts = [
                overlap(pooled(shared[task], layout), pooled(private[task], layout), self.form)
                for task, layout in zip(tasks, layouts, strict=True)
            ]
            found.terms[ORTHOGONALITY] = torch.stack(parts).sum()
        return found

    def _shared(
        self, inputs: Mapping[str, Tensor], tasks: Sequence[str], deepest: int | None = None
    ) -> dict[str, _SharedPass]:
        """For each stream of the tasks its pass through the shared backbone.

        Args:
            inputs: see :meth:`Architecture.features`.
            tasks: likewise.
            deepest: the last stage wanted, counted from 0; None is what the tasks' heads read.
        """
        passes: dict[str, _SharedPass] = {}
        for stream, here in self.by_stream(tasks).items():
            last = self.reading.deepest(here) if deepest is None else deepest
            kept: Kept = {}
            stem = run_stages(self.backbone, range(self.stem), inputs[stream], kept)
            features = stem[-1] if stem else inputs[stream]
            left = dict(kept)
            behind = range(self.stem, last + 1)
            outputs = [*stem, *run_stages(self.backbone, behind, features, kept)]
            passes[stream] = _SharedPass(features, left, outputs)
        return passes

    def _both(
        self, tasks: Sequence[str], passes: Mapping[str, _SharedPass]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """For each task what its head reads of the shared backbone, and of its own if any."""
        shared: dict[str, Tensor] = {}
        for stream, found in passes.items():
            here = [task for task in tasks if self.stream_of[task] == stream]
            shared |= self.reading.shared(here, found.outputs)
        private: dict[str, Tensor] = {}
        for task in tasks if self.private_of else ():
            found, backbone = passes[self.stream_of[task]], self.private_of[task]
            behind = range(self.stem, self.reading.deepest([task]) + 1)
            own = run_stages(backbone, behind, found.features, dict(found.kept))
            private[task] = self.reading(task, [*found.outputs[: self.stem], *own])
        return {task: shared[task] for task in tasks}, private

    def _joined(
        self, shared: Mapping[str, Tensor], private: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Shared and private features side by side; both are 0 at the same padding."""
        joined = dict(shared)
        for task, own in private.items():
            if not self.training:
                self._note(task, shared[task], own)
            joined[task] = torch.cat([shared[task], own], channel_dimension(self.layout(task)))
        return joined

    def _adversary(self, passes: Mapping[str, _SharedPass]) -> Tensor:
        """The discriminator's cross-entropy, summed over streams; it drives the backbone up."""
        losses = []
        for stream, found in passes.items():
            read = [(found.outputs[stage], self.reading.layouts[stage]) for stage in self.stages]
            vectors = [pooled(features, layout) for features, layout in read]
            logits = self.discriminator(reversed_gradient(torch.cat(vectors, 1)))
            labels = torch.full((len(logits),), self.label_of[stream], device=logits.device)
            losses.append(F.cross_entropy(logits, labels))
        return torch.stack(losses).sum()

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Those of the task's private backbone, and of shared stages that its head alone reads."""
        own = self.private_of.get(task)
        alone = super().task_parameters(task)
        return alone if own is None else [*alone, *own.parameters()]

    def out_channels(self, task: str) -> int:
        """Channels of both backbones' features."""
        return self.reading.out_channels(task) * (2 if self.private_of else 1)

    # -- how long the features are -----------------------------------------------------------------

    def start_evaluation(self) -> None:
        """Forget the rows of the evaluation before."""
        self.lengths.zero_()
        self.rows.zero_()

    @torch.no_grad()
    def _note(self, task: str, shared: Tensor, private: Tensor) -> None:
        """Add the lengths of a batch's features, means over positions, to those of the split."""
        place = list(self.private_of).index(task)
        for column, features in enumerate((shared, private)):
            vectors = pooled(features, self.reading.layout(task)).float()
            self.lengths[place, column] += vectors.norm(dim=1).sum()
        self.rows[place] += len(shared)

    def structure(self) -> list[Structure]:
        """The mean length of the shared and the private features that each head reads."""
        if not self.private_of:
            return []
        means = self.lengths / self.rows.clamp(min=1)
        return [Structure("feature_norm", tuple(self.private_of), ("shared", "private"), means)]


def overlap(shared: Tensor, private: Tensor, form: str) -> Tensor:
    """The squared Frobenius norm of S^T P, a scalar.

    Args:
        shared: S, [N, C].
        private: P, [N, C].
        form: see :class:`SharedPrivate`.
    """
    if form == "paper":
        return (shared.T @ private).square().sum()
    shared, private = (F.normalize(part - part.mean(0)) for part in (shared, private))
    return (shared.T @ private).square().mean()


def reversed_gradient(features: Tensor) -> Tensor:
    """The features; gradients come back with the opposite sign (Ganin and Lempitsky, ICML 2015)."""
    return 2 * features.detach() - features  # exactly the features: doubling rounds nothing


def _weights(
    streams: int, private: bool, adversarial: float | None, orthogonality: float | None
) -> dict[str, float]:
    """The terms and their weights.

    Raises:
        ValueError: a weight is below 0, or asks for a term that has nothing to work on.
    """
    if adversarial is None:
        adversarial = LAMBDA if streams > 1 else 0.0
    if orthogonality is None:
        orthogonality = GAMMA if private else 0.0
    check_not_negative(adversarial=adversarial, orthogonality=orthogonality)
    if adversarial > 0 and streams == 1:
        raise ValueError(
            f"architecture.adversarial={adversarial}: all tasks of this dataset read the same "
            "rows, so there is nothing by which shared features could tell the tasks apart. "
            "Use architecture.adversarial=0, or null"
        )
    if orthogonality > 0 and not private:
        raise ValueError(
            f"architecture.orthogonality={orthogonality}: with architecture.private=false there "
            "are no private features. Use architecture.orthogonality=0, or null"
        )
    weights = {ADVERSARY: adversarial, ORTHOGONALITY: orthogonality}
    return {name: weight for name, weight in weights.items() if weight > 0}
