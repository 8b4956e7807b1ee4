"""Negative transfer: what joint training does to each task, against single-task training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from mtlrun.analysis.comparison.figures import Figure, Samples, Statistics, change_intervals, means
from mtlrun.analysis.comparison.groups import Group
from mtlrun.analysis.comparison.table import Cell, Column, Row, Table, Transfer, Verdict
from mtlrun.analysis.statistics.delta_m import relative_change
from mtlrun.analysis.statistics.seeds import NO_INTERVAL

MARKS: Mapping[Verdict, str] = {"loses": "▼", "gains": "▲", "unclear": ""}

HEADING = "vs single-task [%]"
MEANING = (
    "Mean relative change of each task's metrics against its single-task runs, in percent and "
    "positive where better"
)
SURE = (
    ", with a 95 % interval over seeds, the single-task runs' seeds included (jackknife, Student's "
    "t). ▼ the task loses, ▲ it gains: the interval, which is not corrected for the number of "
    "tasks and methods, leaves 0 out."
)
UNSURE = "; without intervals, which take two seeds of each and changes that scatter."


def transfers(
    group: Group,
    baseline: Group,
    samples: Samples,
    statistics: Statistics,
    figures: Sequence[Figure],
) -> tuple[Transfer, ...]:
    """The change of each task whose metrics both have; nothing for the baseline itself.

    Args:
        group: the runs of a method.
        baseline: single-task runs of its tasks.
        samples: of both.
        statistics: of both, over seeds.
        figures: the metrics.
    """
    if group is baseline or not baseline.single_task:
        return ()
    own = [figure for figure in figures if figure in samples[group]]
    here, there = means(statistics[group], own), means(statistics[baseline], own)
    intervals = change_intervals(group, baseline, samples, own, "t").tasks
    tasks = dict.fromkeys(figure.group for figure in own)
    found = []
    for task, (low, high) in zip(tasks, intervals, strict=True):
        pairs = [(here[f], there[f], f.better == "higher") for f in own if f.group == task]
        if any(math.isnan(value + against) or against == 0 for value, against, _ in pairs):
            continue
        change = fmean(relative_change(v, b, higher_is_better=higher) for v, b, higher in pairs)
        # Seeds that all change alike, as accuracies of few examples may, say nothing of the noise.
        scatters = high - low > 1e-9 * abs(change)
        found.append(Transfer(task, change, *((low, high) if scatters else NO_INTERVAL)))
    return tuple(found)


def transfer_block(table: Table) -> Table | None:
    """The changes as a table of their own: a row a method, a column a task; None without any."""
    rows = [row for row in table.rows if row.transfer]
    if not rows:
        return None
    moved = dict.fromkeys(transfer.task for row in rows for transfer in row.transfer)
    order = dict.fromkeys(task for row in table.rows for run in row.runs for task in run.metrics)
    tasks = [*(task for task in order if task in moved), *(t for t in moved if t not in order)]
    known = any(not math.isnan(t.low) for row in rows for t in row.transfer)
    return replace(
        table,
        columns=tuple(Column(HEADING, task, None, decimals=1, signed=True) for task in tasks),
        rows=tuple(_row(row, tasks) for row in rows),
        caption=(MEANING + (SURE if known else UNSURE),),
        notes=(),
        answer=(),
        ranking=None,
    )


def _row(row: Row, tasks: Sequence[str]) -> Row:
    of = {transfer.task: transfer for transfer in row.transfer}
    absent = [task for task in tasks if row.runs and task not in row.runs[0].metrics]
    cells = (_cell(of[task]) if task in of else Cell(absent=task in absent) for task in tasks)
    return replace(row, cells=tuple(cells))


def _cell(transfer: Transfer) -> Cell:
    interval = (transfer.low, transfer.high)
    return Cell(transfer.change, interval=interval, mark=MARKS[transfer.verdict])
