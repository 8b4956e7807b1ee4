"""Progressive layered extraction."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.layers import pooled
from mtlrun.models.sharing.depth import drop_unread, last_common_layer
from mtlrun.models.sharing.experts import (
    Below,
    GateInput,
    SoftmaxGate,
    Usage,
    expect_count,
    expect_read,
    mixed,
    run_stem,
    stem_stages,
)
from mtlrun.models.sharing.reading import Reading, StageReading, run_stages, stage_outputs
from mtlrun.types import InputKind, Structure


class Level(nn.Module):
    """The gates of one level.

    Args:
        name: of the table of what they say.
        stages: of a copy that make up its expert of this level.
        size: of what gates read.
        shared: numbers of the shared experts.
        own: for each task those of its own.
        last: whether no level follows, and so no gate mixes all experts.
    """

    def __init__(
        self,
        name: str,
        stages: range,
        size: int,
        shared: range,
        own: Mapping[str, range],
        last: bool,
    ) -> None:
        super().__init__()
        self.stages = stages
        self.shared, self.own = shared, own
        tasks = list(own)
        columns = [f"shared{number + 1}" for number in range(len(shared))]
        columns += [f"{task}{number + 1}" for task in tasks for number in range(len(own[task]))]
        gates = [SoftmaxGate(size, len(shared) + len(own[task])) for task in tasks]
        self.gates = nn.ModuleList(gates)
        self.gate_of = dict(zip(tasks, gates, strict=True))
        self.shared_gate = None if last else SoftmaxGate(size, len(columns))
        self.usage = Usage(name, tasks if last else [*tasks, "shared"], columns)

    def weights(self, task: str, read: Tensor, noted: bool) -> Tensor:
        """Those of the shared experts and the task's own, [N, E].

        Args:
            task: whose gate it is.
            read: by the gate, [N, size].
            noted: whether the rows are of the task's stream, and its head reads on from here.
        """
        weights: Tensor = self.gate_of[task](read)
        if noted:
            number = list(self.own).index(task)
            self.usage.note(number, weights, len(read), [self.shared, self.own[task]])
        return weights

    def weights_of_all(self, gate: SoftmaxGate, read: Tensor) -> Tensor:
        """Those of all experts for the shared path, [N, E]."""
        weights: Tensor = gate(read)
        self.usage.note(len(self.own), weights, len(read), [range(weights.shape[1])])
        return weights


class PLE(StageReading):
    """Progressive layered extraction (Tang et al., RecSys 2020, section 4.2).

    Some experts are shared, and each task has experts of its own. The network is cut into levels.
    In each, a task's gate mixes its own and the shared experts, never those of other tasks, and
    gives what the task's experts of the next level read. In all levels but the last a further gate
    mixes all experts, those of all tasks too, and gives what the next shared experts read. A gate
    reads what its path reads in that level: g(x) = softmax(W x + b), the bias being that of
    published code. One level is CGC.

    The first ``stem`` stages of backbone copy 0 are common to all. Copies 0 to S - 1 are the shared
    experts, the further ones those of the tasks, one task after the other; the stages of a copy
    that make up a level are its expert there. A head that reads several stages gets, of the
    experts', their mixture by the task's gate in that level.

    Through the gate that mixes all, a task's experts (but for the last level's) reach the other
    tasks, and are shared parameters: a task's own are those of its last level, and its gates in the
    last two, where all heads read the last level. Each stream runs through the experts of all tasks
    therefore, but for the last level.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        input_shape: of one input, without the batch.
        input_kind: of the inputs.
        reads: for each task the stages that its head reads.
        shared_experts: S, in each level.
        task_experts: of each task in each level; without any, and with one level, this is MMoE.
        levels: how many, of as many stages each as can be, the first being longer; or the stages of
            each. None for 2, or 1 where there is one stage behind the stem.
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
        levels: int | Sequence[int] | None = None,
        stem: int | None = None,
    ) -> None:
        super().__init__(streams=streams)
        expect_count("shared_experts", shared_experts, 1)
        expect_count("task_experts", task_experts, 0)
        tasks = tuple(self.stream_of)
        copies = [make_backbone(n) for n in range(shared_experts + task_experts * len(tasks))]
        self._alone = len(copies) == 1
        self.stem = stem_stages(stem, copies[0], input_kind, reads_input=not self._alone)
        self.reading = Reading(copies[0], reads)
        for copy in copies:
            depth = drop_unread(copy, self.reading, tasks)
        expect_read(depth, self.stem)
        for copy in copies[1:]:
            copy.drop(range(self.stem))
        self.experts = nn.ModuleList(copies)
        self._copies: tuple[Backbone, ...] = tuple(copies)
        self._shared = range(shared_experts)
        self._own = {
            task: range(shared_experts + n * task_experts, shared_experts + (n + 1) * task_experts)
            for n, task in enumerate(tasks)
        }
        self.gate_input = GateInput(self.stem, copies[0], input_shape)
        groups = cut(levels, self.stem, depth)
        made: list[Level] = []
        for number, stages in enumerate(groups):
            size = self.reading.channels[stages.start - 1] if number else self.gate_input.size
            last = number == len(groups) - 1
            name = f"gates/level{number + 1}"
            if not self._alone:
                made.append(Level(name, stages, size, self._shared, self._own, last))
        self.levels = nn.ModuleList(made)
        self._levels = tuple(made)

    @property
    def one_representation(self) -> bool:
        """False, but where there is one expert in all, which is hard sharing."""
        one_stream = len(set(self.stream_of.values())) == 1
        return self._alone and one_stream and self.reading.alike(list(self._own))

    # -- forward -----------------------------------------------------------------------------------

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        found: dict[str, Tensor] = {}
        for stream, here in self.by_stream(tasks).items():
            if self._alone:
                deepest = self.reading.deepest(here)
                outputs = stage_outputs(self._copies[0], inputs[stream], deepest)
                found |= self.reading.shared(here, outputs)
            else:
                found |= self._extracted(inputs[stream], here)
        return {task: found[task] for task in tasks}

    def _extracted(self, inputs: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Features of some tasks of one stream."""
        below = run_stem(self._copies[0], self.stem, inputs, self.gate_input)
        kept = [dict(below.kept) for _ in self._copies]
        running = [self._running(level, wanted) for level in self._levels]
        shared, paths = below.features, dict.fromkeys(self._own, below.features)
        outputs = {task: list(below.outputs) for task in wanted}
        for number, level in enumerate(self._levels):
            made = self._made(level, shared, {task: paths[task] for task in running[number]}, kept)
            gate_reads = partial(self._gate_reads, level, below)
            end = level.stages[-1]
            before, paths = paths, {}
            for task in [*running, wanted][number + 1]:
                noted = task in wanted and self.reading.deepest([task]) >= level.stages.start
                weights = level.weights(task, gate_reads(before[task]), noted)
                experts = [made[expert] for expert in (*self._shared, *self._own[task])]
                read = self.reading.of(task) if task in wanted else ()
                mixture = self._mixture(level, weights, experts, {end, *read})
                paths[task] = mixture[-1]
                if task in wanted:
                    outputs[task] += mixture
            if level.shared_gate is not None:
                weights = level.weights_of_all(level.shared_gate, gate_reads(shared))
                shared = self._mixture(level, weights, list(made.values()), {end})[-1]
        return {task: self.reading(task, outputs[task]) for task in wanted}

    def _running(self, level: Level, wanted: Sequence[str]) -> Sequence[str]:
        """The tasks whose paths go through a level: all, where its shared gate mixes their experts.

        Without experts of their own, a path that is not wanted is nothing to anyone.
        """
        mixes_all = level.shared_gate is not None and len(self._copies) > len(self._shared)
        return list(self._own) if mixes_all else wanted

    def _made(
        self, level: Level, shared: Tensor, paths: Mapping[str, Tensor], kept: Sequence[Kept]
    ) -> dict[int, list[Tensor]]:
        """For the experts that run in a level, in order, the outputs of their stages."""
        read_by = dict.fromkeys(self._shared, shared)
        read_by |= {expert: paths[task] for task in paths for expert in self._own[task]}
        return {
            expert: run_stages(self._copies[expert], level.stages, features, kept[expert])
            for expert, features in read_by.items()
        }

    def _gate_reads(self, level: Level, below: Below, features: Tensor) -> Tensor:
        """What a gate of a level reads of the features before it, [N, size]."""
        if level is self._levels[0]:
            return below.read  # the same for all
        return pooled(features, self.reading.layouts[level.stages.start - 1])

    def _mixture(
        self,
        level: Level,
        weights: Tensor,
        experts: Sequence[Sequence[Tensor]],
        stages: Collection[int],
    ) -> list[Tensor]:
        """The outputs of a level's stages, mixed where they are among ``stages``; the others stay
        the first expert's."""
        outputs = list(experts[0])
        for place, stage in enumerate(level.stages):
            if stage in stages:
                stacked = torch.stack([made[place] for made in experts], 1)
                outputs[place] = mixed(weights, stacked, self.reading.layouts[stage])
        return outputs

    # -- parameters --------------------------------------------------------------------------------

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those that several tasks reach, see the class."""
        reach = self._reach()
        return [p for p in self.parameters() if len(reach[id(p)]) > 1]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """The task's experts of the last level, and its gates that reach no shared path; and the
        stages that its head alone reads."""
        reach = self._reach()
        return [p for p in self.parameters() if reach[id(p)] == {task}]

    def _reach(self) -> dict[int, set[str | None]]:
        """For each parameter, by its id, the tasks whose losses reach it.

        A task alone has company by None, so that what it could share is shared.
        """
        depth: dict[str | None, int] = {t: self.reading.deepest([t]) for t in self._own}
        if len(depth) == 1:
            depth[None] = max(depth.values())
        found: dict[int, set[str | None]] = {id(p): set() for p in self.parameters()}

        def note(module: nn.Module, tasks: Iterable[str | None]) -> None:
            for parameter in module.parameters():
                found[id(parameter)].update(tasks)

        def from_on(stage: int) -> set[str | None]:
            return {task for task, deepest in depth.items() if deepest >= stage}

        for expert in self._shared:
            for stage, module in enumerate(self._copies[expert].stages):
                note(module, from_on(stage))
        for number, level in enumerate(self._levels):
            beyond = from_on(level.stages.stop)  # by the gate that mixes all
            if level.shared_gate is not None:
                note(level.shared_gate, beyond)
            following = self._levels[number + 1 : number + 2]
            for task, experts in self._own.items():
                for stage in level.stages:
                    for expert in experts:
                        module = self._copies[expert].stages[stage]
                        note(module, beyond | (from_on(stage) & {task}))
                gate = level.gate_of[task]
                note(gate, from_on(level.stages.start) & {task})
                # It gives what the task's experts of the next level read, which others may mix
                note(gate, from_on(following[0].stages.stop) if following and experts else ())
        return found

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The last layer of each shared expert that all tasks read."""
        copies, tasks = [self._copies[expert] for expert in self._shared], list(self._own)
        layers = [last_common_layer(copy, self.reading, tasks) for copy in copies]
        return [weight for layer in layers for weight in layer]

    # -- over a run --------------------------------------------------------------------------------

    def start_evaluation(self) -> None:
        """Forget the gates' weights of the evaluation before."""
        for level in self._levels:
            level.usage.clear()

    def structure(self) -> list[Structure]:
        """For each level the mean weight of each expert for each task, and for the shared path."""
        return [level.usage.table() for level in self._levels]


def cut(levels: int | Sequence[int] | None, stem: int, stages: int) -> list[range]:
    """The stages behind a stem, in consecutive groups.

    Args:
        levels: how many, the first being longer where they cannot be equal; or the stages of each;
            None for 2, or 1 where there is one stage only.
        stem: stages before.
        stages: of the backbone, up to the last that a head reads.

    Raises:
        ValueError: they cannot be cut so.
    """
    left = stages - stem
    if levels is None:
        levels = min(2, left)
    if isinstance(levels, int):
        if not 1 <= levels <= left:
            raise ValueError(
                f"levels={levels}: a level is one stage or more, and this backbone has {left} "
                f"behind the stem: use levels=1{f' to {left}' if left > 1 else ''}"
            )
        sizes = [left // levels + (number < left % levels) for number in range(levels)]
    else:
        sizes = list(levels)
        if min(sizes, default=0) < 1 or sum(sizes) != left:
            raise ValueError(
                f"levels={sizes} must be the stages of each level, 1 or more, and {left} in all, "
                f"which this backbone has behind the stem: use levels=[{left}], or their number"
            )
    ends = [stem + sum(sizes[: number + 1]) for number in range(len(sizes))]
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
