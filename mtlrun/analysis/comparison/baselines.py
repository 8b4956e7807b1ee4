"""What delta_m is computed against: single-task runs, looked for or named by the user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtlrun.analysis.comparison.groups import (
    Group,
    differing_protocol,
    group_runs,
    lends_to,
    narrowed,
    nearest,
    value_of,
)
from mtlrun.analysis.comparison.notes import names, said_by, seeds_text
from mtlrun.analysis.runs import FoundRuns, beside
from mtlrun.errors import UserError


@dataclass(frozen=True)
class Baselines:
    """Groups to compare with.

    Attributes:
        candidates: single-task runs, or what the user named instead.
        named: the folder that the user named, None where they were looked for.
        pool: whether they serve rows of another protocol.
        merge_studies: whether they serve rows of another study.
        borrowed: those of a table that are narrowed to its tasks.
    """

    candidates: Sequence[Group]
    named: Path | None = None
    pool: bool = False
    merge_studies: bool = False
    borrowed: Sequence[Group] = ()

    def of(self, group: Group) -> Group | None:
        """What ``group`` is compared with: same dataset, study and protocol, unless told else."""
        return nearest(group, [c for c in self._reach(group) if lends_to(c, group, pool=self.pool)])

    def for_table(self, groups: Sequence[Group]) -> tuple[list[Group], "Baselines"]:
        """The groups of one table and its baselines.

        Those of more tasks are lent, narrowed to the table's, where a group has none of its own.
        """
        rows = list(groups)
        lent: dict[Group, Group] = {}
        for group in groups:
            baseline = self.of(group)
            if baseline is not None and baseline not in groups and not self.pool:
                lent.setdefault(baseline, narrowed(baseline, group.tasks))
        rows += lent.values()
        candidates = [c for c in self.candidates if c in groups] + list(lent.values())
        return rows, replace(self, candidates=candidates, borrowed=list(lent.values()))

    def why_none(self, group: Group) -> str:
        """Why :meth:`of` found nothing, and what to do."""
        others = self._reach(group)
        if others:
            other = nearest(group, others)
            assert other is not None
            whose = str(self.named) if self.named else "the single-task runs"
            differences = [
                f"{key}={value_of(other.protocol, key)} instead of {value_of(group.protocol, key)}"
                for key in differing_protocol([group.protocol, other.protocol])
            ]
            return (
                f"{whose} on {group.dataset} have {names(differences)}; --pool compares with them "
                "all the same"
            )
        if self.named is not None:
            return f"{self.named} holds no finished run on {group.dataset}"
        study = "" if group.study == "default" else f" study={group.study}"
        return (
            f"study {group.study} has no finished single-task run on {group.dataset}; "
            f"`mtlrun dataset={group.dataset} architecture=single_task{study}` makes one"
        )

    def _reach(self, group: Group) -> list[Group]:
        """The candidates of its dataset and study, whatever their protocol."""
        any_study = self.named is not None or self.merge_studies
        return [
            candidate
            for candidate in self.candidates
            if candidate.dataset == group.dataset and (any_study or candidate.study == group.study)
        ]


def baselines_text(against: Mapping[Group, Group], labels: Mapping[Group, str]) -> str:
    """Against what the rows are compared, for the caption."""
    kind = (
        "the single-task runs"
        if all(baseline.single_task for baseline in against.values())
        else "the baseline"
    )
    rows = said_by(
        (f"{labels[baseline]}, {seeds_text(len(baseline.runs))}", labels[group])
        for group, baseline in against.items()
        if group is not baseline
    )
    if not rows:
        return f"{kind} themselves"
    if len(rows) == 1:
        return f"{kind} ({next(iter(rows))})"
    each = "; ".join(f"{baseline}, for {names(those)}" for baseline, those in rows.items())
    return f"{kind} whose settings are most like theirs ({each})"


def _from_here(folder: Path) -> str:
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def look_for_baselines(
    found: FoundRuns, *, pool: bool = False, merge_studies: bool = False
) -> tuple[list[Group], Baselines, list[str]]:
    """Single-task runs among those found, and beside them for groups that have none.

    Returns:
        all groups, those found beside that serve one of them among them; the baselines; notes.
    """
    groups, notes = group_runs(found.finished, merge_studies=merge_studies)

    def served_by(groups: Sequence[Group]) -> Baselines:
        return Baselines(
            [group for group in groups if group.single_task], None, pool, merge_studies
        )

    baselines = served_by(groups)
    lonely = [
        source
        for group in groups
        if baselines.of(group) is None
        for run in group.runs
        for source in run.sources
    ]
    neighbours = [run for run in beside(lonely, found.resolved) if run.single_task]
    if not neighbours:
        return groups, baselines, notes
    everything, notes = group_runs([*found.finished, *neighbours], merge_studies=merge_studies)
    asked = {run.folder for run in found.finished}
    baselines = served_by(everything)
    own = {group for group in everything if not asked.isdisjoint(group.folders)}
    serving = {baselines.of(group) for group in own} | own
    used = [group for group in everything if group in serving]
    added = [folder for group in used for folder in group.folders if folder not in asked]
    if added:
        folders = dict.fromkeys(_from_here(folder.parent) for folder in added)
        notes.append(f"Single-task runs that lie beside the given folders: {names(folders)}.")
    return used, baselines, notes


def name_baselines(
    found: FoundRuns,
    folder: Path,
    there: FoundRuns,
    *,
    pool: bool = False,
    merge_studies: bool = False,
) -> tuple[list[Group], Baselines, list[str]]:
    """The runs of a folder that the user named: its single-task runs, else its one method.

    Args:
        found: the runs to compare.
        folder: what the user named.
        there: what was found in it.
        pool: see :class:`Baselines`.
        merge_studies: likewise.

    Returns:
        all groups, the baselines among them; the baselines; notes.

    Raises:
        UserError: on some dataset the folder holds several methods and no single-task run.
    """
    known = {run.folder.resolve(): run for run in found.finished}
    named = [known.get(run.folder.resolve(), run) for run in there.finished]
    served = {run.dataset for run in named if run.single_task}
    chosen = [run for run in named if run.single_task or run.dataset not in served]
    methods = said_by((run.dataset, run.method) for run in chosen if run.dataset not in served)
    for dataset, several in methods.items():
        if len(several) > 1:
            raise UserError(
                f"--baseline {folder} holds several methods on {dataset} ({names(several)}) and "
                "no single-task run. Give the folder of one method."
            )
    compared = {run.dataset for run in found.finished}
    extra = [run for run in chosen if run.dataset in compared]
    everything = dict.fromkeys([*found.finished, *extra])
    groups, notes = group_runs(everything, merge_studies=merge_studies)
    folders = {run.folder.resolve() for run in chosen}
    candidates = [
        group for group in groups if any(run.folder.resolve() in folders for run in group.runs)
    ]
    baselines = Baselines(candidates, folder, pool, merge_studies)
    return groups, baselines, [*notes, *there.unreadable]
