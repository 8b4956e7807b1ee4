"""Networks side by side, one a task, that exchange features after stages."""

from collections.abc import Callable, Mapping, Sequence
from math import inf

from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.sharing.reading import Reading, StageReading
from mtlrun.models.sharing.units import Place, Sources, Unit, can_align


class Columns(StageReading):
    """One backbone a task, side by side on each stream's inputs, with a :class:`Unit` after stages.

    All backbones start from copy 0, as those of ``single_task``, and are named as there
    (``backbones.0``, in the order of the tasks), so that its checkpoints fit.

    A stream goes through all columns up to the last unit, whatever its tasks, since the others feed
    theirs; from there through the columns of its own tasks. Stages that no head sees anything of
    are dropped.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        reads: for each task the stages that its head reads of its column.
        after: the stages after which there is a unit, counted from 1; None for all of them.
        name: of the architecture, for errors and tables.
        make_unit: makes the unit of a place.
        alone: whether units have something to do for one task. Where not, it has none.
        make_reader: makes for each task what turns its column's outputs behind the units, together
            with that of the last stage that its head reads, into the head's features in place of
            that stage. It gets :meth:`Sources.aligned` features. None for nothing of that kind.

    Raises:
        ValueError: ``after`` names none, a stage that is not there or one that nothing reads.
    """

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        reads: Mapping[str, Sequence[int]] | None,
        after: Sequence[int] | None,
        name: str,
        make_unit: Callable[[Place], Unit],
        alone: bool = False,
        make_reader: Callable[[Sources], nn.Module] | None = None,
    ) -> None:
        super().__init__(streams=streams)
        self.name = name
        self.tasks = tuple(self.stream_of)
        self.backbones = nn.ModuleList(make_backbone(0) for _ in self.tasks)
        self.reading = Reading(self._backbone(0), reads)
        stages = len(self.reading.channels)
        attached = _attached(name, after, stages)
        self.sources = [self._sources(task, attached) for task in self.tasks]
        self.readers = nn.ModuleList()
        self.reader_of: dict[str, nn.Module] = {}
        for task, sources in zip(self.tasks, self.sources, strict=True):
            if make_reader is not None and len(sources.stages) > 1:
                self.reader_of[task] = make_reader(sources)
                self.readers.append(self.reader_of[task])
        read = [
            {*self.reading.of(task), *(sources.stages if task in self.reader_of else ())}
            for task, sources in zip(self.tasks, self.sources, strict=True)
        ]
        exchanging = attached if alone or len(self.tasks) > 1 else []
        self.into, self.out = _seen(stages, read, set(exchanging))
        useful = [stage for stage in exchanging if any(self.out[stage])]
        if after is not None and useful != exchanging:
            unread = [stage + 1 for stage in exchanging if stage not in useful]
            raise ValueError(
                f"architecture={name} with after={list(after)}: no head reads what comes after the "
                f"stages {unread}, so that units there would do nothing. Use earlier stages, or "
                "let heads.stages name later ones"
            )
        self.units = nn.ModuleList(make_unit(self._place(stage)) for stage in useful)
        self.unit_after = dict(zip(useful, range(len(useful)), strict=True))
        for column, _ in enumerate(self.tasks):
            idle = [stage for stage in range(stages) if not self.into[stage][column]]
            self._backbone(column).drop(idle)

    def _sources(self, task: str, attached: Sequence[int]) -> Sources:
        """What a reader of a task's column gets."""
        channels, layouts = self.reading.channels, self.reading.layouts
        last = max(self.reading.of(task))
        before = [s for s in attached if s < last and can_align(layouts[s], layouts[last])]
        stages = (*before, last)
        return Sources(
            stages, tuple(layouts[s] for s in stages), tuple(channels[s] for s in stages)
        )

    def _place(self, stage: int) -> Place:
        seen = self.out[stage]
        return Place(
            stage=stage,
            layout=self.reading.layouts[stage],
            channels=self.reading.channels[stage],
            tasks=len(self.tasks),
            rows=tuple(column for column, tasks in enumerate(seen) if tasks),
            together=all(len(tasks) != 1 for tasks in seen),
        )

    def _backbone(self, column: int) -> Backbone:
        backbone = self.backbones[column]
        assert isinstance(backbone, Backbone)
        return backbone

    # -- passes ------------------------------------------------------------------------------------

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        found: dict[str, Tensor] = {}
        for stream, here in self.by_stream(tasks).items():
            found |= self._walked(inputs[stream], here)
        return {task: found[task] for task in tasks}

    def _walked(self, inputs: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """What some tasks read of one stream's inputs."""
        column_of = {task: self.tasks.index(task) for task in tasks}
        wanted = frozenset(column_of.values())
        columns = range(len(self.tasks))
        kept: list[Kept] = [{} for _ in columns]
        features = dict.fromkeys(columns, inputs)
        outputs: list[dict[int, Tensor]] = []
        for stage, (into, out) in enumerate(zip(self.into, self.out, strict=True)):
            features = {
                column: self._backbone(column).step(stage, features[column], kept[column])
                for column in columns
                if into[column] & wanted
            }
            rows = [column for column in columns if out[column] & wanted]
            if stage in self.unit_after and rows:
                mixed = self.units[self.unit_after[stage]](list(features.values()), rows)
                features = dict(zip(rows, mixed, strict=True))
            outputs.append(features)
        return {
            task: self._read(task, [stage[column] for stage in outputs if column in stage])
            for task, column in column_of.items()
        }

    def _read(self, task: str, outputs: list[Tensor]) -> Tensor:
        """What a task's head reads of the outputs of its column's stages, behind the units."""
        if task in self.reader_of:
            sources = self.sources[self.tasks.index(task)]
            last = sources.stages[-1]
            read = self.reader_of[task](sources.aligned(outputs))
            outputs = [*outputs[:last], read, *outputs[last + 1 :]]
        return self.reading(task, outputs)

    # -- parameters --------------------------------------------------------------------------------

    def _owned(self) -> list[tuple[nn.Parameter, frozenset[int]]]:
        """Each parameter and the tasks whose losses reach it, in a fixed order."""
        found: list[tuple[nn.Parameter, frozenset[int]]] = []
        for column, _ in enumerate(self.tasks):
            for stage, module in enumerate(self._backbone(column).stages):
                found += [(p, self.into[stage][column]) for p in module.parameters()]
        for module in self.units:
            assert isinstance(module, Unit)
            for column in module.place.rows:
                tasks = self.out[module.place.stage][column]
                found += [(p, tasks) for p in module.row(column)]
        for task, reader in self.reader_of.items():
            alone = frozenset([self.tasks.index(task)])
            found += [(p, alone) for p in reader.parameters()]
        return found

    def shared_parameters(self) -> list[nn.Parameter]:
        """All that a unit behind it hands on to other tasks."""
        return [p for p, tasks in self._owned() if len(tasks) > 1]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """What the task's column has behind the last unit, that unit's row for it, its reader."""
        alone = frozenset([self.tasks.index(task)])
        return [p for p, tasks in self._owned() if tasks == alone]

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The last layer before the last unit that all tasks read, in each column."""
        everyone = frozenset(range(len(self.tasks)))
        if len(everyone) == 1:
            return []
        for stage in reversed(range(len(self.into))):
            layer = [
                p
                for column in everyone
                if self.into[stage][column] == everyone
                for p in _last_layer(self._backbone(column), stage)
            ]
            if layer:
                return layer
        return []

    def rates(self, factor: float) -> list[tuple[list[nn.Parameter], float]]:
        """The units' and readers' parameters, with so many times the network's learning rate."""
        units = [*self.units.parameters(), *self.readers.parameters()]
        return [(units, factor)] if units and factor != 1 else []


def expect_rate(rate: float) -> None:
    """Raise a ValueError where ``rate`` is no factor of the learning rate."""
    if not 0 < rate < inf:
        raise ValueError(
            f"rate={rate} multiplies the learning rate of the units and must be above 0: use 1 for "
            "that of the network"
        )


Seen = list[list[frozenset[int]]]
"""For each stage and column the tasks, by their numbers, whose heads get to see it."""


def _seen(stages: int, read: Sequence[set[int]], attached: set[int]) -> tuple[Seen, Seen]:
    """Who sees what goes into the units after each stage, and who sees what comes out of them.

    Without a unit the two are the same.

    Args:
        stages: their number.
        read: for each task the stages of its own column that its head reads, counted from 0.
        attached: the stages with a unit.
    """
    columns = range(len(read))
    into: Seen = []
    out: Seen = []
    for stage in reversed(range(stages)):
        onward = into[-1] if into else [frozenset[int]() for _ in columns]
        out.append([onward[c] | ({c} if stage in read[c] else frozenset()) for c in columns])
        everyone = frozenset[int]().union(*out[-1])
        into.append([everyone] * len(columns) if stage in attached else out[-1])
    return into[::-1], out[::-1]


def _attached(name: str, after: Sequence[int] | None, stages: int) -> list[int]:
    """The stages with a unit, counted from 0, in their order."""
    if after is None:
        return list(range(stages))
    if not after:
        raise ValueError(
            f"architecture={name} with after=[] exchanges nothing: name stages, counted from 1, or "
            "use architecture=single_task"
        )
    wrong = [stage for stage in after if not 1 <= stage <= stages]
    if wrong or len(set(after)) < len(after):
        raise ValueError(
            f"architecture={name} with after={list(after)}: use each stage at most once; this "
            f"backbone has the stages 1 to {stages}"
        )
    return sorted(stage - 1 for stage in after)


def _last_layer(backbone: Backbone, stage: int) -> list[nn.Parameter]:
    """The weights of the last layer that has a matrix in one stage; none where it has none."""
    if stage == len(backbone.stages) - 1:
        inside = {id(p) for p in backbone.stages[stage].parameters()}
        return [p for p in backbone.last_layer() if id(p) in inside]
    return [p for p in backbone.stages[stage].parameters() if p.dim() >= 2][-1:]
