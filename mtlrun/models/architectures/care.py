"""Contextual attention-based representation learning."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.layers import channel_dimension, only_tokens, token_mask
from mtlrun.models.sharing.contexts import expect_contexts, sentence_contexts
from mtlrun.models.sharing.shared_experts import SharedExperts
from mtlrun.settings import check_positive, check_whole
from mtlrun.types import InputKind, Layout, Structure


class CARE(SharedExperts):
    """CARE (Sodhani, Zhang and Pineau, ICML 2021, sections 4.1 and 4.2).

    A vector says what is known of a task, its context. Layers that all tasks share make of it the
    task encoding c = ReLU(linear(ReLU(linear(context)))), 2 ``width`` and ``width`` wide, and of c
    the attention g = softmax(MLP(c) / temperature) over the encoders, by two hidden layers of
    ``width``. A head reads z = sum_j g_j f_j(x), and beside it c, as the paper's policies do. So
    tasks with like contexts use like encoders; the attention is the same for all rows.

    The paper's contexts are embeddings, by a pretrained language model that is held fixed, of
    sentences that describe the tasks: ``descriptions`` and ``path`` (here the mean over the tokens
    of the last layer), or ``contexts`` where they were made elsewhere. With neither, which is not
    the paper's, each task learns a vector of ``width`` numbers of its own.

    With ``top`` a task uses the encoders of its largest attention alone, g divided by its sum over
    these: the gate of the authors' code (facebookresearch/mtrl), whose encoder "gate" has 2. All
    encoders are computed nonetheless. That code puts a ReLU on the sentence embedding itself, which
    loses its negative half; the paper has none, and neither has this. As in the code, these layers
    begin with Xavier's uniform weights and without bias. One encoder without ``concat_context`` is
    hard parameter sharing.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks. Streams go through the encoders one after the other.
        input_shape: of one input, without the batch.
        input_kind: of the inputs.
        reads: for each task the stages that its head reads.
        encoders: how many; copies of the backbone behind the stem.
        width: of the task encodings.
        temperature: of the softmax; large ones make the attention even.
        top: encoders that a task uses; None for all.
        concat_context: whether heads read c beside z: further channels, the same at all positions.
        contexts: for each task its context; None to learn it, or for ``descriptions``.
        descriptions: for each task a sentence.
        path: folder of the model and the tokenizer that read them.
        stem: stages that are common to all encoders; None for 0 where inputs are values, and 1
            where they are tokens or columns of codes.

    Raises:
        ValueError: a setting is wrong or has no effect, tasks are missing from ``contexts`` or
            ``descriptions``, or their contexts differ in length.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        input_shape: Sequence[int],
        input_kind: InputKind = "values",
        reads: Mapping[str, Sequence[int]] | None = None,
        encoders: int = 4,
        width: int = 50,
        temperature: float = 1.0,
        top: int | None = None,
        concat_context: bool = True,
        contexts: Mapping[str, Sequence[float]] | None = None,
        descriptions: Mapping[str, str] | None = None,
        path: str | None = None,
        stem: int | None = None,
    ) -> None:
        check_whole("architecture.encoders", encoders, 1)
        check_whole("architecture.width", width, 1)
        check_positive("architecture.temperature", temperature)
        if top is not None and not 1 <= top <= encoders:
            raise ValueError(
                f"architecture.top={top}: there are {encoders} encoders: use 1 to {encoders}, or "
                "null for all"
            )
        super().__init__(
            make_backbone=make_backbone,
            streams=streams,
            reads=reads,
            input_kind=input_kind,
            input_shape=input_shape,
            experts=encoders,
            stem=stem,
            gates_read=False,
        )
        self.temperature, self.top = temperature, top
        self.width = width if concat_context else 0
        fixed = _fixed(list(self.stream_of), contexts, descriptions, path)
        self.contexts: Tensor | None
        self.register_buffer("contexts", fixed)
        self.learned = nn.ParameterList()
        self.encode: nn.Module | None = None
        self.attend: nn.Module | None = None
        if encoders == 1 and not concat_context:
            return
        if fixed is None:
            self.learned.extend(torch.randn(width) for _ in self.stream_of)
        size = width if fixed is None else fixed.shape[1]
        self.encode = nn.Sequential(*_layers([size, 2 * width, width]))
        if encoders > 1:
            self.attend = nn.Sequential(*_layers([width, width, width, encoders])[:-1])

    @property
    def one_representation(self) -> bool:
        """False, but where there is one encoder and nothing beside it, which is hard sharing."""
        return super().one_representation and self.encode is None

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        below = self.below(inputs, tasks)
        if self.encode is None:
            return self.above(below, {}, tasks)
        encodings = {task: self.encoding(task) for task in tasks}
        weights = {
            task: self.attention(encodings[task]) for task in tasks if self.attend is not None
        }
        found = self.above(below, weights, tasks)
        if not self.width:
            return found
        return {
            task: beside(features, encodings[task], self.layout(task))
            for task, features in found.items()
        }

    def encoding(self, task: str) -> Tensor:
        """c, [width]. By itself, so that no task's loss reaches another's context."""
        assert self.encode is not None
        number = self._number[task]
        known = self.learned[number] if self.contexts is None else self.contexts[number]
        found: Tensor = self.encode(known)
        return found

    def attention(self, encoding: Tensor) -> Tensor:
        """What a task takes of each encoder, [encoders].

        Args:
            encoding: of the task, [width].
        """
        assert self.attend is not None
        weights: Tensor = (self.attend(encoding) / self.temperature).softmax(0)
        if self.top is None:
            return weights
        chosen = torch.zeros_like(weights).scatter(0, weights.topk(self.top).indices, 1.0)
        return weights * chosen / (weights * chosen).sum()

    # -- parameters --------------------------------------------------------------------------------

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those of the encoders and of the layers behind the contexts."""
        layers = [part for part in (self.encode, self.attend) if part is not None]
        return [*super().shared_parameters(), *(p for part in layers for p in part.parameters())]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """The task's context where it is learned, and the stages that its head alone reads."""
        context = [self.learned[self._number[task]]] if len(self.learned) else []
        return [*context, *super().task_parameters(task)]

    def out_channels(self, task: str) -> int:
        """Channels of the stages that the task's head reads, and of the encoding beside them."""
        return super().out_channels(task) + self.width

    def structure(self) -> list[Structure]:
        """The attention of each task on each encoder, where there is a choice."""
        return [] if self.attend is None else [self.usage.table()]


