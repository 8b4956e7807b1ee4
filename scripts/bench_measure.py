"""Taking times side by side, and showing them beside their goals."""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

Clock = Literal["wall", "cpu"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Stopwatch:
    """How steps are timed.

    Attributes:
        clock: ``wall``, or the process's own ``cpu`` time, which a busy machine bends less.
        rounds: in each of which everybody has one turn.
        turn: seconds that a turn takes at least, in whole steps.
    """

    clock: Clock
    rounds: int
    turn: float = 0.04

    def seconds(
        self, contenders: Mapping[str, Callable[[int], object]], steps: int | None = None
    ) -> dict[str, list[float]]:
        """Seconds a step of each contender, one figure a round. The order alternates.

        Args:
            contenders: by their names.
            steps: of a turn; None for as many as fill ``turn``.
        """
        now = CLOCKS[self.clock]
        gc.collect()
        counts = {}
        for name, step in contenders.items():
            step(1)
            began = now()
            step(2)
            counts[name] = steps or max(1, round(self.turn / max(now() - began, 1e-4)))
        number = 0
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(self.rounds):
            names = list(contenders) if round_ % 2 == 0 else list(contenders)[::-1]
            for name in names:
                step, count = contenders[name], counts[name]
                began = now()
                for offset in range(count):
                    step(number + offset)
                found[name].append((now() - began) / count)
            number += max(counts.values())
        return found


def over(times: Sequence[float], base: Sequence[float]) -> list[float]:
    """Ratios round by round."""
    return [a / b for a, b in zip(times, base, strict=True)]


@dataclass
class Row:
    """One line of a table.

    Attributes:
        model: the trunk.
        tasks: how many.
        name: what was measured.
        values: its ratios, one a round.
        goal: the most that the median should be.
        beside: ratios of others, measured along with it.
        earlier: torchjd's best where the goal was set.
        note: what else there is to say.
    """

    model: str
    tasks: int
    name: str
    values: list[float]
    goal: float | None = None
    beside: dict[str, list[float]] = field(default_factory=dict)
    earlier: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The ratio."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the goal is met."""
        if self.goal is None:
            return ""
        return "yes" if self.median <= self.goal else "NO"


@dataclass
class Section:
    """A table.

    Attributes:
        name: of the section.
        title: what the ratios are.
        percent: whether they are shown in percent.
        rows: its lines.
    """

    name: str
    title: str
    percent: bool = False
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Takes a line, and says on standard error that it is there."""
        self.rows.append(row)
        others = "".join(f", {name} {self.shown(v)}" for name, v in row.beside.items())
        text = f"{row.name} {self.shown(row.values)}{others}"
        print(f"[{self.name}] {row.model}, T={row.tasks}: {text}", file=sys.stderr, flush=True)

    def shown(self, values: Sequence[float]) -> str:
        """Median and quartiles."""
        if len(values) == 1:
            return self.number(values[0])
        low, high = np.quantile(values, [0.25, 0.75])
        middle = self.number(statistics.median(values))
        return f"{middle} [{self.number(low)}, {self.number(high)}]"

    def number(self, value: float) -> str:
        """A ratio in text."""
        return f"{value:.2%}" if self.percent else f"{value:.{2 if value < 20 else 1}f}"

    def table(self) -> Table:
        """All lines; columns that would be empty are left out."""
        others = list(dict.fromkeys(name for row in self.rows for name in row.beside))
        columns: dict[str, list[str]] = {
            "model": [row.model for row in self.rows],
            "T": [str(row.tasks) for row in self.rows],
            "": [row.name for row in self.rows],
            "ratio [quartiles]": [self.shown(row.values) for row in self.rows],
            "goal": ["" if row.goal is None else self.number(row.goal) for row in self.rows],
            "met": [row.verdict for row in self.rows],
        }
        for name in others:
            columns[name] = [
                self.shown(row.beside[name]) if name in row.beside else "" for row in self.rows
            ]
        columns["torchjd's best, earlier"] = [
            "" if row.earlier is None else self.number(row.earlier) for row in self.rows
        ]
        columns["note"] = [row.note for row in self.rows]
        kept = {name: cells for name, cells in columns.items() if any(cells)}
        table = Table(title=f"{self.name}: {self.title}")
        for name in kept:
            table.add_column(name, justify="left" if name in {"model", "", "note"} else "right")
        for cells in zip(*kept.values(), strict=True):
            table.add_row(*cells)
        return table

    def record(self) -> dict[str, Any]:
        """What is saved."""
        rows = [{**vars(row), "median": row.median} for row in self.rows]
        return {"name": self.name, "title": self.title, "rows": rows}


def show(section: Section) -> None:
    """Prints a section's table."""
    Console(width=150).print(section.table())


def save(path: Path, sections: Sequence[Section], about: Mapping[str, object]) -> None:
    """Writes all figures, with what they were measured on."""
    content = {"about": dict(about), "sections": [section.record() for section in sections]}
    path.write_text(json.dumps(content, indent=1))
