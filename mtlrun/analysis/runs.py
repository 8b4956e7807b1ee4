"""Finding run folders and reading what they hold.

A run folder is ``<outputs>/<study>/<dataset>/<method>/seed=<n>``. A finished one holds
``result.json`` and ``config.yaml``; one without ``result.json`` is still running, was interrupted
or has failed, which its ``status.json`` says where it has one.
"""

import json
import math
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mtlrun.analysis.settings import as_text, choices_of, read_effective
from mtlrun.errors import UserError
from mtlrun.teacher_names import KEY as TEACHERS
from mtlrun.teacher_names import teachers_text
from mtlrun.tracking.status import read_status

RESULT = "result.json"
CONFIG = "config.yaml"
FORMAT = 1
"""The layout of ``result.json`` that this module reads."""

SINGLE_TASK = "single_task"
"""The architecture of one model a task: what delta_m compares with."""

CHOICES = ("weighting", "architecture", "backbone", "sampler", "stopping")
"""Groups whose choice a result names."""


DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,  # 1e999 where a whole number should be
    RecursionError,  # thousands of brackets
)
"""What reading a damaged ``result.json`` raises."""


class Figures(NamedTuple):
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
        method: weighting and changed settings, as its folder says.
        weighting: the first part of the method.
        changed: its changed settings, as text; None where the run does not say.
        metrics: for each task its metrics by name, in the order of the run.
        headlines: for each task the metric that its models are selected by, where known.
        seconds: of training and testing; NaN where unknown.
        machine: what ``seconds`` depends on: device and threads.
        epochs_done: fewer than were asked for where it stopped early.
        settings: what the figures depend on, as text: the configuration without the settings of
            :data:`mtlrun.analysis.settings.WITHOUT_EFFECT`, the tasks, and for each task its
            number of training rows. Runs of one study that have the same are one method.
        choices: for each group the name of its choice.
        primary: the tasks that it is for; empty where it names none.
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
    headlines: Mapping[str, str]
    seconds: float
    machine: str
    epochs_done: int
    settings: Mapping[str, str]
    choices: Mapping[str, str]
    has_config: bool
    primary: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def single_task(self) -> bool:
        """Whether it trained one model a task."""
        return self.architecture == SINGLE_TASK

    @property
    def sources(self) -> tuple["Run", ...]:
        """The runs of a folder each that its figures come from: itself, but for groupings."""
        return (self,)

    def source_of(self, task: str) -> "Run":
        """The one of :attr:`sources` that a task's figures come from."""
        del task
        return self


@dataclass(frozen=True)
class UnfinishedRun:
    """A run folder without a final result.

    Attributes:
        name: method and seed, as its folders say.
        state: ``running``, ``interrupted``, ``failed``; ``unfinished`` where nothing says which.
        reason: why, in a line; empty where nothing says it.
    """

    folder: Path
    dataset: str
    name: str
    state: str
    reason: str = ""

    @property
    def text(self) -> str:
        """``gradnorm seed=1 (failed: CUDA out of memory)``."""
        return f"{self.name} ({self.state}{': ' if self.reason else ''}{self.reason})"


@dataclass
class FoundRuns:
    """What lies below some folders.

    Attributes:
        finished: in the order of their folders, each folder once.
        unfinished: likewise.
        unreadable: for each damaged ``result.json`` a sentence that names it.
        resolved: all run folders that were looked at.
    """

    finished: list[Run] = field(default_factory=list)
    unfinished: list[UnfinishedRun] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    resolved: set[Path] = field(default_factory=set)


def find_runs(folders: Sequence[Path], *, cached: bool = False) -> FoundRuns:
    """Read every run below ``folders``; a folder that is reached twice counts once.

    Args:
        folders: at or above run folders.
        cached: use what the user's cache knows of runs that have not changed, and add to it.

    Raises:
        UserError: a folder is missing, or there is no run folder below it.
    """
    from mtlrun.analysis.cache import RunCache  # which imports this module's records

    found = FoundRuns()
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
        cache = RunCache.of(folder.resolve()) if cached else None
        for run_folder, resolved in _resolved(folder, below):
            if resolved not in found.resolved:
                found.resolved.add(resolved)
                known = cache and cache.get(run_folder, resolved)
                if known:
                    found.finished.append(known)
                else:
                    run = _read_into(found, run_folder)
                    if cache and run:
                        cache.add(run, resolved)
        if cache:
            cache.write()
    return found


def beside(runs: Iterable[Run], known: Container[Path] = ()) -> list[Run]:
    """The finished runs of the same study and dataset that lie in the folders beside ``runs``.

    Args:
        runs: whose neighbours are looked for.
        known: resolved folders that need not be read.
    """
    datasets = {
        resolved.parent.parent: (run.study, run.dataset)
        for run in runs
        if (resolved := run.folder.resolve()).name.startswith("seed=")
    }
    neighbours = FoundRuns()
    for folder in datasets:
        for run_folder, resolved in _resolved(folder, run_folders(folder)):
            if resolved not in known:
                _read_into(neighbours, run_folder)
    served = set(datasets.values())
    return [run for run in neighbours.finished if (run.study, run.dataset) in served]


