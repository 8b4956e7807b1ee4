"""A table with runs and curves for a report, and its page as a tree."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mtlrun.analysis.comparison.table import (
    Cell,
    Column,
    Row,
    Table,
    Transfer,
)
from mtlrun.analysis.runs import Run

VOID = {"meta", "path", "line", "rect", "circle"}
MADE = datetime(2026, 5, 4, 12, 30)
HOSTILE = '</script><img src=x onerror="alert(1)">\u2028&amp;'


class Node:
    """An element of a page."""

    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Node | str] = []

    def all(self, tag: str = "", **attributes: str) -> Iterator["Node"]:
        """Elements below this one, by tag and by words of an attribute (``class_``)."""
        for child in self.children:
            if isinstance(child, Node):
                words = {
                    key: (child.attributes.get(key.rstrip("_").replace("_", "-")) or "").split()
                    for key in attributes
                }
                if tag in ("", child.tag) and all(v in words[k] for k, v in attributes.items()):
                    yield child
                yield from child.all(tag, **attributes)

    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text() for c in self.children)

    def number(self, name: str) -> float:
        return float(self.attributes[name] or "nan")


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(text: str) -> Node:
    return Reader(text).root


def write_curves(folder: Path, values: dict[str, list[float]], every: int = 10) -> None:
    """``losses.csv`` with these loss ratios, and weights of 1."""
    rows = ["step,epoch,task,loss,loss_ratio,weight,grad_norm"]
    for at in range(len(next(iter(values.values())))):
        rows += [f"{every * at + 1},1,{task},1,{of[at]},1," for task, of in values.items()]
    (folder / "losses.csv").write_text("\n".join(rows) + "\n")


COLUMNS = (
    Column("digit", "accuracy", "higher", 4),
    Column("ink", "rmse", "lower", 3),
    Column("delta_m", "over metrics", "higher", 2, signed=True),
    Column("", "seconds", None, 1, spread=False),
)


def make_table(runs: list[Run], **changes: Any) -> Table:
    rows = (
        Row(
            *("default", "single", "single_task", 2, "single"),
            (Cell(0.95, 0.01, best=True), Cell(0.3, 0.01), Cell(0.0, 0.5), Cell(40.0)),
        ),
        Row(
            *("default", "gradnorm", "gradnorm", 2, "single"),
            (Cell(0.91, 0.01), Cell(0.2, 0.02, best=True), Cell(2.5, 0.1, best=True), Cell(10.0)),
            runs=tuple(runs),
            differs={"weighting": "gradnorm"},
            transfer=(Transfer("digit", -4.0, -6.0, -2.0), Transfer("ink", 30.0, -10.0, 70.0)),
        ),
        Row(
            *("default", "mgda", "mgda", 1, "single"),
            (Cell(), Cell(0.4), Cell(-9.0), Cell(20.0)),
            transfer=(Transfer("digit", 1.0),),
        ),
    )
    table = Table(
        dataset="digits",
        columns=COLUMNS,
        rows=rows,
        caption=("Test split.", "delta_m: see there."),
        notes=("Rows differ in epochs.",),
        protocol={"epochs": "30", "dataset.fraction": "0.1"},
        answer=("gradnorm is best.", "mgda is within noise."),
    )
    return replace(table, **changes)
