"""The runs behind a comparison: settings, where they lie, with what they were made."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtlrun.analysis.comparison.notes import said_by
from mtlrun.analysis.comparison.table import Row, Table
from mtlrun.analysis.report.marks import method_cell, text_mark
from mtlrun.analysis.report.markup import Markup, element
from mtlrun.analysis.runs import CONFIG, RESULT, Run, UnfinishedRun
from mtlrun.tracking.status import read_status

LOG = "run.log"
TAIL = 20_000
"""Bytes of a log in which its last error is looked for."""


def runs_table(table: Table) -> Markup | None:
    """A row a run; of the settings those in which methods differ. None where rows name no runs."""
    runs = [
        (at, label, row, run)
        for at, (label, row) in enumerate(zip(table.labels, table.rows, strict=True))
        for run in _sources(row)
    ]
    if not runs:
        return None
    keys = list(dict.fromkeys(key for row in table.rows for key in row.differs))
    head = ["method", "seed", "state", "seconds", "epochs", *keys, "folder"]
    body = [
        element(
            "tr",
            method_cell(at, label),
            *map(_cell, (str(run.seed), "finished")),
            _number(run.seconds),
            _cell(str(run.epochs_done)),
            *(_cell(row.differs.get(key, "")) for key in keys),
            _folder(str(run.folder)),
        )
        for at, label, row, run in runs
    ]
    return element(
        "table",
        element("thead", element("tr", *(element("th", name, scope="col") for name in head))),
        element("tbody", *body),
        class_="sortable runs",
    )


def _sources(row: Row) -> list[Run]:
    """The runs whose figures a row has, those of its groupings each folder once."""
    return list({s.folder: s for run in row.runs for s in run.sources}.values())


def _cell(text: str) -> Markup:
    return element("td", text, data_value=text)


def _number(value: float) -> Markup:
    known = math.isfinite(value)
    text = f"{value:.4g}" if abs(value) < 1e4 or not known else f"{value:.0f}"
    return element("td", text if known else "n/a", data_value=repr(value) if known else "")


def _folder(path: str) -> Markup:
    return element("td", element("code", path), class_="path", data_value=path)


def _result(run: Run) -> Mapping[str, Any]:
    """``result.json``, which was there when the run was found."""
    try:
        result = json.loads((run.folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


# -- configurations --------------------------------------------------------------------------------


def configurations(table: Table) -> Markup | None:
    """The whole ``config.yaml`` of each run; once where seeds differ by nothing else."""
    shown = []
    for at, (label, row) in enumerate(zip(table.labels, table.rows, strict=True)):
        for text, runs in _by_config(_sources(row)).items():
            seeds = ", ".join(str(run.seed) for run in runs)
            named = f"{label}, seed{'s' if len(runs) > 1 else ''} {seeds}"
            shown.append(
                element(
                    "details",
                    element("summary", text_mark(at), " ", named),
                    element("pre", text),
                )
            )
    return element("div", *shown, class_="configs") if shown else None


def _by_config(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by what they were set to, beside the seed."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        try:
            text = (run.folder / CONFIG).read_text(encoding="utf-8")
        except (OSError, ValueError):
            text = f"{run.folder / CONFIG} cannot be read."
        lines = [line for line in text.rstrip().split("\n") if not line.startswith("seed:")]
        found.setdefault("\n".join(lines), []).append(run)
    return found


# -- runs that are in no table ---------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How far a run without a result came.

    Attributes:
        state: running, interrupted, failed, or unfinished where nobody knows.
        reason: why, or how far it is; empty where nobody knows.
    """

    state: str
    reason: str


def outcome(run: UnfinishedRun) -> Outcome:
    """What the run's folder says: its status, else the last error of its log."""
    status = read_status(run.folder)
    if status is not None and status.state != "finished":
        told = status.reason or f"epoch {status.epoch} of {status.epochs}"
        return Outcome(status.state, told)
    error = _last_error(run)
    if error:
        return Outcome("failed" if run.state == "unfinished" else run.state, error)
    return Outcome(run.state, "Its log has no error: it is running, or was stopped from outside.")


def _last_error(run: UnfinishedRun) -> str:
    """The error that a log ends with; empty where the run went on after it."""
    try:
        with (run.folder / LOG).open("rb") as file:
            file.seek(max(file.seek(0, 2) - TAIL, 0))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for at in range(len(lines) - 1, -1, -1):
        _, found, message = lines[at].partition(" ERROR ")
        if found:
            # A traceback follows, and ends with the error itself.
            return lines[-1] if message == "the run failed" and at < len(lines) - 1 else message
        if " INFO " in lines[at] or " WARNING " in lines[at]:
            return ""
    return ""


def unfinished_table(runs: Sequence[UnfinishedRun]) -> Markup:
    """A row a run, with its state and why."""
    body = []
    for run in runs:
        found = outcome(run)
        body.append(
            element(
                "tr",
                element(
                    "th",
                    element("span", f"{run.dataset}: {run.name}", class_="method"),
                    scope="row",
                ),
                _cell(found.state),
                element("td", found.reason, class_="reason"),
                _folder(str(run.folder)),
            )
        )
    heads = ("run", "state", "reason", "folder")
    return element(
        "table",
        element("thead", element("tr", *(element("th", name, scope="col") for name in heads))),
        element("tbody", *body),
        class_="sortable runs",
    )


# -- versions --------------------------------------------------------------------------------------


def versions(runs: Iterable[Run]) -> list[str]:
    """With what the runs were made: a sentence for each set of versions, machine and commit."""
    made = said_by((_made_with(run), str(run.folder)) for run in runs)
    return [
        f"{len(folders)} run{'s' if len(folders) > 1 else ''}: {what}."
        for what, folders in sorted(made.items(), key=lambda item: -len(item[1]))
    ]


def _made_with(run: Run) -> str:
    result = _result(run)
    packages = result.get("versions")
    known = {"mtlrun": result.get("mtlrun"), "python": result.get("python")}
    known |= packages if isinstance(packages, dict) else {}
    parts = [f"{name} {version}" for name, version in known.items() if version]
    commit = result.get("git_commit")
    return ", ".join([*parts, run.machine, f"git commit {commit}" if commit else "no git commit"])
