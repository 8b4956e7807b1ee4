"""What is seen of a sweep while it runs: jobs waiting, running, finished and failed."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mtlrun.sweeping.headline import against, headline
from mtlrun.sweeping.jobs import Job
from mtlrun.tracking.folder import RESULT
from mtlrun.tracking.status import read_status, written_at

SECONDS = 1.0
"""Between two looks at the jobs."""

ORDER = ("running", "failed", "interrupted", "finished", "waiting")
"""What is shown first where a terminal has too few lines for all."""

STYLES = {"running": "cyan", "failed": "red", "interrupted": "yellow", "finished": "green"}

WIDEST = 24
"""Characters of a setting's values in the table."""

LEAST_ROWS = 3
"""Jobs that are shown in a terminal of any height."""


@dataclass(frozen=True)
class Line:
    """A job as it is shown."""

    state: str
    epoch: str = ""
    left: str = ""
    delta_m: str = ""
    text: str = ""


class Watch:
    """Shows a sweep: a live table in a terminal, a line for each finished or failed job elsewhere.

    Looks at the run folders, so it does not matter in which process or on which machine of a
    shared file system a job runs.

    Args:
        jobs: the sweep's.
        progress: ``tracking.progress``.
        console: where it is shown.
        told: what is said of a finished job; None for delta_m and headline metrics on the test
            split.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        progress: str,
        console: Console | None = None,
        told: Callable[[Job], str] | None = None,
    ) -> None:
        self.jobs: list[Job] = []
        self.told = told
        self.console = console or Console(markup=False)
        self.progress = progress
        self.failures: dict[Path, str] = {}
        self._old: dict[Path, tuple[int, int]] = {}
        self._ended: dict[Path, Line] = {}
        self._told: set[Path] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        table = progress == "bar" or (progress == "auto" and self.console.is_terminal)
        self._live = Live(console=self.console, auto_refresh=False) if table else None
        self.add(jobs)

    def __enter__(self) -> "Watch":
        if self._told:
            count = f"{len(self._told)} of {len(self.jobs)} jobs"
            self.say(f"{count} are finished already: nothing to do for them.")
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        if self._live:
            if error is None:  # the last picture is of all jobs, and may be longer than a screen
                lines = [(job, self.line(job)) for job in self.jobs]
                self._live.update(self.table(lines, len(lines)))
            self._live.stop()

    def add(self, jobs: Sequence[Job]) -> None:
        """More jobs, of a sweep that finds them as it goes; those that are there already stay."""
        known = {job.folder for job in self.jobs}
        new = [job for job in jobs if job.folder not in known]
        self._old |= {job.folder: written_at(job.folder) for job in new}
        self._told |= {job.folder for job in new if job.finished}
        self.jobs = [*self.jobs, *new]  # in one go: the thread looks at it

    def say(self, text: str) -> None:
        """A line that stays, where anything is to be shown."""
        if self.progress != "none":
            self.console.print(text, highlight=False, soft_wrap=True)

    def failed(self, job: Job, reason: str) -> None:
        """A job has failed; its folder may not say so."""
        self.failures[job.folder] = reason

    def _look(self) -> None:
        while not self._stop.wait(SECONDS):
            self._show()

    def _show(self) -> None:
        if self.progress == "none":
            return
        lines = [(job, self.line(job)) for job in self.jobs]
        if self._live:
            height = self.console.height - 3  # the head, the sum, and the line of the cursor
            self._live.update(self.table(lines, max(height, LEAST_ROWS)), refresh=True)
            return
        for job, line in lines:
            if line.state in ("finished", "failed") and job.folder not in self._told:
                self._told.add(job.folder)
                count = f"{len(self._told)}/{len(self.jobs)}"
                change = f"delta_m {line.delta_m}, " if line.delta_m else ""
                self.say(f"{count} {line.state}: {job.name}  {change}{line.text}".rstrip())

    def line(self, job: Job) -> Line:
        """How a job stands."""
        if job.folder in self.failures:
            return Line("failed", text=self.failures[job.folder])
        if job.folder in self._ended:
            return self._ended[job.folder]
        if job.finished:
            return self._finished(job)
        status = read_status(job.folder)
        if status is None or written_at(job.folder) == self._old.get(job.folder):
            return Line("waiting")  # whatever an earlier sweep left there
        epoch = f"{status.epoch}/{status.epochs}" if status.epoch else ""
        if status.state == "finished":  # between its two last files
            return Line("running", epoch)
        return Line(status.state, epoch, _duration(status.seconds_left), text=status.reason)

    def _finished(self, job: Job) -> Line:
        if self.told:
            return self._ended.setdefault(job.folder, Line("finished", text=self.told(job)))
        if job.result != RESULT:  # an experiment's, which has no tasks
            return Line("finished")
        result, alone = _result(job.folder), _result(job.alone) if job.alone else None
        try:
            change = against(result or {}, alone) if alone else None
            shown = "" if change is None else f"{change:+.2f} %"
            line = Line("finished", delta_m=shown, text=headline(result or {}))
        except (KeyError, TypeError, AttributeError):  # another version's
            line = Line("finished")
        # Until the baseline has ended there may be more to say.
        if alone or not job.alone or job.alone in self.failures:
            self._ended[job.folder] = line
        return line

    def table(self, lines: Sequence[tuple[Job, Line]], rows: int) -> Group:
        """The live table, with the ``rows`` jobs that matter most."""
        ranked = sorted(lines, key=lambda pair: ORDER.index(pair[1].state))
        kept = {job.folder for job, _ in ranked[:rows]}
        keys = list(dict.fromkeys(key for job, _ in lines for key, _ in job.telling))
        shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for key in keys or ["job"]:
            shown.add_column(key, overflow="ellipsis", no_wrap=True, max_width=WIDEST)
        shown.add_column("state", no_wrap=True)
        shown.add_column("epoch", justify="right", no_wrap=True)
        shown.add_column("left", justify="right", no_wrap=True)
        compared = any(job.alone for job, _ in lines)
        if compared:
            shown.add_column("delta_m", justify="right", no_wrap=True)
        shown.add_column("")  # gets what the others leave
        for job, line in lines:
            if job.folder in kept:
                values = dict(job.telling)
                names = [Text(values.get(key, "")) for key in keys] or [Text(job.name)]
                state = Text(line.state, style=STYLES.get(line.state, "dim"))
                told = Text(line.text, no_wrap=True, overflow="ellipsis")
                change = [line.delta_m] if compared else []
                shown.add_row(*names, state, line.epoch, line.left, *change, told)
        counts = Counter(line.state for _, line in lines)
        parts = [f"{counts[state]} {state}" for state in ORDER if counts[state]]
        hidden = len(lines) - len(kept)
        more = f" ({hidden} not shown)" if hidden > 0 else ""
        return Group(shown, Text(", ".join(parts) + more, style="dim"))


def _result(folder: Path) -> Mapping[str, Any] | None:
    """A finished run's result; None where it is not there yet."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
