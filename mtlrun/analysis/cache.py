"""What was read of finished runs, kept in the user's cache: thousands of folders in no time.

A run is read again where its ``result.json`` or ``config.yaml`` is another file or has changed
since. The cache is only ever a copy: where it is damaged or cannot be written, the runs themselves
are read.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mtlrun import __version__
from mtlrun.analysis.runs import CONFIG, RESULT, Figures, Run
from mtlrun.analysis.settings import WITHOUT_EFFECT
from mtlrun.durable import replace_file

FORMAT = [3, __version__, *WITHOUT_EFFECT]
"""What a kept run depends on beside its files. Raise the number when runs are read otherwise."""

SHARED = ("changed", "settings", "choices", "headlines")
"""Attributes that many runs have alike: each different value is kept once."""

OWN = ("folder", "metrics", "primary")
"""Attributes that are no plain data."""

PLAIN = tuple(f.name for f in fields(Run) if f.name not in (*SHARED, *OWN))

Stamps = list[int]
"""Of each of a run's two files: time of the last change in ns, number of the file, size.

The time is that of the inode, which no copy can set back, as ``cp -p`` and ``rsync`` do with the
time of the content.
"""


def user_cache() -> Path:
    """The folder of the user's cache for files of ours, whether or not it exists."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mtlrun"


@dataclass
class RunCache:
    """The runs below one folder.

    Attributes:
        root: the folder, resolved.
        path: the cache's file.
        known: what the file holds, by the run's folder below the root.
        shared: what the file's runs have alike.
        found: what it will hold: only runs that are still there.
        stamps: of the runs asked for, before any of them was read.
        new: whether anything changed.
    """

    root: Path
    path: Path
    known: Mapping[str, Any] = field(default_factory=dict)
    shared: list[Any] = field(default_factory=list)
    found: dict[str, tuple[Stamps, Run]] = field(default_factory=dict)
    stamps: dict[str, Stamps] = field(default_factory=dict)
    new: bool = False

    @classmethod
    def of(cls, root: Path) -> "RunCache":
        """Read the cache of the runs below ``root``; empty where there is none, or a bad one."""
        digest = blake2b(str(root).encode(errors="surrogateescape"), digest_size=12).hexdigest()
        path = user_cache() / "runs" / f"{digest}.json"
        try:
            kept = json.loads(path.read_bytes())
            if kept["format"] == FORMAT and kept["root"] == str(root):
                return cls(root, path, dict(kept["runs"]), list(kept["shared"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return cls(root, path)

    def get(self, folder: Path, resolved: Path) -> Run | None:
        """The run of a folder, where its files are as they were."""
        name = str(resolved.relative_to(self.root))
        try:
            stamps = self.stamps[name] = _stamps(resolved)
            then, facts = self.known[name]
            if stamps != then:
                return None
            run = self._restored(folder, facts)
        except (OSError, LookupError, ValueError, TypeError, AttributeError):
            return None
        self.found[name] = stamps, run
        return run

    def add(self, run: Run, resolved: Path) -> None:
        """Keep a run that was read after :meth:`get` did not know it."""
        self.new = True
        name = str(resolved.relative_to(self.root))
        if name in self.stamps:
            self.found[name] = self.stamps[name], run

    def write(self) -> None:
        """Write the file where anything changed, if it can be written."""
        if not self.new and len(self.found) == len(self.known):
            return
        shared: dict[str, int] = {}
        kept = {
            "format": FORMAT,
            "root": str(self.root),
            "runs": {
                name: (stamps, _facts(run, shared)) for name, (stamps, run) in self.found.items()
            },
        }
        # The texts in `shared` are JSON already, in the order of their numbers.
        text = f'{json.dumps(kept)[:-1]}, "shared": [{", ".join(shared)}]}}'
        with suppress(OSError, ValueError):  # ValueError: a name that is no proper text
            replace_file(self.path, text.encode())

    def _restored(self, folder: Path, facts: Mapping[str, Any]) -> Run:
        return Run(
            folder=folder,
            metrics={
                task: {name: Figures(*figures) for name, figures in metrics.items()}
                for task, metrics in facts["metrics"].items()
            },
            **{name: self.shared[facts[name]] for name in SHARED},
            **{name: facts[name] for name in PLAIN},
            primary=tuple(facts["primary"]),
        )


def _facts(run: Run, shared: dict[str, int]) -> dict[str, Any]:
    facts = {name: getattr(run, name) for name in (*PLAIN, "primary")}
    for name in SHARED:
        facts[name] = shared.setdefault(json.dumps(getattr(run, name)), len(shared))
    facts["metrics"] = {
        task: {
            name: [figures.higher_is_better, figures.test, figures.final, figures.best]
            for name, figures in metrics.items()
        }
        for task, metrics in run.metrics.items()
    }
    return facts


def _stamps(folder: Path) -> Stamps:
    """Raises OSError where the result is not there; a missing configuration counts as empty."""
    result = _stamp((folder / RESULT).stat())
    try:
        return [*result, *_stamp((folder / CONFIG).stat())]
    except FileNotFoundError:
        return [*result, 0, 0, 0]


def _stamp(file: os.stat_result) -> Stamps:
    return [file.st_ctime_ns, file.st_ino, file.st_size]
