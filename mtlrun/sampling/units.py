"""What a sampler draws: streams with all their tasks, or single tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Of = Literal["auto", "streams", "tasks"]
EpochLength = Literal["longest", "shortest", "mean"]


@dataclass(frozen=True)
class Unit:
    """A stream with its tasks of this run, or one task of a stream.

    Attributes:
        name: the stream's or the task's.
        stream: where its rows come from.
        tasks: what a step that draws it trains.
        rows: training rows that it has; of one task those that carry its label.
        batch_size: rows of a batch; where there are fewer, a batch has them all.
    """

    name: str
    stream: str
    tasks: tuple[str, ...]
    rows: int
    batch_size: int

    @property
    def batches(self) -> int:
        """Whole batches in a pass over its rows."""
        return max(1, self.rows // self.batch_size)


def units_of(
    streams: Mapping[str, Sequence[str]],
    rows: Mapping[str, int],
    labelled: Mapping[str, int],
    *,
    of: Of,
    batch_size: int,
    batch_sizes: Mapping[str, int] | None = None,
) -> tuple[Unit, ...]:
    """What there is to draw.

    Args:
        streams: for each stream its tasks.
        rows: for each stream its training rows.
        labelled: for each task the training rows that carry its label.
        of: ``streams``, ``tasks``, or ``auto``: streams where there are several, else tasks.
        batch_size: rows of a batch.
        batch_sizes: for some units another one.

    Raises:
        ValueError: a setting names what there is not, or a task has no labelled row.
    """
    if of not in get_args(Of):
        raise ValueError(f"of={of}: choose one of {', '.join(get_args(Of))}")
    own = dict(batch_sizes or {})
    units = []
    for stream, tasks in streams.items():
        if of == "streams" or (of == "auto" and len(streams) > 1):
            count = labelled[tasks[0]] if len(tasks) == 1 else rows[stream]
            found = [(stream, tuple(tasks), count)]
        else:
            found = [(task, (task,), labelled[task]) for task in tasks]
        for name, members, count in found:
            size = own.pop(name, batch_size)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"batch_sizes: {name} has {size}; use a whole number of rows")
            if count == 0:
                raise ValueError(
                    f"{name} has no training row that carries a label, so it cannot be drawn; "
                    "leave it out of tasks"
                )
            units.append(Unit(name, stream, members, count, size))
    if own:
        known = ", ".join(unit.name for unit in units)
        raise ValueError(f"batch_sizes names {next(iter(own))}, and what is drawn are {known}")
    return tuple(units)


def steps_of_epoch(
    units: Sequence[Unit], length: EpochLength | int, *, per_step: int, accumulate: int
) -> int:
    """Steps of an epoch.

    Args:
        units: what is drawn.
        length: how often each unit is drawn on average: as often as the ``longest`` or the
            ``shortest`` has batches, or the ``mean`` of all; or the number of steps itself.
        per_step: units drawn in a step.
        accumulate: batches of a unit in a step.

    Raises:
        ValueError: ``length`` is none of these.
    """
    if isinstance(length, int) and not isinstance(length, bool):
        if length < 1:
            raise ValueError(f"epoch={length}: an epoch has at least one step")
        return length
    batches = [unit.batches for unit in units]
    draws = {
        "longest": max(batches) * len(units),
        "shortest": min(batches) * len(units),
        "mean": sum(batches),
    }
    if length not in draws:
        raise ValueError(f"epoch={length}: choose one of {', '.join(draws)}, or a number of steps")
    return max(1, draws[length] // (per_step * accumulate))


def small_units(units: Sequence[Unit]) -> list[str]:
    """A line on units with fewer rows than a batch, where there are any."""
    small = sorted((unit for unit in units if unit.rows < unit.batch_size), key=lambda u: u.rows)
    if not small:
        return []
    least = small[0]
    which = least.name if len(small) == 1 else f"{len(small)} of {len(units)} (least {least.name})"
    return [
        f"Fewer training rows than a batch: {which}, {least.rows} rows for a batch of "
        f"{least.batch_size}; a batch has them all."
    ]
