"""What is seen of a sweep while it runs: jobs waiting, running, finished and failed."""

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mtlrun.sweeping.headline import headline
from mtlrun.sweeping.jobs import Job
from mtlrun.tracking.folder import RESULT
from mtlrun.tracking.status import STATUS, read_status

SECONDS = 1.0
"""Between two looks at the jobs."""

ORDER = ("running", "failed", "interrupted", "finished", "waiting")
"""What is shown first where a terminal has too few lines for all."""

STYLES = {"running": "cyan", "failed": "red", "interrupted": "yellow", "finished": "green"}


@dataclass(frozen=True)
class Line:
    """A job as it is shown."""

    state: str
    epoch: str = ""
    left: str = ""
    text: str = ""


class Watch:
    """Shows a sweep: a live table in a terminal, a line for each finished or failed job elsewhere.

    Looks at the run folders, so it does not matter in which process or on which machine of a
    shared file system a job runs.

    Args:
        jobs: the sweep's.
        progress: ``tracking.progress``.
    """

    def __init__(self, jobs: Sequence[Job], progress: str, console: Console | None = None) -> None:
        self.jobs = list(jobs)
        self.console = console or Console(markup=False)
        self.progress = progress
        self.failures: dict[Path, str] = {}
        self._before = {job.folder for job in jobs if (job.folder / RESULT).is_file()}
        self._old = {job.folder: written_at(job.folder) for job in jobs}
        self._ended: dict[Path, Line] = {}
        self._told: set[Path] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        table = progress == "bar" or (progress == "auto" and self.console.is_terminal)
        self._live = Live(console=self.console, auto_refresh=False) if table else None

    def __enter__(self) -> "Watch":
        if self._before and self.progress != "none":
            count = f"{len(self._before)} of {len(self.jobs)} jobs"
            self.say(f"{count} are finished already: nothing to do for them.")
        self._told |= self._before
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
            self._live.stop()

    def add(self, jobs: Sequence[Job]) -> None:
        """More jobs, of a sweep that finds them as it goes."""
        self._old |= {job.folder: written_at(job.folder) for job in jobs}
        self.jobs.extend(jobs)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def failed(self, job: Job, reason: str) -> None:
        """A job has failed; its folder may not say so."""
        self.failures[job.folder] = reason

    def _look(self) -> None:
        while not self._stop.wait(SECONDS):
            self._show()

    def _show(self) -> None:
        lines = [(job, self.line(job)) for job in self.jobs]
        if self._live:
            self._live.update(self.table(lines, self.console.height), refresh=True)
            return
        if self.progress == "none":
            return
        for job, line in lines:
            if line.state in ("finished", "failed") and job.folder not in self._told:
                self._told.add(job.folder)
                count = f"{len(self._told)}/{len(self.jobs)}"
                self.say(f"{count} {line.state}: {job.name}  {line.text}")

    def line(self, job: Job) -> Line:
        """How a job stands."""
        if job.folder in self.failures:
            return Line("failed", text=self.failures[job.folder])
        if job.folder in self._ended:
            return self._ended[job.folder]
        result = _result(job.folder)
        if result is not None:
            alone = [other.folder for other in self.jobs if other.baseline]
            found = Line("finished", text=headline(result, [_result(folder) for folder in alone]))
            self._ended[job.folder] = found
            return found
        status = read_status(job.folder)
        if status is None or written_at(job.folder) == self._old.get(job.folder):
            return Line("waiting")  # whatever an earlier sweep left there
        epoch = f"{status.epoch}/{status.epochs}" if status.epoch else ""
        if status.state == "finished":  # between its two last files
            return Line("running", epoch)
        return Line(status.state, epoch, _duration(status.seconds_left), status.reason)

    def table(self, lines: Sequence[tuple[Job, Line]], height: int) -> Group:
        """The live table, cut to a terminal's height."""
        shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        shown.add_column("job", overflow="fold")
        shown.add_column("state", no_wrap=True)
        shown.add_column("epoch", justify="right", no_wrap=True)
        shown.add_column("left", justify="right", no_wrap=True)
        shown.add_column("", overflow="ellipsis", no_wrap=True)
        ranked = sorted(lines, key=lambda pair: ORDER.index(pair[1].state))
        room = max(height - 4, 3)
        kept = {job.folder for job, _ in ranked[:room]}
        for job, line in lines:
            if job.folder in kept:
                state = Text(line.state, style=STYLES.get(line.state, "dim"))
                shown.add_row(escape(job.name), state, line.epoch, line.left, escape(line.text))
        counts = Counter(line.state for _, line in lines)
        parts = [f"{counts[state]} {state}" for state in ORDER if counts[state]]
        hidden = len(lines) - len(kept)
        more = f"  (and {hidden} more jobs that are not shown)" if hidden > 0 else ""
        return Group(shown, Text(", ".join(parts) + more, style="dim"))


def _result(folder: Path) -> Mapping[str, Any] | None:
    """A finished run's result; None where it is not there yet."""
    try:
        result: Mapping[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result


def written_at(folder: Path) -> int:
    """When a run last wrote its status; 0 for never."""
    try:
        return (folder / STATUS).stat().st_mtime_ns
    except OSError:
        return 0


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
