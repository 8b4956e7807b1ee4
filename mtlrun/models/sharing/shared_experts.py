"""What architectures have in common whose experts all tasks share."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.sharing.depth import behind_others, drop_unread, last_common_layer
from mtlrun.models.sharing.experts import (
    Below,
    GateInput,
    Usage,
    expect_count,
    expect_read,
    mixed,
    run_stem,
    stem_stages,
)
from mtlrun.models.sharing.reading import Reading, StageReading, run_stages
from mtlrun.types import InputKind, Structure


class SharedExperts(StageReading):
    """Experts that all tasks share, and for each task a gate that weighs them.

    The first ``stem`` stages of backbone copy 0 run once for a stream. Expert e is the further
    stages of copy e. A head that reads several stages gets, of the stem's, their outputs, and of
    the experts', their mixture by the task's one gate.

    Subclasses fill :attr:`gates` with a module for each task, in order, where there is more than
    one expert. What it gives for :attr:`Below.read` are the weights, [N, E] or [E].

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads.
        input_kind: of the inputs.
        input_shape: of one input, without the batch.
        experts: how many.
        stem: see :func:`stem_stages`.
        gates_read: whether gates depend on what the experts read.

    Raises:
        ValueError: a setting is wrong, or ``stem`` does not fit.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None,
        input_kind: InputKind,
        input_shape: Sequence[int],
        experts: int,
        stem: int | None,
        gates_read: bool = True,
    ) -> None:
        super().__init__(streams=streams)
        expect_count("experts", experts, 1)
        copies = [make_backbone(number) for number in range(experts)]
        reads_input = gates_read and experts > 1
        self.stem = stem_stages(stem, copies[0], input_kind, reads_input)
        self.reading = Reading(copies[0], reads)
        for copy in copies:
            depth = drop_unread(copy, self.reading, list(self.stream_of))
        expect_read(depth, self.stem)
        for copy in copies[1:]:
            copy.drop(range(self.stem))
        self.experts = nn.ModuleList(copies)
        self._experts: tuple[Backbone, ...] = tuple(copies)
        self.gate_input = GateInput(self.stem, copies[0], input_shape)
        self.gates = nn.ModuleList()
        tasks = list(self.stream_of)
        self._number = {task: number for number, task in enumerate(tasks)}
        self.usage = Usage("gates", tasks, [f"expert{e + 1}" for e in range(experts)])
        self._one = experts == 1 and len(streams) == 1 and self.reading.alike(tasks)

    @property
    def one_representation(self) -> bool:
        """False, but where there is one expert, which is hard sharing."""
        return self._one

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        below = self.below(inputs, tasks)
        weights: dict[str, Tensor] = {}
        if self.gates:
            for task in tasks:
                gate = self.gates[self._number[task]]
                weights[task] = gate(below[self.stream_of[task]].read)
        return self.above(below, weights, tasks)

    def below(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Below]:
        """The stem's pass for each stream that carries any of ``tasks``."""
        return {
            stream: run_stem(self._experts[0], self.stem, inputs[stream], self.gate_input)
            for stream in self.by_stream(tasks)
        }

    def above(
        self, below: Mapping[str, Below], weights: Mapping[str, Tensor], tasks: Sequence[str]
    ) -> dict[str, Tensor]:
        """Features of ``tasks``.

        Args:
            below: for each stream that carries any of them the stem's pass.
            weights: for each of them the experts' weights, [N, E] or [E]; unread where there is one
                expert.
            tasks: the tasks wanted.
        """
        found: dict[str, Tensor] = {}
        for stream, stem in below.items():
            here = [task for task in tasks if self.stream_of[task] == stream]
            stages = range(self.stem, self.reading.deepest(here) + 1)
            outputs = [
                run_stages(expert, stages, stem.features, dict(stem.kept))
                for expert in self._experts
            ]
            if len(outputs) == 1:
                found |= self.reading.shared(here, stem.outputs + outputs[0])
                continue
            stacked = {
                stage: torch.stack([output[stage - self.stem] for output in outputs], 1)
                for stage in sorted({s for task in here for s in self.reading.of(task)})
                if stage >= self.stem
            }
            for task in here:
                if self.mixes(task):
                    number, rows = self._number[task], stem.features.shape[0]
                    self.usage.note(number, weights[task], rows, [range(len(outputs))])
                # Stages that its head does not read stay as the first expert's
                read = stem.outputs + outputs[0]
                for stage in self.reading.of(task):
                    if stage >= self.stem:
                        layout = self.reading.layouts[stage]
                        read[stage] = mixed(weights[task], stacked[stage], layout)
                found[task] = self.reading(task, read)
        return {task: found[task] for task in tasks}

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those of the experts, the stem's first, but for stages that one task alone reads."""
        alone = {id(p) for task in self.stream_of for p in self._read_alone(task)}
        return [p for p in self.experts.parameters() if id(p) not in alone]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """The task's gate, and the experts' stages that its head alone reads."""
        gate = self.gates[self._number[task]] if self.gates and self.mixes(task) else nn.Identity()
        return [*gate.parameters(), *self._read_alone(task)]

    def mixes(self, task: str) -> bool:
        """Whether the task's head reads what experts give, or the stem alone."""
        return self.reading.deepest([task]) >= self.stem

    def _read_alone(self, task: str) -> list[nn.Parameter]:
        """The parameters of the experts' stages that the task's head alone reads."""
        tasks = list(self.stream_of)
        found = [behind_others(expert, self.reading, task, tasks) for expert in self._experts]
        return [parameter for stages in found for parameter in stages]

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The last layer of each expert that all tasks read."""
        tasks = list(self.stream_of)
        layers = [last_common_layer(expert, self.reading, tasks) for expert in self._experts]
        return [weight for layer in layers for weight in layer]

    def start_evaluation(self) -> None:
        """Forget the gates' weights of the evaluation before."""
        self.usage.clear()

    def structure(self) -> list[Structure]:
        """The mean weight of each expert for each task, where there is a choice."""
        return [self.usage.table()] if self.gates else []
