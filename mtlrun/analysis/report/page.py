"""The page: what is best in words, then a section for each table, then the runs behind them."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.resources import files

from mtlrun import __version__
from mtlrun.analysis.comparison.blocks import ranking_text
from mtlrun.analysis.comparison.render import BEST
from mtlrun.analysis.comparison.table import CriticalDifference, Report, Table
from mtlrun.analysis.report.cost import cost_picture
from mtlrun.analysis.report.figures import LOSES, any_loses, figures_table
from mtlrun.analysis.report.lines import curve_data, points_for
from mtlrun.analysis.report.markup import Markup, element, embedded, joined
from mtlrun.analysis.report.ranks import rank_diagram
from mtlrun.analysis.report.run_list import (
    configurations,
    runs_table,
    unfinished_table,
    versions,
)
from mtlrun.analysis.report.transfer import transfer_table
from mtlrun.analysis.runs import UnfinishedRun

UNBROKEN = "\N{NO-BREAK SPACE}%"


def page(report: Report, unfinished: Sequence[UnfinishedRun], title: str, made: datetime) -> str:
    """The whole file.

    Args:
        report: the comparison.
        unfinished: runs that are in none of its tables.
        title: of the page.
        made: when.
    """
    points = points_for(report.tables)
    style, script = _part("page.css"), _part("page.js")
    # A single-task run may serve several tables, and a network several groupings.
    runs = {
        source.folder: source
        for table in report.tables
        for row in table.rows
        for run in row.runs
        for source in run.sources
    }
    main = element(
        "main",
        _answers(report),
        *(_section(at, table, points) for at, table in enumerate(report.tables)),
        _left_out(report, unfinished),
        element("footer", element("h2", "Made with"), _bullets(versions(runs.values()))),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}",
        ),
        element("title", title),
        element("style", style),
    )
    header = element("header", element("h1", title), element("p", _made(made, len(runs))))
    body = element("body", header, main, element("script", script))
    return "<!DOCTYPE html>\n" + element("html", head, "\n", body, lang="en") + "\n"


def _part(name: str) -> Markup:
    """A file of this package that becomes part of the page."""
    return Markup(files("mtlrun.analysis.report").joinpath(name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    """How a content security policy names an inline part: nothing else on the page can run."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _made(made: datetime, runs: int) -> str:
    when = f"{made.day} {made:%B %Y, %H:%M}"
    counted = f"{runs} finished run{'' if runs == 1 else 's'}"
    return f"Made on {when} by mtlrun {__version__} from {counted}."


# -- the answer ------------------------------------------------------------------------------------


def _answers(report: Report) -> Markup | None:
    parts = [*_sentences(report.answer), _ranks(report.ranking, {})]
    several = len(report.tables) > 1
    for at, table in enumerate(report.tables):
        if several:
            link = element("a", table.title, href=f"#{_anchor(at, table)}")
            parts.append(element("h3", link))
        parts += _sentences(table.answer)
    if not any(parts):
        return None
    return element("section", element("h2", "The answer"), *parts, class_="answer")


def _sentences(answer: Sequence[str]) -> list[Markup]:
    """A paragraph a sentence; the first is the finding."""
    return [
        element("p", sentence.replace(" %", UNBROKEN), class_=None if at else "finding")
        for at, sentence in enumerate(answer)
    ]


def _anchor(at: int, table: Table) -> str:
    return f"table-{at}-{re.sub(r'[^a-zA-Z0-9]+', '-', table.dataset)}"


# -- a table and its pictures ----------------------------------------------------------------------


def _section(at: int, table: Table, points: int) -> Markup:
    return element(
        "section",
        element("h2", table.title),
        _protocol(table),
        _block("Figures", _scrolled(figures_table(table), "figures"), _captions(table)),
        _transfer(table),
        _ranks(table.ranking, {label: row for row, label in enumerate(table.labels)}),
        _block_of("Quality and cost", cost_picture(table), COST),
        _curves(at, table, points),
        _block("Notes", _bullets(table.notes)) if table.notes else None,
        _folded("Runs", runs_table(table), unfolded=_count(table) <= SHORT),
        _folded("Configurations", configurations(table)),
        id=_anchor(at, table),
    )


