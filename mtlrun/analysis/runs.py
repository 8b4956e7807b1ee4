"""Finding run folders and reading what they hold.

A run folder is ``<outputs>/<study>/<dataset>/<method>/seed=<n>``. A finished one holds
``result.json`` and ``config.yaml``; one without ``result.json`` is still running, was interrupted
or has failed.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtlrun.analysis.yaml_files import read_settings
from mtlrun.errors import UserError

RESULT = "result.json"
CONFIG = "config.yaml"
FORMAT = 1
"""The layout of ``result.json`` that this module reads."""

SINGLE_TASK = "single_task"
"""The architecture of one model a task: what delta_m compares with."""

PROTOCOL = ("epochs", "batch_size", "select_on")
COMPARED_SECTIONS = ("dataset", "backbone", "heads", "optimizer", "scheduler")
WHERE_DATA_LIES = "dataset.root"


@dataclass(frozen=True)
class Figures:
    """One metric of one run; NaN where the run has no number.

    Attributes:
        higher_is_better: the metric's direction.
        test: of the selected model on the test split.
        final: of the last epoch on the split that models are selected on.
        best: of the metric's own best epoch on that split.
    """

    higher_is_better: bool
    test: float
    final: float
    best: float


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies, as found.
        method: weighting and changed settings; runs that share study, dataset and method differ
            by their seed only.
        weighting: the first part of the method.
        changed: its changed settings, as text; None where the run does not say.
        metrics: for each task its metrics by name, in the order of the run.
        seconds: of training and testing; NaN where unknown.
        machine: what ``seconds`` depends on: device and threads.
        settings: what the figures depend on beside the method: epochs, batch size, tasks, and the
            flattened sections of :data:`COMPARED_SECTIONS`, as text.
        has_config: whether ``config.yaml`` could be read into ``settings``.
    """

    folder: Path
    study: str
    dataset: str
    method: str
    weighting: str
    changed: Mapping[str, str] | None
    architecture: str
    seed: int
    select_on: str
    metrics: Mapping[str, Mapping[str, Figures]]
    seconds: float
    machine: str
    settings: Mapping[str, str]
    has_config: bool

    @property
    def single_task(self) -> bool:
        """Whether it trained one model a task."""
        return self.architecture == SINGLE_TASK


@dataclass(frozen=True)
class UnfinishedRun:
    """A run folder without a final result.

    Attributes:
        name: method and seed, as its folders say.
        state: ``unfinished`` (running or interrupted), or what ``result.json`` says (``failed``).
    """

    folder: Path
    dataset: str
    name: str
    state: str


@dataclass
class FoundRuns:
    """What lies below some folders.

    Attributes:
        finished: in the order of their folders, each folder once.
        unfinished: likewise.
        unreadable: for each damaged ``result.json`` a sentence that names it.
    """

    finished: list[Run] = field(default_factory=list)
    unfinished: list[UnfinishedRun] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def find_runs(folders: Sequence[Path]) -> FoundRuns:
    """Read every run below ``folders``; a folder that is reached twice counts once.

    Raises:
        UserError: a folder is missing, or there is no run folder below it.
    """
    found = FoundRuns()
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "is not there"
            raise UserError(f"{folder} {problem}. Give a folder that holds runs, such as outputs.")
        below = list(run_folders(folder))
        if not below:
            raise UserError(
                f"No runs below {folder}. A run folder is <study>/<dataset>/<method>/seed=<n> and "
                f"holds {RESULT} once the run has finished; `mtlrun` writes it below outputs."
            )
        for run_folder in below:
            if (resolved := run_folder.resolve()) not in seen:
                seen.add(resolved)
                _read_into(found, run_folder)
    return found


def beside(runs: Iterable[Run]) -> list[Run]:
    """The finished runs of the same study and dataset that lie in the folders beside ``runs``."""
    datasets = {
        run.folder.resolve().parent.parent: (run.study, run.dataset)
        for run in runs
        if run.folder.resolve().name.startswith("seed=")
    }
    neighbours = FoundRuns()
    for folder in datasets:
        for run_folder in run_folders(folder):
            _read_into(neighbours, run_folder)
    served = set(datasets.values())
    return [run for run in neighbours.finished if (run.study, run.dataset) in served]


def run_folders(folder: Path) -> Iterator[Path]:
    """The run folders at or below ``folder``, in the order of their names."""
    if (folder / RESULT).is_file() or folder.resolve().name.startswith("seed="):
        yield folder
        return
    try:
        children = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.") from error
    for child in children:
        if not child.name.startswith(".") and not child.is_symlink():
            yield from run_folders(child)


def _read_into(found: FoundRuns, folder: Path) -> None:
    try:
        run = read_run(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        found.unreadable.append(f"{folder / RESULT} cannot be read ({reason}): left out.")
        return
    if isinstance(run, Run):
        found.finished.append(run)
    else:
        found.unfinished.append(run)


def read_run(folder: Path) -> Run | UnfinishedRun:
    """Read one run folder.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: ``result.json`` is damaged.
    """
    path = folder.resolve()
    name = f"{path.parent.name} {path.name}"
    if not (folder / RESULT).is_file():
        return UnfinishedRun(folder, path.parent.parent.name, name, "unfinished")
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    if not isinstance(result, dict):
        raise TypeError("it holds no JSON object")
    if result["format"] != FORMAT:
        raise ValueError(f"it has format {result['format']}, this mtlrun reads format {FORMAT}")
    if result["state"] != "finished":
        return UnfinishedRun(folder, path.parent.parent.name, name, str(result["state"]))
    return _finished_run(folder, result)


def _finished_run(folder: Path, result: Mapping[str, Any]) -> Run:
    metrics = {
        str(task): {
            str(metric): Figures(
                higher_is_better=bool(figures["higher_is_better"]),
                test=_number(figures.get("test")),
                final=_number(figures.get("final")),
                best=_number(figures.get("best")),
            )
            for metric, figures in facts["metrics"].items()
        }
        for task, facts in result["tasks"].items()
    }
    settings = {
        "epochs": str(result["epochs"]),
        "select_on": str(result["select_on"]),
        "tasks": ", ".join(metrics),
    }
    config = _read_config(folder / CONFIG)
    return Run(
        folder=folder,
        study=str(result["study"]),
        dataset=str(result["dataset"]),
        method=str(result["method"]),
        weighting=str(result["weighting"]),
        changed=_texts(result.get("changed")),
        architecture=str(result["architecture"]),
        seed=int(result["seed"]),
        select_on=str(result["select_on"]),
        metrics=metrics,
        seconds=_number(result.get("seconds")),
        machine=f"{result.get('device')} with threads={result.get('threads')}",
        settings=settings | (config or {}),
        has_config=config is not None,
    )


def _texts(settings: object) -> dict[str, str] | None:
    if not isinstance(settings, dict):
        return None
    return {key: str(value) for key, value in settings.items()}


def _number(value: object) -> float:
    """A finite number, or NaN where the run wrote none."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value) if math.isfinite(value) else math.nan


def _read_config(path: Path) -> dict[str, str] | None:
    """The settings of a ``config.yaml`` that comparisons look at; None where it cannot be read."""
    config = read_settings(path)
    if config is None:
        return None
    # Early stopping may have ended a run before the epochs that were asked for.
    settings = {key: str(config[key]) for key in PROTOCOL if key in config}
    for section in COMPARED_SECTIONS:
        settings.update(_flatten(section, config.get(section)))
    settings.pop(WHERE_DATA_LIES, None)
    return settings


def _flatten(key: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flatten(f"{key}.{name}", inner)
    elif value is not None:
        yield key, str(value)
