"""The figures of one table: means over seeds, delta_m, ranks, tests, what each task gains."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from mtlrun.analysis.comparison.baselines import Baselines
from mtlrun.analysis.comparison.figures import (
    MEAN_RANK,
    OVER_METRICS,
    OVER_TASKS,
    P_VALUE,
    SECONDS,
    WINS,
    Figure,
    NoDeltaMError,
    Samples,
    Spread,
    Statistics,
    Values,
    Which,
    change_intervals,
    collected,
    delta_m_values,
    means,
    metric_values,
    over_seeds,
)
from mtlrun.analysis.comparison.grouped import in_sentences, seconds_unknown
from mtlrun.analysis.comparison.groups import Group
from mtlrun.analysis.comparison.judged import Judged, judged_by
from mtlrun.analysis.comparison.naming import short_names
from mtlrun.analysis.comparison.significance import reference_of, tests_against
from mtlrun.analysis.comparison.table import Cell, PairedTest
from mtlrun.analysis.runs import Run
from mtlrun.analysis.statistics.bootstrap import ChangeIntervals
from mtlrun.analysis.statistics.ranking import mean_rank_over_metrics, wins


@dataclass(frozen=True)
class Options:
    """How runs are compared.

    Attributes:
        which: which figure of each metric.
        spread: what is printed beside a mean.
        pool: one table a dataset, whatever the protocols.
        merge_studies: runs of several studies that differ by their seed only are one row.
        columns: names of metrics, or patterns such as ``depth/*``, of those to show; empty is all.
        sort: name or key of the column to order rows by; None is delta_m, behind the baseline.
        reference: name of the row that the others are tested against; None is equal weighting,
            or else the baseline.
        tasks: those that rows are judged by; empty is the primary ones, or else all.
    """

    which: Which = "test"
    spread: Spread = "sd"
    pool: bool = False
    merge_studies: bool = False
    columns: tuple[str, ...] = ()
    sort: str | None = None
    reference: str | None = None
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The groups of one table with everything that was computed of them.

    Attributes:
        groups: at least one.
        options: how they are compared.
        baselines: of this table.
        metrics: the columns of figures.
        samples: for each group its figures, one a run.
        statistics: the same over seeds, with delta_m, ranks and wins.
        short: how a group is called in the table.
        common: changed settings that all groups have, left out of their names.
        labels: how a group is called in sentences: with its study where there are several.
        judged: the tasks that delta_m, ranks and wins are over.
        against: what each group's delta_m is against.
        no_delta_m: why each other group has none.
        reference: what the others are tested against, where anything is.
        tests: of the others.
        ranked: whether groups compare with each other; not where they train different tasks.
    """

    groups: Sequence[Group]
    options: Options
    baselines: Baselines
    metrics: tuple[Figure, ...]
    samples: Samples
    statistics: Statistics
    short: Mapping[Group, str]
    common: tuple[str, ...]
    labels: Mapping[Group, str]
    judged: Judged
    against: dict[Group, Group] = field(default_factory=dict)
    no_delta_m: dict[Group, str] = field(default_factory=dict)
    reference: Group | None = None
    tests: Mapping[Group, PairedTest] = field(default_factory=dict)
    ranked: bool = True

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        baselines: Baselines,
        options: Options,
        ranked: bool = True,
    ) -> "Comparison":
        """Compute everything.

        Args:
            groups: of one dataset and, unless pooled, protocol.
            baselines: of any table.
            options: how to compare.
            ranked: whether they compare with each other. Those of different tasks do not; what
                each of them is compared with is in the same table, as a whole.
        """
        if not ranked:
            against = dict.fromkeys(map(baselines.of, groups))
            groups = [*(one for one in against if one and one not in groups), *groups]
        rows, own = baselines.for_table(groups)
        several = len({group.study for group in rows}) > 1
        short, common = short_names(rows)
        labels = {g: f"{g.study}: {short[g]}" if several else short[g] for g in rows}
        samples = {
            group: collected([metric_values(run, options.which) for run in group.runs])
            for group in rows
        }
        by_task: dict[str, dict[Figure, None]] = {}
        for figures in samples.values():
            for figure in figures:
                by_task.setdefault(figure.group, {})[figure] = None
        metrics = tuple(figure for task in by_task.values() for figure in task)
        statistics = {
            group: {figure: over_seeds(values, options.spread) for figure, values in of.items()}
            for group, of in samples.items()
        }
        judged = judged_by(rows, labels, options.tasks, ranked=ranked)
        comparison = cls(
            rows, options, own, metrics, samples, statistics, short, common, labels, judged
        )
        comparison._add_delta_m(baselines)
        comparison._add_seconds()
        if not ranked:
            return replace(comparison, ranked=False)
        comparison._add_ranks()
        return comparison._tested()

    def _add_delta_m(self, baselines: Baselines) -> None:
        for group in self.groups:
            baseline = self.baselines.of(group)
            if baseline is None:
                self.no_delta_m[group] = baselines.why_none(group)
                continue
            there = means(self.statistics[baseline], self.metrics)
            try:
                deltas = [
                    delta_m_values(self._judged_values(run, group), there) for run in group.runs
                ]
            except NoDeltaMError as error:
                self.no_delta_m[group] = str(error)
                continue
            self.against[group] = baseline
            self.samples[group].update(collected(deltas))
            intervals = self._intervals(group, baseline)
            for figure in (OVER_METRICS, OVER_TASKS):
                cell = over_seeds(self.samples[group][figure], self.options.spread)
                if intervals:
                    ends = (
                        intervals.over_metrics if figure == OVER_METRICS else intervals.over_tasks
                    )
                    cell = replace(cell, interval=ends)
                self.statistics[group][figure] = cell

    def _judged_values(self, run: Run, group: Group) -> Values:
        values = metric_values(run, self.options.which)
        return {f: value for f, value in values.items() if self.judged.counts(group, f)}

    def _intervals(self, group: Group, baseline: Group) -> ChangeIntervals | None:
        """Of delta_m, with the baseline's seeds; None where none are printed, or against itself.

        The baseline's own interval is how its seeds scatter about 0.
        """
        if self.options.spread == "sd" or group is baseline:
            return None
        own = [
            figure
            for figure in self.metrics
            if figure in self.samples[group] and self.judged.counts(group, figure)
        ]
        return change_intervals(group, baseline, self.samples, own, self.options.spread)

    def _add_ranks(self) -> None:
        if len(self.groups) < 2:
            return
        metrics = self.judged.metrics(self.metrics)
        signs = [1 if figure.better == "higher" else -1 for figure in metrics]
        table = [list(means(self.statistics[g], metrics).values()) for g in self.groups]
        ranks, won = mean_rank_over_metrics(table, signs), wins(table, signs)
        for group, rank, count in zip(self.groups, ranks, won, strict=True):
            if not math.isnan(rank):
                self.statistics[group][MEAN_RANK] = Cell(rank)
            if any(won):
                self.statistics[group][WINS] = Cell(count)

    def _add_seconds(self) -> None:
        for group in self.groups:
            # Those of borrowed ones are of more tasks
            if group not in self.baselines.borrowed and not seconds_unknown(group):
                seconds = [run.seconds for run in group.runs]
                self.statistics[group][SECONDS] = over_seeds(seconds)

    def _tested(self) -> "Comparison":
        reference = reference_of(
            self.groups,
            {group: self.names(group) for group in self.groups},
            self.baselines.candidates,
            self.options.reference,
        )
        if reference is None:
            return self
        tests = tests_against(reference, self.groups, self.samples, self.labels)
        for group, test in tests.items():
            if not math.isnan(test.adjusted):
                self.statistics[group][P_VALUE] = Cell(test.adjusted)
        return replace(self, reference=reference if tests else None, tests=tests)

    def names(self, group: Group) -> tuple[str, ...]:
        """What a user may call a group."""
        called = (self.short[group], self.labels[group], group.method, self.spoken[group])
        return tuple(dict.fromkeys(called))

    @cached_property
    def spoken(self) -> Mapping[Group, str]:
        """How a group is called in the finding: groupings without their networks."""
        return {group: in_sentences(label, group) for group, label in self.labels.items()}

    def mean(self, group: Group, figure: Figure) -> float:
        """The group's figure; NaN where there is none."""
        return self.statistics[group].get(figure, Cell()).mean

    def figures(self) -> Iterator[Figure]:
        """All columns: the metrics task by task, delta_m and its test, ranks, seconds."""
        yield from self.metrics
        yield from (OVER_METRICS, OVER_TASKS)
        for figure in (P_VALUE, MEAN_RANK, WINS):
            if any(figure in cells for cells in self.statistics.values()):
                yield figure
        yield SECONDS

    def whole_name(self, group: Group) -> str:
        """The group's method, with its study where there are several."""
        several = len({other.study for other in self.groups}) > 1
        return f"{group.study}: {group.method}" if several else group.method