SHORT = 12
"""Runs that are listed without being asked for."""

COST = (
    "The dashed line joins the methods that no other one beats in both. Vertical bars: standard "
    "deviation over seeds."
)


def _block(name: str, *parts: Markup | None) -> Markup:
    return element("div", element("h3", name), *parts, class_="block")


def _block_of(name: str, content: Markup | None, caption: str | None) -> Markup | None:
    if content is None:
        return None
    said = element("p", caption, class_="caption") if caption else None
    return _block(name, _scrolled(content, name), said)


def _scrolled(content: Markup, name: str) -> Markup:
    """A box of its own that scrolls where the content is wider, by keyboard, too."""
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=name)


def _folded(name: str, content: Markup | None, *, unfolded: bool = False) -> Markup | None:
    if content is None:
        return None
    inside = _scrolled(content, name)
    return element("details", element("summary", name), inside, class_="block fold", open=unfolded)


def _count(table: Table) -> int:
    return sum(len(row.runs) for row in table.rows)


def _protocol(table: Table) -> Markup | None:
    """What all rows share: the main settings at once, the dataset's own behind a click."""
    main = {key: value for key, value in table.protocol.items() if "." not in key}
    rest = {key: value for key, value in table.protocol.items() if key not in main}
    return joined(
        [
            _pairs(main) if main else None,
            _more(f"and {len(rest)} more settings of the data", _pairs(rest)) if rest else None,
        ]
    )


def _pairs(settings: Mapping[str, str]) -> Markup:
    return element(
        "dl",
        *(
            element("div", element("dt", key), element("dd", value))
            for key, value in settings.items()
        ),
        class_="protocol",
    )


def _more(name: str, *content: Markup) -> Markup:
    return element("details", element("summary", name), *content, class_="more")


def _captions(table: Table) -> Markup:
    """What the figures are; how the rest of the table is meant behind a click."""
    first, others = table.caption[:1], table.caption[1:]
    shown = " ".join([*first, BEST, *([LOSES] if any_loses(table) else [])])
    paragraphs = [element("p", text, class_="caption") for text in others]
    more = _more("What the columns mean", *paragraphs) if others else None
    return joined([element("p", shown, class_="caption"), more])


def _bullets(lines: Sequence[str]) -> Markup | None:
    return element("ul", *(element("li", line) for line in lines)) if lines else None


def _transfer(table: Table) -> Markup | None:
    drawn = transfer_table(table)
    return _block_of("Each task against single-task training", *drawn) if drawn else None


def _ranks(ranking: CriticalDifference | None, rows: Mapping[str, int]) -> Markup | None:
    if ranking is None:
        return None
    said = f"{ranking_text(ranking)} A bar joins methods that do not differ."
    return _block_of("Mean ranks", rank_diagram(ranking, rows), said)


def _curves(at: int, table: Table, points: int) -> Markup | None:
    data = curve_data(table, table.labels, points)
    if not data["kinds"]:
        return None
    said = (
        "Mean over seeds; the band reaches from the lowest to the highest of them. A line has "
        f"{points} of the logged points at the most. Click on a name to hide or show its line."
    )
    without = "Curves are drawn by a script, which is switched off here."
    return _block(
        "Curves",
        element("script", embedded(data), type="application/json", id=f"curves-{at}"),
        element("div", class_="chart", data_of=f"curves-{at}"),
        element("noscript", element("p", without)),
        element("p", said, class_="caption"),
    )


# -- the rest --------------------------------------------------------------------------------------


def _left_out(report: Report, unfinished: Sequence[UnfinishedRun]) -> Markup | None:
    parts = list(_left_out_parts(report, unfinished))
    return element("section", element("h2", "Not in the tables"), *parts) if parts else None


def _left_out_parts(report: Report, unfinished: Sequence[UnfinishedRun]) -> Iterator[Markup]:
    if unfinished:
        yield _scrolled(unfinished_table(unfinished), "unfinished runs")
    if report.notes:
        yield joined([_bullets(report.notes)])
