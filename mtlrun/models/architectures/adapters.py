"""One backbone, and low-rank updates of its weights for each task."""

from collections.abc import Mapping, Sequence
from math import prod, sqrt

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.checks import expect_stages
from mtlrun.models.sharing.depth import behind_others, drop_unread, last_common_layer
from mtlrun.models.sharing.reading import Reading, StageReading
from mtlrun.settings import check_positive, check_whole
from mtlrun.types import Structure

ADAPTED = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)
"""Modules whose matrices are adapted. Scales, shifts, positions and the like stay shared."""

RUNNING = nn.modules.batchnorm._NormBase
"""Modules that may hold running statistics."""


class Adapters(StageReading):
    """Task-conditioned low-rank adapters on a shared backbone.

    Task t sees each matrix W of the adapted stages as W + (alpha / rank) B_t A_t (LoRA: Hu et al.,
    ICLR 2022, section 4.1), with A_t [rank, in] drawn as a linear layer's weights and B_t [out,
    rank] 0: so all tasks begin as they do in the architecture ``hps``. An update for each task on
    weights that all tasks train, or that are held fixed (``model.freeze=[backbone]``), is MTLoRA's
    (Agiza et al., CVPR 2024); its task-agnostic one is ``shared_rank``.

    The weights are summed before each pass, which is the same as a low-rank path beside each layer,
    costs rank x the size of the weights and nothing for each position, and serves whatever has a
    matrix: linear layers, convolutions (the kernel as a matrix, [out, in x height x width]; in
    groups, all groups' inputs share A), recurrent layers and attention. LoRA's dropout of the
    path's inputs has no place there.

    Batch normalisation keeps running statistics for each task, since each sees features of its own;
    they begin as the backbone's. A task's evaluation so fits its training.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads.
        rank: of an update; at most the smaller side of a matrix is used.
        alpha: what is divided by ``rank`` to scale the updates.
        stages: which are adapted, counted from 1; None for all. Those before the first of them are
            passed once for all tasks of a stream.
        embeddings: whether tables of words and categories are adapted, too. A pass then forms the
            whole table.
        shared_rank: of an update that all tasks have in common, scaled by ``alpha / shared_rank``;
            0 for none.

    Raises:
        ValueError: a setting is wrong, or there is nothing to adapt.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None = None,
        rank: int = 4,
        alpha: float = 8.0,
        stages: Sequence[int] | None = None,
        embeddings: bool = False,
        shared_rank: int = 0,
    ) -> None:
        super().__init__(streams=streams)
        check_whole("architecture.rank", rank, 1)
        check_whole("architecture.shared_rank", shared_rank, 0)
        check_positive("architecture.alpha", alpha)
        self.backbone = make_backbone(0)
        self.reading = Reading(self.backbone, reads)
        self.last = {task: max(self.reading.of(task)) for task in self.stream_of}
        chosen = expect_stages("stages", stages, len(self.backbone.stages))
        drop_unread(self.backbone, self.reading, list(self.stream_of))
        read = [stage for stage in chosen if stage <= max(self.last.values())]
        self.matrices = {
            s: found for s in read if (found := _matrices(self.backbone, s, embeddings))
        }
        if not self.matrices:
            raise ValueError(_nothing(self.backbone, chosen, embeddings))
        self.first = min(self.matrices)
        self.adapter_of = {
            task: Updates(self.backbone, self._names(last), rank, alpha, self._statistics(last))
            for task, last in self.last.items()
        }
        self.adapters = nn.ModuleList(self.adapter_of.values())
        self.adapted = self._names(max(self.last.values()))
        self.common = (
            Updates(self.backbone, self.adapted, shared_rank, alpha) if shared_rank else None
        )
        self.begun: Tensor
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        # torch has no annotations there
        self.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]
        self._passing = (Stages(self.backbone),)  # no submodule: its parameters are the backbone's

    def _names(self, last: int) -> list[str]:
        """The adapted matrices up to a stage."""
        return [name for stage, names in self.matrices.items() if stage <= last for name in names]

    def _statistics(self, last: int) -> list[str]:
        """The buffers of normalisations from the first adapted stage on, up to a stage."""
        return [
            f"stages.{stage}.{path}.{name}".replace("..", ".")
            for stage in range(self.first, last + 1)
            for path, module in self.backbone.stages[stage].named_modules()
            if isinstance(module, RUNNING)
            for name, _ in module.named_buffers(recurse=False)
        ]

    # -- passes ------------------------------------------------------------------------------------

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        weights: dict[str, Tensor] = {n: self.backbone.get_parameter(n) for n in self.adapted}
        if self.common is not None:
            weights = {n: weights[n] + update for n, update in self.common.matrices().items()}
        begun: dict[str, tuple[list[Tensor], Kept]] = {}
        found: dict[str, Tensor] = {}
        for task in tasks:
            stream = self.stream_of[task]
            if stream not in begun:
                begun[stream] = self._begin(inputs[stream])
            before, kept = begun[stream]
            start = before[-1] if before else inputs[stream]
            changed = self._changed(task, weights)
            stages = (start, self.first, self.last[task] + 1, dict(kept))
            behind: list[Tensor] = functional_call(self._passing[0], changed, stages)
            found[task] = self.reading(task, [*before, *behind])
        return found

    def _begin(self, inputs: Tensor) -> tuple[list[Tensor], Kept]:
        """The outputs of the stages before the first adapted one, and what they keep."""
        kept: Kept = {}
        return self._passing[0](inputs, 0, self.first, kept), kept

    def _changed(self, task: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a task's pass puts in the place of the backbone's weights and statistics.

        Args:
            task: its name.
            weights: the adapted ones, with the update that all tasks have in common.
        """
        adapter = self.adapter_of[task]
        changed = {name: weights[name] + update for name, update in adapter.matrices().items()}
        changed |= dict(adapter.statistics())
        return {f"backbone.{name}": value for name, value in changed.items()}

    def start_step(self, epoch: int, step: int) -> None:
        """From now on the running statistics are the tasks' own."""
        del epoch, step
        self.begun.fill_(True)

    def take_statistics(self) -> None:
        """Running statistics begin as the backbone's, those of another run's weights as well."""
        buffers = dict(self.backbone.named_buffers())
        for adapter in self.adapter_of.values():
            for name, statistic in adapter.statistics():
                statistic.copy_(buffers[name])

    # -- parameters --------------------------------------------------------------------------------

    def shared_parameters(self) -> list[nn.Parameter]:
        """The backbone's, then those of the update that all tasks have in common; but for stages
        that the head of one task alone reads."""
        common = [] if self.common is None else list(self.common.parameters())
        alone = {id(p) for task in self.stream_of for p in self._read_alone(task)}
        return [p for p in [*self.backbone.parameters(), *common] if id(p) not in alone]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Those of the task's updates, and of the stages that its head alone reads."""
        return [*self.adapter_of[task].parameters(), *self._read_alone(task)]

    def _read_alone(self, task: str) -> list[nn.Parameter]:
        """Of the stages that the task's head alone reads, with what `shared_rank` adds there."""
        found = behind_others(self.backbone, self.reading, task, list(self.stream_of))
        if self.common is not None:
            matrices, alone = dict(self.backbone.named_parameters()), {id(p) for p in found}
            trios = zip(self.common.names, self.common.down, self.common.up, strict=True)
            for name, *pair in trios:
                found += pair if id(matrices[name]) in alone else []
        return found

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The backbone's last layer that all heads' stages rest on."""
        return last_common_layer(self.backbone, self.reading, list(self.stream_of))

    def structure(self) -> list[Structure]:
        """How large the tasks' updates are beside the weights: the norms of all of a stage."""
        weights = dict(self.backbone.named_parameters())
        rows = []
        with torch.no_grad():
            for adapter in self.adapter_of.values():
                updates = adapter.matrices()
                rows.append(
                    torch.stack(
                        [
                            _norm([updates[name] for name in names if name in updates])
                            / _norm([weights[name] for name in names]).clamp(min=1e-12)
                            for names in self.matrices.values()
                        ]
                    )
                )
        stages = tuple(f"stage {stage + 1}" for stage in self.matrices)
        return [Structure("adapters", tuple(self.adapter_of), stages, torch.stack(rows))]