def run_folders(folder: Path) -> Iterator[Path]:
    """The run folders at or below ``folder``, in the order of their names."""
    if folder.resolve().name.startswith("seed="):
        yield folder
    else:
        yield from map(Path, _run_folders(str(folder)))


def _run_folders(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.") from error
    if any(entry.name == RESULT and entry.is_file() for entry in entries):
        yield folder
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        if entry.name.startswith("seed="):
            yield entry.path
        else:
            yield from _run_folders(entry.path)


def _resolved(top: Path, folders: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Each of the run folders below ``top``, and where it really is: no link is followed below."""
    base, start = top.resolve(), len(str(top))
    for folder in folders:
        # As text, since taking paths apart is slow for thousands. "." is left out below itself.
        rest = str(folder) if str(top) == "." else str(folder)[start:]
        yield folder, Path(f"{base}/{rest}")


def _read_into(found: FoundRuns, folder: Path) -> Run | None:
    """Read a run folder, put it where it belongs, and give it back where it is finished."""
    try:
        run = read_run(folder)
    except DAMAGED as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        found.unreadable.append(f"{folder / RESULT} cannot be read ({reason}): left out.")
        return None
    if isinstance(run, Run):
        found.finished.append(run)
        return run
    found.unfinished.append(run)
    return None


def read_run(folder: Path) -> Run | UnfinishedRun:
    """Read one run folder.

    Raises:
        one of :data:`DAMAGED`: ``result.json`` is damaged.
    """
    try:
        text = (folder / RESULT).read_text(encoding="utf-8")
    except FileNotFoundError:
        return _unfinished_run(folder, "unfinished")
    result = json.loads(text)
    if not isinstance(result, dict):
        raise TypeError("it holds no JSON object")
    if result["format"] != FORMAT:
        raise ValueError(f"it has format {result['format']}, this mtlrun reads format {FORMAT}")
    if result["state"] != "finished":
        return _unfinished_run(folder, str(result["state"]))
    return _finished_run(folder, result)


def _unfinished_run(folder: Path, state: str) -> UnfinishedRun:
    """What ``status.json`` says of a run, where there is one, else ``state``."""
    path = folder.resolve()
    status = read_status(folder)
    said = status.state if status else state
    lines = str(status.reason).strip().splitlines() if status else []
    return UnfinishedRun(
        folder,
        dataset=path.parent.parent.name,
        name=f"{path.parent.name} {path.name}",
        # A finished run whose result is not there has no result.
        state=state if said == "finished" else str(said),
        reason=lines[0].strip() if lines else "",
    )


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
    tasks = result["tasks"].items()
    rows = {f"train_rows.{task}": facts.get("train_rows") for task, facts in tasks}
    config = read_effective(folder / CONFIG)
    settings = {
        # Early stopping may have ended a run before the epochs that its configuration asks for.
        "epochs": str(result["epochs"]),
        "select_on": str(result["select_on"]),
        **(config or {}),
        "tasks": ", ".join(metrics),
        **{key: str(count) for key, count in rows.items() if count is not None},
    }
    named = {group: str(result[group]) for group in CHOICES if result.get(group) is not None}
    return Run(
        folder=folder,
        study=str(result["study"]),
        dataset=str(result["dataset"]),
        method=str(result["method"]),
        weighting=str(result["weighting"]),
        changed=_texts(result.get("changed"), str(result["method"])),
        architecture=str(result["architecture"]),
        seed=int(result["seed"]),
        select_on=str(result["select_on"]),
        metrics=metrics,
        headlines={task: str(f["headline"]) for task, f in tasks if f.get("headline")},
        seconds=_number(result.get("seconds")),
        machine=f"{result.get('device')} with threads={result.get('threads')}",
        epochs_done=int(result["epochs"]),
        settings=settings,
        choices=choices_of(settings, named) if config is not None else named,
        has_config=config is not None,
        primary=tuple(primary_of(result)) if result.get("primary") else (),
    )


def primary_of(result: Mapping[str, Any]) -> list[str]:
    """The tasks that a run is for: those that it names, else all.

    Args:
        result: what ``result.json`` holds.
    """
    named = result.get("primary") or result["tasks"]
    return [task for task in result["tasks"] if task in named]


def _texts(settings: object, method: str) -> dict[str, str] | None:
    if not isinstance(settings, dict):
        return None
    texts = {key: as_text(value) for key, value in settings.items()}
    if isinstance(teachers := settings.get(TEACHERS), list):
        texts[TEACHERS] = teachers_text([str(name) for name in teachers], method.split(","))
    return texts


def _number(value: object) -> float:
    """A finite number, or NaN where the run wrote none."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value) if math.isfinite(value) else math.nan
