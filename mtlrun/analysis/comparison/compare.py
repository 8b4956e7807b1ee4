"""From runs to the tables that a paper prints, each with its finding."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtlrun.analysis.comparison.answer import overall_answer
from mtlrun.analysis.comparison.baselines import look_for_baselines, name_baselines
from mtlrun.analysis.comparison.blocks import Blocks, blocks_of, over_datasets
from mtlrun.analysis.comparison.fewer import Members, gathered
from mtlrun.analysis.comparison.figures import Which
from mtlrun.analysis.comparison.groups import Group, differing_protocol, value_of
from mtlrun.analysis.comparison.judged import protocol_for
from mtlrun.analysis.comparison.measured import Comparison, Options
from mtlrun.analysis.comparison.notes import table_notes, unfinished_notes
from mtlrun.analysis.comparison.table import Report
from mtlrun.analysis.comparison.tabulate import tabulate
from mtlrun.analysis.comparison.wanted import check_wanted
from mtlrun.analysis.runs import FoundRuns


def compare(
    found: FoundRuns,
    which: Which = "test",
    baseline: tuple[Path, FoundRuns] | None = None,
    options: Options | None = None,
) -> Report:
    """A table for each dataset and protocol; see :func:`gathered` for those of fewer tasks.

    Args:
        found: the runs to compare.
        which: which figure of each metric.
        baseline: a folder, and what was found there, to compute delta_m against; None looks for
            single-task runs among ``found`` and, where there are none, in the folders beside.
        options: everything else; ``which`` stands above its own.

    Raises:
        UserError: a name among the options is not there; or see
            :func:`mtlrun.analysis.comparison.baselines.name_baselines`.
    """
    options = replace(options or Options(), which=which)
    pool, merge = options.pool, options.merge_studies
    if baseline is None:
        groups, baselines, notes = look_for_baselines(found, pool=pool, merge_studies=merge)
    else:
        folder, there = baseline
        groups, baselines, notes = name_baselines(
            found, folder, there, pool=pool, merge_studies=merge
        )
    protocols = _by_protocol(groups, options)
    comparisons = [
        (dataset, members, Comparison.of(members.groups, baselines, options, members.ranked))
        for dataset, several in protocols.items()
        for members in several
    ]
    check_wanted([comparison for *_, comparison in comparisons], options)
    tables, blocks = [], {}
    for dataset, members, comparison in comparisons:
        siblings = [other.protocol for other in protocols[dataset]]
        apart = {key: value_of(members.protocol, key) for key in differing_protocol(siblings)}
        ranked = Blocks((), {})
        if members.ranked:
            judged = comparison.judged.tasks
            ranked = blocks_of(comparison.groups, comparison.samples, comparison.labels, judged)
        table = tabulate(dataset, members.protocol, apart, comparison, ranked)
        if len(siblings) == 1:
            left_out = unfinished_notes(r for r in found.unfinished if r.dataset == dataset)
            table = replace(table, notes=(*table.notes, *left_out))
        tables.append(table)
        blocks[table.title] = ranked
    alone = {dataset for dataset, several in protocols.items() if len(several) == 1}
    elsewhere = unfinished_notes(r for r in found.unfinished if r.dataset not in alone)
    several_tables = table_notes(
        {dataset: [of.protocol for of in several] for dataset, several in protocols.items()}
    )
    overall, ranked_in = over_datasets(blocks)
    return Report(
        tuple(tables),
        (*several_tables, *notes, *found.unreadable, *elsewhere),
        answer=(overall_answer(overall, ranked_in),) if overall else (),
        ranking=overall,
    )


def _by_protocol(groups: Sequence[Group], options: Options) -> dict[str, list[Members]]:
    """For each dataset its protocols and their groups, those of the most groups first."""
    found: dict[str, list[Members]] = {}
    for group in groups:
        tables, own = found.setdefault(group.dataset, []), protocol_for(group, options.tasks)
        for at, table in enumerate(tables):
            if options.pool or table.protocol == own:
                shared = dict(table.protocol.items() & own.items())
                protocol = {key: table.protocol[key] for key in table.protocol if key in shared}
                tables[at] = Members(protocol, [*table.groups, group])
                break
        else:
            tables.append(Members(own, [group]))
    return {
        dataset: gathered(sorted(tables, key=lambda table: -len(table.groups)))
        for dataset, tables in found.items()
    }