class Stages(nn.Module):
    """Some stages of a backbone, one after the other, as a module that can be called.

    Args:
        backbone: whose.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, features: Tensor, first: int, end: int, kept: Kept) -> list[Tensor]:
        """The outputs of the stages from ``first`` on, up to ``end`` without it.

        Args:
            features: of the stage before; the inputs for the first.
            first: counted from 0.
            end: likewise.
            kept: of this pass.
        """
        outputs: list[Tensor] = []
        for number in range(first, end):
            features = self.backbone.step(number, features, kept)
            outputs.append(features)
        return outputs


class Updates(nn.Module):
    """Low-rank updates of some matrices, and running statistics that go with them.

    Args:
        backbone: whose.
        names: of its parameters.
        rank: of the updates, at most.
        alpha: divided by ``rank``, their scale.
        statistics: names of its buffers of which there are copies here.
    """

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        rank: int,
        alpha: float,
        statistics: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.names, self.scale = tuple(names), alpha / rank
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        self.shapes: list[torch.Size] = []
        weights, buffers = dict(backbone.named_parameters()), dict(backbone.named_buffers())
        for name in self.names:
            self.shapes.append(weights[name].shape)
            out, fan_in = len(weights[name]), prod(weights[name].shape[1:])
            least = min(rank, out, fan_in)
            self.down.append(torch.empty(least, fan_in).uniform_(-1, 1) / sqrt(fan_in))
            self.up.append(torch.zeros(out, least))
        self.noted = tuple(statistics)
        for place, name in enumerate(self.noted):
            self.register_buffer(f"statistic_{place}", buffers[name].clone())

    def matrices(self) -> dict[str, Tensor]:
        """The updates by the names of the parameters, in their shapes."""
        pairs = zip(self.names, self.shapes, self.up, self.down, strict=True)
        return {name: (self.scale * (up @ down)).view(shape) for name, shape, up, down in pairs}

    def statistics(self) -> list[tuple[str, Tensor]]:
        """The running statistics with their names in the backbone."""
        return [(n, self.get_buffer(f"statistic_{place}")) for place, n in enumerate(self.noted)]


def _loaded(architecture: nn.Module, _keys: object) -> None:
    """A state from before the first step has statistics in its backbone alone."""
    assert isinstance(architecture, Adapters)
    if not architecture.begun:
        architecture.take_statistics()


def _matrices(backbone: Backbone, stage: int, embeddings: bool) -> list[str]:
    """Names, inside the backbone, of the matrices of a stage that are adapted.

    What the backbone itself holds fixed stays as it is: it may be passed without gradients.
    """
    kinds = (*ADAPTED, nn.Embedding, nn.EmbeddingBag) if embeddings else ADAPTED
    wanted = {
        id(parameter)
        for module in backbone.stages[stage].modules()
        if isinstance(module, kinds)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() >= 2 and parameter.requires_grad
    }
    inside = backbone.stages[stage].named_parameters()
    return [f"stages.{stage}.{name}" for name, parameter in inside if id(parameter) in wanted]


def _nothing(backbone: Backbone, chosen: Sequence[int], embeddings: bool) -> str:
    """Why there is nothing to adapt, and what to use."""
    where = f"stages {', '.join(str(stage + 1) for stage in chosen)} of this backbone"
    if not embeddings and any(_matrices(backbone, stage, True) for stage in chosen):
        return (
            f"architecture=adapters: {where} have tables of words or categories and no other "
            "matrix: use architecture.embeddings=true"
        )
    if any(_matrices(backbone, stage, True) for stage in range(len(backbone.stages))):
        return (
            f"architecture=adapters: {where} have no trainable matrix that a head reads: use "
            "architecture.stages=null"
        )
    return (
        "architecture=adapters changes the matrices of linear, convolutional, recurrent and "
        "attention layers, and this backbone has none that it trains: use model.freeze=[backbone] "
        "in the place of the backbone's own freeze, or architecture=hps"
    )


def _norm(parts: Sequence[Tensor]) -> Tensor:
    """The norm of several tensors together, on the CPU; 0 for none."""
    if not parts:
        return torch.zeros(())
    norm: Tensor = torch.cat([part.float().flatten() for part in parts]).norm()
    return norm.cpu()
