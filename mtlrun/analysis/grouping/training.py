"""The command that trains the networks of a grouping."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from mtlrun.analysis.comparison.groups import FOLLOWS, SPLIT_SEED
from mtlrun.analysis.grouping.evidence import Evidence, result_of
from mtlrun.analysis.grouping.file import Grouping
from mtlrun.analysis.runs import CONFIG, Run
from mtlrun.analysis.settings import of_method
from mtlrun.analysis.yaml_files import read_settings
from mtlrun.errors import UserError
from mtlrun.overrides import hydra_text
from mtlrun.task_choice import chosen_tasks

DROPPED = ("tasks", "engine.affinity", "engine.affinity_every")
"""Settings of the reference run that its networks do not have."""

LEAST_SEEDS = (0, 1, 2)


def training_commands(evidence: Evidence, grouping: Grouping) -> list[list[str]]:
    """The arguments of ``mtlrun`` that train the networks of a grouping, as Hydra reads them.

    Returns:
        one command for each size of network.
    """
    sizes: dict[Run, list[tuple[str, ...]]] = {}
    for group in grouping.groups:
        other = evidence.other_sizes.get((group.tasks, group.cost))
        alike = (run for run in sizes if other and _same_backbone(run, other))
        reference = next(alike, other or evidence.reference)
        sizes.setdefault(reference, []).append(group.tasks)
    return [
        _command(reference, grouping.tasks, groups, evidence.seeds)
        for reference, groups in sizes.items()
    ]


def _same_backbone(one: Run, other: Run) -> bool:
    keys = {key for run in (one, other) for key in run.settings if key.startswith("backbone.")}
    return all(one.settings.get(key) == other.settings.get(key) for key in keys)


def command_like(run: Run, *more: str, alone: bool = False, seeds: Sequence[int] = ()) -> str:
    """The line that makes a run with the settings of another one, beside it.

    Args:
        run: the other one.
        more: further arguments; those that do not set anything come first.
        alone: whether to train each task by itself, without the other run's method.
        seeds: of the runs; none for one run.
    """
    settings = [f"weighting={run.weighting}", *_changed(run)]
    if alone:
        settings = [s for s in settings if not of_method(re.split(r"[.=]", s)[0])]
        more = ("architecture=single_task", *more)
    listed = [f"seed={','.join(map(str, seeds))}"] if seeds else []
    several = ["-m"] if len(seeds) > 1 else []
    first = [word for word in more if word.startswith("+sweep")]
    last = [word for word in more if not word.startswith("+sweep")]
    return shell_line(
        [*several, *first, f"dataset={run.dataset}", *settings, *last, *_place(run), *listed]
    )


def _command(
    reference: Run, tasks: Sequence[str], groups: Sequence[Sequence[str]], seeds: Sequence[int]
) -> list[str]:
    """The command for networks with the settings of one run, for three seeds at least."""
    whole = _whole(reference, tasks)
    lists = [whole if set(group) == set(tasks) else _listed(group) for group in groups]
    every = sorted({*seeds, *LEAST_SEEDS})
    return [
        "-m",
        f"dataset={reference.dataset}",
        f"weighting={reference.weighting}",
        *_changed(reference),
        *_place(reference),
        f"tasks={','.join(dict.fromkeys(lists))}",
        f"seed={','.join(map(str, every))}",
    ]


def shell_line(arguments: Sequence[str]) -> str:
    """``mtlrun`` with arguments, quoted for a shell."""
    return shlex.join(["mtlrun", *arguments])


def shown_folder(folder: Path) -> Path:
    """A folder as one would type it here."""
    here = Path.cwd()
    resolved = folder.resolve()
    return resolved.relative_to(here) if resolved.is_relative_to(here) else resolved


def dataset_folder(run: Run) -> Path:
    """``<outputs>/<study>/<dataset>`` of a run, resolved.

    Raises:
        UserError: the run lies elsewhere.
    """
    folder = run.folder.resolve()
    if not folder.name.startswith("seed=") or len(folder.parts) < 5:
        raise UserError(
            f"{run.folder} is no run folder <outputs>/<study>/<dataset>/<method>/seed=<n>, so "
            "there is no place beside it for a grouping. Move it to such a place."
        )
    return folder.parent.parent


def _place(run: Run) -> Iterator[str]:
    """Where runs have to go so that they lie beside this one; nothing where that is the default."""
    study_folder = dataset_folder(run).parent
    depth = len(PurePath(run.study).parts)
    study = "/".join(study_folder.parts[-depth:])
    if study != run.study:  # the folder was renamed
        depth, study = 1, study_folder.name
    outputs = Path(*study_folder.parts[:-depth])
    if study != "default":
        yield f"study={hydra_text(study)}"
    if outputs != Path.cwd() / "outputs":
        yield f"outputs={hydra_text(os.path.relpath(outputs) if _near(outputs) else str(outputs))}"


def _near(folder: Path) -> bool:
    return folder.is_relative_to(Path.cwd())


def _changed(run: Run) -> Iterator[str]:
    """The settings that make the run differ from its dataset's recipe.

    Raises:
        UserError: the run does not say.
    """
    changed = result_of(run).get("changed")
    if not isinstance(changed, dict):
        raise UserError(
            f"{run.folder} does not say which settings were changed for it, so the command that "
            "trains networks like it is not known. Repeat the run with this mtlrun."
        )
    for key, value in changed.items():
        if key == SPLIT_SEED and run.settings.get(SPLIT_SEED) == FOLLOWS:
            continue
        if key not in DROPPED and not key.startswith("tasks."):
            # Settings that no file of ours has: Hydra wants to be told that they are new.
            new = f"{key.split('.')[0]}._target_" in changed or key.startswith("dataset.tasks.")
            yield f"{'++' if new else ''}{key}={hydra_text(value)}"
    if run.settings.get(SPLIT_SEED) == FOLLOWS:
        yield f"{SPLIT_SEED}=${{seed}}"


def _whole(run: Run, tasks: Sequence[str]) -> str:
    """All tasks, as the run was given them: then it is the network of all tasks."""
    config = read_settings(run.folder / CONFIG) or {}
    given = chosen_tasks(config.get("tasks")).of
    if given is None:
        return "null" if set(run.metrics) == set(tasks) else _listed(tasks)
    return _listed(given if set(given) == set(tasks) else tasks)


def _listed(tasks: Sequence[str]) -> str:
    return hydra_text(list(tasks))
