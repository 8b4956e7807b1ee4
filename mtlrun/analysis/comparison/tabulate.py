"""A comparison as a table: rows, columns, and the words around them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mtlrun.analysis.comparison.answer import answer
from mtlrun.analysis.comparison.baselines import baselines_text
from mtlrun.analysis.comparison.blocks import OF, Blocks
from mtlrun.analysis.comparison.fewer import partners
from mtlrun.analysis.comparison.figures import (
    MEAN_RANK,
    OVER_METRICS,
    OVER_TASKS,
    P_VALUE,
    SECONDS,
    WINS,
    Figure,
    Which,
)
from mtlrun.analysis.comparison.grouped import seconds_notes
from mtlrun.analysis.comparison.groups import TASKS, TRAIN_ROWS, Group, Protocol
from mtlrun.analysis.comparison.measured import Comparison
from mtlrun.analysis.comparison.naming import DISTILLED, differences, teachers_of_all
from mtlrun.analysis.comparison.notes import (
    baseline_notes,
    early_notes,
    lent_notes,
    listing,
    machine_notes,
    missing_notes,
    names,
    protocol_notes,
    said_by,
)
from mtlrun.analysis.comparison.significance import power_text
from mtlrun.analysis.comparison.table import (
    Cell,
    Column,
    Row,
    Table,
    format_number,
    suited_decimals,
)
from mtlrun.analysis.comparison.transfer import transfers
from mtlrun.analysis.comparison.wanted import ordered, shown_figures
from mtlrun.teacher_names import KEY as TEACHERS

WHICH_TEXT: Mapping[Which, str] = {
    "test": "Test split, model selected on the {split} split",
    "final": "Last epoch, {split} split",
    "best": "Each metric's own best epoch on the {split} split, which flatters every method",
}
SPREAD_TEXT = {
    "sd": "mean ± standard deviation over seeds",
    "t": "mean and 95 % interval over seeds (Student's t; of delta_m the jackknife's, with the "
    "baseline's seeds)",
    "bootstrap": "mean and 95 % interval over seeds (bootstrap's percentiles, of delta_m with the "
    "baseline's seeds; too short for few seeds, where --spread t is right)",
}


def tabulate(
    dataset: str,
    protocol: Protocol,
    apart: Protocol,
    comparison: Comparison,
    blocks: Blocks,
) -> Table:
    """The table of everything that was computed.

    Args:
        dataset: its name.
        protocol: what all rows share.
        apart: what tells the table from others of the dataset.
        comparison: the figures.
        blocks: what can be ranked of them.
    """
    shown = shown_figures(comparison)
    columns = [_column(comparison, figure) for figure in shown]
    differs = differences(comparison.groups)
    moved = {
        group: transfers(
            group, baseline, comparison.samples, comparison.statistics, comparison.metrics
        )
        for group, baseline in comparison.against.items()
    }
    rows = [
        Row(
            study=group.study,
            method=group.method,
            label=comparison.short[group],
            seeds=len(group.runs),
            baseline=(
                comparison.whole_name(comparison.against[group])
                if group in comparison.against
                else ""
            ),
            cells=tuple(_cell_of(comparison, group, figure) for figure in shown),
            runs=group.runs,
            differs=differs[group],
            transfer=moved.get(group, ()),
            test=comparison.tests.get(group),
        )
        for group in ordered(comparison)
    ]
    table = Table(
        dataset=dataset,
        columns=tuple(columns),
        rows=tuple(_with_best_marked(rows, columns, ranked=comparison.ranked)),
        caption=tuple(_caption(comparison)),
        notes=tuple(_notes(comparison)),
        protocol=protocol,
        ranking=blocks.ranking(OF),
        apart=apart,
        reference=comparison.labels[comparison.reference] if comparison.reference else "",
        judged=comparison.judged.chosen,
    )
    said = answer(table.title, comparison, moved)
    return replace(table, answer=tuple(said if comparison.ranked else partners(table.title, moved)))


def _cell_of(comparison: Comparison, group: Group, figure: Figure) -> Cell:
    """A group's figure; a metric of a task that it has not is absent."""
    absent = figure in comparison.metrics and figure.group not in group.tasks
    return comparison.statistics[group].get(figure, Cell(absent=absent))


def _column(comparison: Comparison, figure: Figure) -> Column:
    means = [comparison.mean(group, figure) for group in comparison.groups]
    if figure in (OVER_METRICS, OVER_TASKS):
        return Column(*figure, decimals=2, signed=True)
    if figure == P_VALUE:
        return Column(*figure, decimals=3, spread=False, least=0.001)
    if figure in (MEAN_RANK, WINS):
        return Column(*figure, decimals=1 if figure == MEAN_RANK else 0, spread=False)
    if figure == SECONDS:
        return Column(*figure, decimals=suited_decimals(means, digits=3), spread=False)
    return Column(*figure, decimals=suited_decimals(means))


