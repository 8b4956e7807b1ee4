"""What delta_m is computed against: single-task runs, looked for or named by the user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlrun.analysis.groups import Group, group_runs, nearest
from mtlrun.analysis.notes import names, said_by
from mtlrun.analysis.runs import FoundRuns, Run, beside
from mtlrun.errors import UserError


@dataclass(frozen=True)
class Baselines:
    """Groups to compare with.

    Attributes:
        candidates: single-task runs, or what the user named instead.
        named: the folder that the user named, None where they were looked for.
    """

    candidates: Sequence[Group]
    named: Path | None = None

    def of(self, group: Group) -> Group | None:
        """What ``group`` is compared with: same dataset, same study unless a folder was named."""
        return nearest(
            group,
            [
                candidate
                for candidate in self.candidates
                if candidate.dataset == group.dataset
                and (self.named is not None or candidate.study == group.study)
            ],
        )

    def why_none(self, group: Group) -> str:
        """Why :meth:`of` found nothing, and what to do."""
        if self.named is not None:
            return f"{self.named} holds no finished run on {group.dataset}"
        study = "" if group.study == "default" else f" study={group.study}"
        return (
            f"study {group.study} has no finished single-task run on {group.dataset}; "
            f"`mtlrun dataset={group.dataset} architecture=single_task{study}` makes one"
        )

    def text(self, against: Mapping[Group, Group], labels: Mapping[Group, str]) -> str:
        """Against what the rows are compared, for the caption."""
        kind = (
            "the single-task runs"
            if all(baseline.single_task for baseline in against.values())
            else "the baseline"
        )
        rows = said_by(
            (f"{labels[baseline]}, {_seeds(baseline)}", labels[group])
            for group, baseline in against.items()
            if group is not baseline
        )
        if not rows:
            return f"{kind} themselves"
        if len(rows) == 1:
            return f"{kind} ({next(iter(rows))})"
        each = "; ".join(f"{baseline}, for {names(those)}" for baseline, those in rows.items())
        return f"{kind} whose settings are most like theirs ({each})"


def _seeds(group: Group) -> str:
    return "1 seed" if len(group.runs) == 1 else f"{len(group.runs)} seeds"


def _from_here(folder: Path) -> str:
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def look_for_baselines(runs: Sequence[Run]) -> tuple[list[Group], Baselines, list[str]]:
    """Single-task runs among ``runs``, and beside them where a study and dataset has none.

    Returns:
        all groups, those found beside among them; the baselines; notes.
    """
    served = {(run.study, run.dataset) for run in runs if run.single_task}
    lonely = [run for run in runs if (run.study, run.dataset) not in served]
    neighbours = [run for run in beside(lonely) if run.single_task]
    groups, notes = group_runs([*runs, *neighbours])
    if neighbours:
        folders = dict.fromkeys(_from_here(run.folder.parent) for run in neighbours)
        notes.append(f"Single-task runs that lie beside the given folders: {names(folders)}.")
    return groups, Baselines([group for group in groups if group.single_task]), notes


def name_baselines(
    runs: Sequence[Run], folder: Path, found: FoundRuns
) -> tuple[list[Group], Baselines, list[str]]:
    """The runs of a folder that the user named: its single-task runs, else its one method.

    Returns:
        all groups, the baselines among them; the baselines; notes.

    Raises:
        UserError: on some dataset the folder holds several methods and no single-task run.
    """
    known = {run.folder.resolve(): run for run in runs}
    there = [known.get(run.folder.resolve(), run) for run in found.finished]
    served = {run.dataset for run in there if run.single_task}
    chosen = [run for run in there if run.single_task or run.dataset not in served]
    methods = said_by((run.dataset, run.method) for run in chosen if run.dataset not in served)
    for dataset, several in methods.items():
        if len(several) > 1:
            raise UserError(
                f"--baseline {folder} holds several methods on {dataset} ({names(several)}) and "
                "no single-task run. Give the folder of one method."
            )
    compared = {run.dataset for run in runs}
    extra = [run for run in chosen if run.dataset in compared]
    groups, notes = group_runs(dict.fromkeys([*runs, *extra]))
    candidates = [group for group in groups if not set(chosen).isdisjoint(group.runs)]
    return groups, Baselines(candidates, folder), [*notes, *found.unreadable]