def beside(features: Tensor, encoding: Tensor, layout: Layout) -> Tensor:
    """Features with a task encoding as further channels, the same at all positions.

    Args:
        features: of the layout, C channels.
        encoding: [D].
        layout: of the features.

    Returns:
        C + D channels; a sequence's padding stays 0.
    """
    encoding = encoding.to(features.dtype)
    if layout == "map":
        encoding = encoding[:, None, None]
    dimension = channel_dimension(layout)
    shape = [*features.shape]
    shape[dimension] = len(encoding)
    both = torch.cat([features, encoding.expand(shape)], dimension)
    return only_tokens(both, token_mask(features)) if layout == "sequence" else both


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    """Linear layers, each with a ReLU behind it; Xavier's uniform weights, biases of 0."""
    layers: list[nn.Module] = []
    for size, width in pairwise(widths):
        linear = nn.Linear(size, width)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return layers


def _fixed(
    tasks: Sequence[str],
    contexts: Mapping[str, Sequence[float]] | None,
    descriptions: Mapping[str, str] | None,
    path: str | None,
) -> Tensor | None:
    """The contexts that are given, [T, size]; None where they are learned."""
    if contexts is not None and descriptions is not None:
        raise ValueError(
            "architecture.contexts and architecture.descriptions both say what the tasks are: use "
            "one of them, and null for the other"
        )
    if (descriptions is None) != (path is None):
        raise ValueError(
            "architecture.descriptions are read by the model in architecture.path: use both, or "
            "null for both"
        )
    if contexts is not None:
        return expect_contexts(tasks, contexts)
    if descriptions is not None and path is not None:
        return sentence_contexts(tasks, descriptions, path)
    return None