def _caption(comparison: Comparison) -> Iterator[str]:
    options, groups = comparison.options, comparison.groups
    splits = said_by((run.select_on, "") for group in groups for run in group.runs)
    where = WHICH_TEXT[options.which].format(split=" or ".join(splits))
    yield f"{where}; {SPREAD_TEXT[options.spread]}."
    if comparison.common:
        yield f"All with {', '.join(comparison.common)}."
    if any(DISTILLED in name.split(",") for name in comparison.short.values()):
        yield f"{DISTILLED}: with {TEACHERS}={teachers_of_all(groups)}."
    if comparison.against:
        yield _delta_m_caption(comparison)
    if not comparison.ranked:
        yield (
            "Each row is of the tasks that it has figures of, and so is its delta_m, which does "
            "not compare with that of a row of other tasks."
        )
        return
    yield from _test_caption(comparison)
    of_tasks = _of_tasks(comparison)
    if len(groups) > 1:
        yield (
            f"mean rank: of the row among these rows, over the metrics{of_tasks}, 1 is best. wins: "
            f"{'those' if of_tasks else 'metrics'} in which no row is better."
        )


def _of_tasks(comparison: Comparison) -> str:
    """`` of depth``: the tasks that rows are judged by; nothing where these are all."""
    chosen = comparison.judged.chosen
    return f" of {listing(chosen)}" if chosen else ""


def _delta_m_caption(comparison: Comparison) -> str:
    against = baselines_text(comparison.against, comparison.labels)
    turned = "with the opposite sign."
    metrics = comparison.judged.metrics(comparison.metrics)
    of_tasks = _of_tasks(comparison)
    if len(metrics) == 1:
        return (
            f"delta_m: relative change of the metric{of_tasks}, in percent and positive where "
            f"better, against {against}. Nash-MTL, FAMO and FairGrad print it {turned}"
        )
    return (
        "delta_m: mean relative change, in percent and positive where better, against "
        f"{against}, over all {len(metrics)} metrics{of_tasks} alike, and over tasks of the mean "
        f"over each task's metrics. Nash-MTL, FAMO and FairGrad print the first {turned}"
    )


def _test_caption(comparison: Comparison) -> Iterator[str]:
    """What was tested, and how little the seeds can show."""
    known = [test for test in comparison.tests.values() if not math.isnan(test.adjusted)]
    if not known or comparison.reference is None:
        return
    paired = [test.pairs for test in known if test.pairs]
    kind = "paired t-test by seed" if paired else "Welch's t-test"
    if paired and len(paired) < len(known):
        kind += " (Welch's where fewer than two seeds are shared)"
    rows = "the 1 row" if len(known) == 1 else f"the {len(known)} rows"
    some = " n/a: one seed, or the same difference each time."
    yield (
        f"p (Holm): two-sided {kind} of delta_m over metrics against "
        f"{comparison.labels[comparison.reference]}, corrected for {rows} tested."
        f"{some if len(known) < len(comparison.tests) else ''} Within noise "
        "of the best: the same tests against the best row give p >= .05."
    )
    if paired and min(paired) <= 5:
        yield power_text(min(paired))


def _notes(comparison: Comparison) -> Iterator[str]:
    groups, labels = comparison.groups, comparison.labels
    yield from comparison.judged.notes
    reasons = said_by((why, labels[group]) for group, why in comparison.no_delta_m.items())
    for why, rows in reasons.items():
        who = "" if len(rows) == len(groups) else f" for {names(rows)}"
        yield f"delta_m is n/a{who}: {why}."
    wanted = comparison.options.reference
    if (
        wanted
        and comparison.ranked
        and all(math.isnan(test.adjusted) for test in comparison.tests.values())
    ):
        yield f"Nothing is tested against {wanted}: that takes a delta_m and two seeds of both."
    yield from missing_notes(comparison.statistics, labels)
    own: tuple[str, ...] = (TASKS, TRAIN_ROWS)  # which the rows themselves tell
    if comparison.ranked:
        own = tuple(f"{TRAIN_ROWS}{task}" for task in comparison.judged.beside(groups))
    yield from protocol_notes(groups, labels, without=own)
    yield from early_notes(groups, labels)
    yield from lent_notes(comparison.baselines.borrowed, labels)
    yield from seconds_notes(groups, labels)
    yield from baseline_notes(comparison.against, labels)
    yield from machine_notes(groups, labels)


def _with_best_marked(rows: Sequence[Row], columns: Sequence[Column], *, ranked: bool) -> list[Row]:
    """The rows with the best figures of each column marked, equal ones as printed together.

    Where rows are not ranked, as they train different tasks, this is of each task's metrics only.
    """
    marked = [list(row.cells) for row in rows]
    for at, column in enumerate(columns):
        means = [row.cells[at].mean for row in rows if not math.isnan(row.cells[at].mean)]
        over_all = column.group == OVER_METRICS.group and not ranked
        if column.better is None or len(means) < 2 or over_all:
            continue
        best = format_number((max if column.better == "higher" else min)(means), column)
        for cells in marked:
            same = format_number(cells[at].mean, column) == best
            cells[at] = replace(cells[at], best=same)
    return [replace(row, cells=tuple(cells)) for row, cells in zip(rows, marked, strict=True)]
