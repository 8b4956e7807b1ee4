"""From runs to the table that a paper prints: means over seeds, the best, and delta_m."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtlrun.analysis.baselines import Baselines, look_for_baselines, name_baselines
from mtlrun.analysis.figures import (
    OVER_METRICS,
    OVER_TASKS,
    SECONDS,
    Figure,
    NoDeltaMError,
    Statistics,
    Which,
    delta_m_values,
    metric_values,
    over_seeds,
)
from mtlrun.analysis.groups import Group, short_names
from mtlrun.analysis.notes import (
    baseline_notes,
    machine_notes,
    missing_notes,
    names,
    protocol_notes,
    said_by,
    unfinished_notes,
)
from mtlrun.analysis.runs import FoundRuns
from mtlrun.analysis.table import Cell, Column, Report, Row, Table, format_number, suited_decimals

WHICH_TEXT: Mapping[Which, str] = {
    "test": "Test split, model selected on the {split} split",
    "final": "Last epoch, {split} split",
    "best": "Each metric's own best epoch on the {split} split, which flatters every method",
}


def compare(
    found: FoundRuns, which: Which = "test", baseline: tuple[Path, FoundRuns] | None = None
) -> Report:
    """A table for each dataset.

    Args:
        found: the runs to compare.
        which: which figure of each metric.
        baseline: a folder, and what was found there, to compute delta_m against; None looks for
            single-task runs among ``found`` and, where there are none, in the folders beside.

    Raises:
        UserError: see :func:`mtlrun.analysis.baselines.name_baselines`.
    """
    if baseline is None:
        groups, baselines, notes = look_for_baselines(found.finished)
    else:
        groups, baselines, notes = name_baselines(found.finished, *baseline)
    tables = []
    datasets = dict.fromkeys(group.dataset for group in groups)
    for dataset in datasets:
        members = [group for group in groups if group.dataset == dataset]
        missing_runs = unfinished_notes(r for r in found.unfinished if r.dataset == dataset)
        table = _Comparison.of(members, which, baselines).table(dataset)
        tables.append(replace(table, notes=(*table.notes, *missing_runs)))
    elsewhere = unfinished_notes(r for r in found.unfinished if r.dataset not in datasets)
    return Report(tuple(tables), (*notes, *found.unreadable, *elsewhere))


@dataclass(frozen=True)
class _Comparison:
    """The groups of one dataset with everything that is known of them.

    Attributes:
        short: how a group is called in the table.
        common: changed settings that all groups have, left out of their names.
        labels: how a group is called in the notes.
        against: what each group's delta_m is against.
        no_delta_m: why each other group has none.
    """

    groups: Sequence[Group]
    which: Which
    baselines: Baselines
    statistics: Statistics
    short: Mapping[Group, str]
    common: tuple[str, ...]
    labels: Mapping[Group, str]
    against: Mapping[Group, Group]
    no_delta_m: Mapping[Group, str]

    @classmethod
    def of(cls, groups: Sequence[Group], which: Which, baselines: Baselines) -> "_Comparison":
        """Compute the figures of ``groups`` over their seeds, and their delta_m."""
        several = len({group.study for group in groups}) > 1
        short, common = short_names(groups)
        labels = {g: f"{g.study}: {short[g]}" if several else short[g] for g in groups}
        statistics = over_seeds(
            (group, {**metric_values(run, which), SECONDS: run.seconds})
            for group in groups
            for run in group.runs
        )
        against: dict[Group, Group] = {}
        reasons: dict[Group, str] = {}
        for group in groups:
            baseline = baselines.of(group)
            if baseline is None:
                reasons[group] = baselines.why_none(group)
                continue
            try:
                deltas = [
                    delta_m_values(metric_values(run, which), statistics[baseline])
                    for run in group.runs
                ]
            except NoDeltaMError as error:
                reasons[group] = str(error)
                continue
            against[group] = baseline
            statistics[group].update(over_seeds((group, values) for values in deltas)[group])
        return cls(groups, which, baselines, statistics, short, common, labels, against, reasons)

    def table(self, dataset: str) -> Table:
        """The table of everything that was computed."""
        ranked = self._ranked()
        figures = list(dict.fromkeys(self._figures()))
        columns = [self._column(figure) for figure in figures]
        rows = [
            Row(
                study=group.study,
                method=group.method,
                label=self.short[group],
                seeds=len(group.runs),
                baseline=self._whole_name(self.against[group]) if group in self.against else "",
                cells=tuple(self.statistics[group].get(figure, Cell()) for figure in figures),
            )
            for group in ranked
        ]
        return Table(
            dataset=dataset,
            columns=tuple(columns),
            rows=tuple(_with_best_marked(rows, columns)),
            caption=tuple(self._caption()),
            notes=tuple(self._notes()),
        )

    def _whole_name(self, group: Group) -> str:
        several = len({other.study for other in self.groups}) > 1
        return f"{group.study}: {group.method}" if several else group.method

    def _figures(self) -> Iterator[Figure]:
        """Columns: the metrics task by task, delta_m, seconds."""
        metrics = dict.fromkeys(
            figure
            for group in self.groups
            for run in group.runs
            for figure in metric_values(run, self.which)
        )
        for task in dict.fromkeys(figure.group for figure in metrics):
            yield from (figure for figure in metrics if figure.group == task)
        yield from (OVER_METRICS, OVER_TASKS, SECONDS)

    def _column(self, figure: Figure) -> Column:
        means = [self.statistics[group].get(figure, Cell()).mean for group in self.groups]
        if figure in (OVER_METRICS, OVER_TASKS):
            return Column(*figure, decimals=2, signed=True)
        if figure == SECONDS:
            return Column(*figure, decimals=suited_decimals(means, digits=3), spread=False)
        return Column(*figure, decimals=suited_decimals(means))

    def _ranked(self) -> list[Group]:
        """What the others are compared with first, then by delta_m, then by name."""

        def rank(group: Group) -> tuple[bool, float, str]:
            score = self.statistics[group].get(OVER_METRICS, Cell()).mean
            return (
                group not in self.baselines.candidates,
                math.inf if math.isnan(score) else -score,
                self.labels[group],
            )

        return sorted(self.groups, key=rank)

    def _caption(self) -> Iterator[str]:
        splits = said_by((run.select_on, "") for group in self.groups for run in group.runs)
        where = WHICH_TEXT[self.which].format(split=" or ".join(splits))
        yield f"{where}; mean ± standard deviation over seeds."
        if self.common:
            yield f"All with {', '.join(self.common)}."
        if self.against:
            metrics = len([f for f in dict.fromkeys(self._figures()) if f.better]) - 2
            yield (
                "delta_m: mean relative change, in percent and positive where better, against "
                f"{self.baselines.text(self.against, self.labels)}, over all {metrics} metrics "
                "alike, and over tasks of the mean over each task's metrics. "
                "Nash-MTL, FAMO and FairGrad print the first with the opposite sign."
            )

    def _notes(self) -> Iterator[str]:
        reasons = said_by((why, self.labels[group]) for group, why in self.no_delta_m.items())
        for why, rows in reasons.items():
            who = "" if len(rows) == len(self.groups) else f" for {names(rows)}"
            yield f"delta_m is n/a{who}: {why}."
        yield from missing_notes(self.statistics, self.labels)
        yield from protocol_notes(self.groups, self.labels)
        yield from baseline_notes(self.against, self.labels)
        yield from machine_notes(self.groups, self.labels)


def _with_best_marked(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """The rows with the best figures of each column marked, equal ones as printed together."""
    marked = [list(row.cells) for row in rows]
    for at, column in enumerate(columns):
        means = [row.cells[at].mean for row in rows if not math.isnan(row.cells[at].mean)]
        if column.better is None or len(means) < 2:
            continue
        best = format_number((max if column.better == "higher" else min)(means), column)
        for cells in marked:
            same = format_number(cells[at].mean, column) == best
            cells[at] = replace(cells[at], best=same)
    return [replace(row, cells=tuple(cells)) for row, cells in zip(rows, marked, strict=True)]
