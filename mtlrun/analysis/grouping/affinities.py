"""Affinities that runs measured while they trained."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mtlrun.analysis.curves import affinity_curves
from mtlrun.analysis.grouping.evidence import AFFINITIES, Evidence, refuse_several
from mtlrun.analysis.grouping.scores import Floats, from_affinity
from mtlrun.analysis.grouping.training import dataset_folder, shown_folder
from mtlrun.analysis.runs import CONFIG, Run
from mtlrun.analysis.yaml_files import read_settings
from mtlrun.errors import UserError

FILE = "affinity.csv"


def kinds_measured(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """For each kind of affinity the runs that measured it."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        kind = _kind(run.folder) if (run.folder / FILE).is_file() else None
        if kind:
            found.setdefault(kind, []).append(run)
    return {kind: found[kind] for kind in AFFINITIES if kind in found}


def _kind(folder: Path) -> str | None:
    engine = (read_settings(folder / CONFIG) or {}).get("engine")
    kind = engine.get("affinity") if isinstance(engine, dict) else None
    return kind if kind in AFFINITIES else None


def from_affinities(kind: str, runs: Sequence[Run]) -> Evidence:
    """Networks by the mean affinity of their tasks, over the steps and then over the seeds.

    Args:
        kind: one of :data:`AFFINITIES`.
        runs: that measured it; those of most tasks count.

    Raises:
        UserError: the runs have different settings; or tasks were never measured together.
    """
    alike: dict[object, dict[int, Run]] = {}
    most = max(len(run.metrics) for run in runs)
    fewer = sum(len(run.metrics) < most for run in runs)
    for run in (run for run in runs if len(run.metrics) == most):
        what = frozenset([*run.settings.items(), *run.choices.items()])
        key = (run.study, run.dataset, what)
        alike.setdefault(key, {})[run.seed] = run
    if len(alike) > 1:
        examples = [next(iter(by_seed.values())) for by_seed in alike.values()]
        refuse_several("runs that measured it", examples)
    ((_, by_seed),) = alike.items()
    chosen = [by_seed[seed] for seed in sorted(by_seed)]
    tasks = tuple(chosen[0].metrics)
    tables, steps = zip(*(_mean_over_steps(run, tasks) for run in chosen), strict=True)
    candidates = from_affinity(np.mean(tables, axis=0))
    everything = candidates.values(np.ones(len(tasks), dtype=bool))
    seeds = ", ".join(str(run.seed) for run in chosen)
    measured = f"{min(steps)} to {max(steps)}" if len(set(steps)) > 1 else str(steps[0])
    return Evidence(
        source=kind,
        tasks=tasks,
        candidates=(candidates,),
        unit=AFFINITIES[kind],
        reference=chosen[0],
        seeds=tuple(run.seed for run in chosen),
        said=(
            f"By the {AFFINITIES[kind]} between {len(tasks)} tasks, the mean of {measured} steps "
            f"of {'a run' if len(chosen) == 1 else f'{len(chosen)} runs'} (seed {seeds}) of "
            f"{chosen[0].method} in {shown_folder(dataset_folder(chosen[0]))}.",
            *([f"Left out, as they have fewer tasks: {fewer} that measured it."] if fewer else ()),
        ),
        all_in_one=dict(zip(tasks, map(float, everything), strict=True)),
    )


def _mean_over_steps(run: Run, tasks: Sequence[str]) -> tuple[Floats, int]:
    """[T, T], source by target, and the number of steps; the diagonal may be NaN."""
    table = np.full((len(tasks), len(tasks)), np.nan)
    steps: set[float] = set()
    for (source, target), curve in affinity_curves(run.folder).items():
        known = curve.finite()
        if source in tasks and target in tasks and len(known.values):
            table[tasks.index(source), tasks.index(target)] = known.values.mean()
            steps.update(known.steps)
    missing = np.argwhere(np.isnan(table) & ~np.eye(len(tasks), dtype=bool))
    if len(missing):
        source, target = (tasks[place] for place in missing[0])
        raise UserError(
            f"{run.folder / FILE} has no affinity of {source} onto {target}: no step that was "
            "measured had both, or the run was too short. Measure more often with "
            "engine.affinity_every=1, with a sampler that draws several tasks a step."
        )
    np.fill_diagonal(table, 0)  # which nobody asks for
    return table, len(steps)
