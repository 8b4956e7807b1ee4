"""The page without a browser: what its HTML, pictures and data say."""

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from report_pages import COLUMNS, HOSTILE, MADE, make_table, read, write_curves

from mtlrun.analysis.comparison.table import (
    CriticalDifference,
    Report,
    Transfer,
)
from mtlrun.analysis.report import lines
from mtlrun.analysis.report.command import report_command
from mtlrun.analysis.report.cost import cost_picture
from mtlrun.analysis.report.lines import curve_data, points_for
from mtlrun.analysis.report.markup import Markup, element, embedded, shortened
from mtlrun.analysis.report.page import page
from mtlrun.analysis.report.ranks import rank_diagram
from mtlrun.analysis.report.run_list import outcome
from mtlrun.analysis.report.transfer import WIDTH, picture_limit, transfer_table
from mtlrun.analysis.runs import Run, UnfinishedRun, read_run
from mtlrun.errors import UserError

if TYPE_CHECKING:
    from conftest import WriteRun


@pytest.fixture
def runs(write_run: "WriteRun") -> list[Run]:
    """Seeds 0 and 1 of a method; its loss ratios are 1, 0.5, 0.25 and 1, 0.7, 0.45."""
    found = []
    for seed, ratios in enumerate(([1, 0.5, 0.25], [1, 0.7, 0.45])):
        folder = write_run(
            "gradnorm",
            {"digit": {"accuracy": 0.9 + 0.02 * seed}, "ink": {"rmse": 0.2}},
            seed=seed,
            versions={"torch": "2.9", "numpy": "2.2"},
            git_commit="0123abcd",
        )
        write_curves(folder, {"digit": ratios, "ink": ratios})
        run = read_run(folder)
        assert isinstance(run, Run)
        found.append(run)
    return found


def test_the_page_answers_first_and_then_shows_each_figure(runs: list[Run]) -> None:
    html = read(page(Report((make_table(runs),), ("One file is damaged.",)), [], "Which?", MADE))
    assert next(html.all("h1")).text() == "Which?"
    sections = list(html.all("section"))
    assert [next(section.all("h2")).text() for section in sections] == [
        *("The answer", "digits", "Not in the tables"),
    ]
    assert [p.text() for p in sections[0].all("p")] == [
        "gradnorm is best.",
        "mgda is within noise.",
    ]
    assert "4 May 2026, 12:30" in next(html.all("header")).text()
    made_with = "2 runs: mtlrun 0.1.0, torch 2.9, numpy 2.2, cpu with threads=1, git commit 0123"
    assert made_with in next(html.all("footer")).text()
    (figures,) = html.all("table", class_="figures")
    groups, heads = next(figures.all("thead")).all("tr")
    assert [h.text() for h in groups.all("th")] == ["digit", "ink", "delta_m [%]", ""]
    names = ["method", "seeds", "accuracy ↑", "rmse ↓", "over metrics ↑", "seconds"]
    assert [h.text() for h in heads.all("th")] == names
    directions = [h.attributes.get("data-better") for h in heads.all("th")]
    assert directions == [None, None, "higher", "lower", "higher", ""]
    rows = [[c.text() for c in row.children] for row in next(figures.all("tbody")).all("tr")]
    assert rows == [
        ["single_task", "2", "0.9500 ± 0.0100", "0.300 ± 0.010", "0.00 ± 0.50", "40.0"],
        ["gradnorm", "2", "0.9100 ± 0.0100 ▼ loses", "0.200 ± 0.020", "+2.50 ± 0.10", "10.0"],
        ["mgda", "1", "n/a", "0.400", "-9.00", "20.0"],
    ]
    body = next(figures.all("tbody"))
    assert [strong.text() for strong in body.all("strong")] == ["0.9500", "0.200", "+2.50"]
    keys = [[c.attributes.get("data-value") for c in row.all("td")] for row in body.all("tr")]
    assert keys[2] == ["1", "", "0.4", "-9.0", "20.0"]  # what is missing has no key: sorted last


def test_runs_are_listed_with_what_they_differ_in(runs: list[Run]) -> None:
    html = read(page(Report((make_table(runs),)), [], "Which?", MADE))
    (listed,) = html.all("table", class_="runs")
    cells = [[c.text() for c in row.children] for row in next(listed.all("tbody")).all("tr")]
    folder = str(runs[0].folder)
    assert cells[0] == ["gradnorm", "0", "finished", "10", "30", "gradnorm", folder]
    assert len(cells) == 2
    (config,) = html.all("pre")  # seeds that differ by nothing else share it
    assert "fraction: 0.1" in config.text()


def test_text_from_outside_stays_text(runs: list[Run]) -> None:
    table = make_table(
        runs,
        dataset=HOSTILE,
        notes=(HOSTILE,),
        answer=(HOSTILE,),
        protocol={HOSTILE: HOSTILE},
        rows=tuple(
            replace(row, label=f"{at}{HOSTILE}", study=HOSTILE)
            for at, row in enumerate(make_table(runs).rows)
        ),
    )
    (runs[0].folder / "config.yaml").write_text(f"a: </pre>{HOSTILE}\x00\n")
    ranking = CriticalDifference(
        tuple(row.label for row in table.rows), (1.0, 2.0, 3.0), 4, HOSTILE, 0.1, 1.5, ((0, 1),)
    )
    unfinished = UnfinishedRun(runs[0].folder / HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    text = page(Report((replace(table, ranking=ranking),), (HOSTILE,)), [unfinished], HOSTILE, MADE)
    html = read(text)
    assert not list(html.all("img"))
    assert "\u2028" not in "".join(s.text() for s in html.all("script"))
    scripts = list(html.all("script"))
    assert [s.attributes.get("type") for s in scripts] == ["application/json", None]
    data = json.loads(scripts[0].text())
    assert data["methods"][1] == f"1{HOSTILE}"
    assert any(f"a: </pre>{HOSTILE}\ufffd" == pre.text() for pre in html.all("pre"))
    for node in html.all():
        assert not any(name.startswith("on") for name in node.attributes), node.tag


def test_the_page_stands_alone(runs: list[Run]) -> None:
    text = page(Report((make_table(runs),)), [], "Which?", MADE)
    html = read(text)
    for node in html.all():
        assert not {"src", "action", "data"} & set(node.attributes), node.tag
        assert node.tag != "link"
        assert (node.attributes.get("href") or "#").startswith("#")
    style, script = next(html.all("style")).text(), list(html.all("script"))[-1].text()
    assert not re.search(r"url\(|@import|https?:", style)
    assert not re.search(r"fetch\(|XMLHttp|import\(|innerHTML|eval\(", script)
    # Nothing may run, or be fetched, but the parts whose digests the policy names.
    digests = [
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for part in (style, script)
    ]
    (policy,) = [n for n in html.all("meta") if "http-equiv" in n.attributes]
    assert policy.attributes["content"] == (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
    )


# -- curves ----------------------------------------------------------------------------------------


def test_a_line_is_the_mean_over_seeds_within_their_range(runs: list[Run]) -> None:
    data = curve_data(make_table(runs), ["a", "b", "c"], 300)
    assert data["methods"] == ["a", "b", "c"]
    ratio, weight = data["kinds"]
    assert (ratio["name"], ratio["log"]) == ("loss ratio", True)
    assert [item["name"] for item in ratio["items"]] == ["digit", "ink"]
    ((method, steps, *values),) = ratio["items"][0]["lines"]
    assert method == 1
    assert data["steps"][steps] == [1, 11, 21]
    assert values == [[1, 0.6, 0.35], [1, 0.5, 0.25], [1, 0.7, 0.45]]
    ((method, steps, *values),) = weight["items"][0]["lines"]  # never moves, no range
    assert (data["steps"][steps], values) == ([1, 21], [[1, 1]])


def test_long_curves_are_thinned_with_their_ends_kept(runs: list[Run]) -> None:
    ratios = np.linspace(1, 0.1, 5000).tolist()
    write_curves(runs[0].folder, {"digit": ratios, "ink": ratios})
    data = curve_data(make_table(runs[:1]), ["a", "b", "c"], lines.MOST_POINTS)
    ((_, steps, mean),) = data["kinds"][0]["items"][0]["lines"]
    assert len(mean) == len(data["steps"][steps]) == 300
    assert (mean[0], mean[-1]) == (1, 0.1)
    assert data["steps"][steps][-1] == 49_991


def test_metrics_are_those_of_the_split_that_selects(runs: list[Run]) -> None:
    (runs[0].folder / "metrics.csv").write_text(
        "epoch,step,split,task,metric,value\n"
        "1,9,train,digit,loss,9\n1,9,val,digit,loss,0.5\n1,9,val,digit,accuracy,0.25\n"
        "1,9,test,digit,accuracy,0.75\n"
    )

    def drawn(run: Run) -> dict[str, float]:
        data = curve_data(make_table([run]), ["a", "b", "c"], 300)
        (kind,) = (kind for kind in data["kinds"] if "metric" in kind["name"])
        return {item["name"]: item["lines"][0][2] for item in kind["items"]}

    assert drawn(runs[0]) == {"digit accuracy": [0.25], "digit loss": [0.5]}
    assert drawn(replace(runs[0], select_on="test")) == {"digit accuracy": [0.75]}


@pytest.mark.parametrize(("tasks", "expected"), [(3, 3), (7, 1)])
def test_of_many_pairs_the_mean_cosine_is_drawn(runs: list[Run], tasks: int, expected: int) -> None:
    pairs = [(a, b) for a in range(tasks) for b in range(a)]
    rows = [f"{step},t-{a},t-{b},{0.5 if a else -1}" for step in (1, 2) for a, b in pairs]
    head = "step,task_a,task_b,cosine\n"
    (runs[0].folder / "conflicts.csv").write_text(head + "\n".join(rows) + "\n")
    data = curve_data(make_table(runs[:1]), ["a", "b", "c"], 300)
    items = data["kinds"][-1]["items"]
    assert len(items) == expected
    assert items[0]["lines"][0][2] == [0.5, 0.5]
    assert items[0]["name"] == ("t-1 and t-0" if expected == 3 else "mean of 21 pairs")


def test_many_runs_share_the_room(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table(runs)
    # Two tasks: 2 ratios, 2 weights, 2 metrics and 2 losses, 1 cosine, each with mean and range.
    assert points_for([table]) == 300
    monkeypatch.setattr(lines, "BUDGET", 27 * 100)
    assert points_for([table]) == 100
    assert points_for([table, table]) == 50
    assert points_for([table] * 1000) == 20


# -- pictures --------------------------------------------------------------------------------------


def test_transfer_is_drawn_to_the_scale_in_the_heading(runs: list[Run]) -> None:
    drawn = transfer_table(make_table(runs))
    assert drawn is not None
    html = read(drawn[0])
    assert [h.text() for h in html.all("th", scope="col")] == ["method", "digit±7 %", "ink±70 %"]
    loses, gains_not, unknown, missing = html.all("td")
    assert loses.attributes["class"] == "loses"
    assert loses.text() == "-4.0 ▼ loses [-6.0, -2.0]"  # a sign and a word, not a colour alone
    assert gains_not.attributes["class"] == "unclear"
    assert gains_not.text() == "+30.0[-10.0, +70.0]"
    assert (unknown.text(), missing.text()) == ("+1.0", "n/a")
    (dot,) = loses.all("circle")
    half = WIDTH / 2
    assert dot.number("cx") == pytest.approx(half + (half - 8) * -4 / 7, abs=0.01)
    (bar,) = loses.all("line", class_="interval")
    ends = [half + (half - 8) * end / 7 for end in (-6, -2)]
    assert [bar.number("x1"), bar.number("x2")] == pytest.approx(ends, abs=0.01)
    assert not list(unknown.all("line", class_="interval"))  # one seed has no interval


def test_one_bad_interval_does_not_flatten_the_others() -> None:
    transfers = [Transfer("a", change, change - 1, change + 1) for change in (1.0, 2.0, 3.0)]
    assert picture_limit(transfers) == 5  # 4, rounded up
    assert picture_limit([*transfers, Transfer("a", 2.0, -500.0, 500.0)]) == 10  # three times 3
    astray = make_table([], rows=(replace(make_table([]).rows[1], transfer=tuple(transfers)),))
    far = replace(astray.rows[0], transfer=(Transfer("a", -400.0, -900.0, 100.0),))
    drawn = transfer_table(replace(astray, rows=(*astray.rows, *[astray.rows[0]] * 3, far)))
    assert drawn is not None
    assert len(list(read(drawn[0]).all("path", class_="arrow"))) == 3


def test_ranks_lie_on_their_axis_and_bars_join_the_cliques() -> None:
    ranking = CriticalDifference(
        ("a", "b", "c", "d"), (1.25, 1.75, 3.0, 4.0), 8, "a task", 0.01, 1.5, ((0, 1), (2, 3))
    )
    html = read(rank_diagram(ranking, {"a": 3, "b": 2, "c": 1, "d": 0}))
    (axis,) = (n for n in html.all("line", class_="axis") if n.number("x1") != n.number("x2"))
    left, right = axis.number("x1"), axis.number("x2")

    def place(rank: float) -> float:
        return left + (rank - 1) / 3 * (right - left)

    leaders = [n.attributes["d"] or "" for n in html.all("path", class_="leader")]
    starts = [float(re.match(r"M([\d.]+)", path)[1]) for path in leaders]  # type: ignore[index]
    assert starts == pytest.approx([place(rank) for rank in ranking.ranks], abs=0.1)
    bars = [(n.number("x1"), n.number("x2")) for n in html.all("line", class_="clique")]
    assert bars[0] == pytest.approx((place(1.25) - 5, place(1.75) + 5), abs=0.1)
    assert bars[1] == pytest.approx((place(3) - 5, place(4) + 5), abs=0.1)
    distance = next(iter(html.all("line", class_="distance")))
    length = distance.number("x2") - distance.number("x1")
    assert length == pytest.approx(1.5 * (right - left) / 3, abs=0.1)
    colours = [n.attributes["class"].split()[1] for n in html.all("path", class_="leader")]  # type: ignore[union-attr]
    assert colours == ["c3", "c2", "c1", "c0"]  # as in the other pictures


def test_the_front_joins_what_nothing_beats_in_both(runs: list[Run]) -> None:
    drawn = cost_picture(make_table(runs))
    assert drawn is not None
    html = read(drawn)
    tips = [n.attributes["data-tip"] for n in html.all("g")]
    assert tips[1] == "gradnorm\ndelta_m +2.50 % ± 0.10\n10.0 seconds"
    assert len(tips) == 3
    (front,) = html.all("path", class_="front")
    assert (front.attributes["d"] or "").count("V") == 0  # gradnorm is cheapest and best: alone
    label = next(html.all("svg")).attributes["aria-label"] or ""
    assert label.endswith("better and cheaper than: gradnorm.")
    heights = [n.number("cy") for n in html.all("circle", class_="target")]
    assert heights[1] < heights[0] < heights[2]  # the better, the higher
    nameless = make_table(runs, columns=(*COLUMNS[:2], COLUMNS[3]))
    assert cost_picture(nameless) is None


# -- runs that are not there -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "state", "reason"),
    [
        ("12:00 INFO epoch 1\n12:01 ERROR The loss is NaN.\n", "failed", "The loss is NaN."),
        (
            "12:01 ERROR the run failed\nTraceback (most recent call last):\nValueError: a < b\n",
            *("failed", "ValueError: a < b"),
        ),
        ("12:01 ERROR The loss is NaN.\n12:09 INFO epoch 2\n", "unfinished", "no error"),
        (None, "unfinished", "no error"),
    ],
)
def test_why_a_run_has_no_result(tmp_path: Path, log: str | None, state: str, reason: str) -> None:
    if log is not None:
        (tmp_path / "run.log").write_text(log)
    found = outcome(UnfinishedRun(tmp_path, "digits", "mgda seed=0", "unfinished"))
    assert found.state == state
    assert reason in found.reason


def test_the_status_of_a_run_says_more_than_its_log(tmp_path: Path) -> None:
    status = {"state": "failed", "epoch": 3, "epochs": 9, "reason": "No space is left."}
    (tmp_path / "status.json").write_text(json.dumps(status))
    found = outcome(UnfinishedRun(tmp_path, "digits", "mgda seed=0", "failed"))
    assert (found.state, found.reason) == ("failed", "No space is left.")


# -- the verb --------------------------------------------------------------------------------------


def test_report_writes_one_file(
    write_run: "WriteRun", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, accuracy in enumerate((0.8, 0.9, 0.85)):
        write_run("equal,architecture=single_task", {"digit": {"accuracy": 0.8}}, seed=seed)
        write_run("equal", {"digit": {"accuracy": accuracy}}, seed=seed)
    (tmp_path / "outputs/default/digits/mgda/seed=0").mkdir(parents=True)
    target = tmp_path / "new" / "digits.html"
    given = [str(tmp_path / "outputs"), "--no-cache", "--title", "Digits & <co>"]
    assert report_command([*given, "-o", str(target)]) == 0
    assert str(target) in capsys.readouterr().out.replace("\n", "")
    html = read(target.read_text())
    assert next(html.all("title")).text() == "Digits & <co>"
    (figures,) = html.all("table", class_="figures")
    methods = [row.children[0].text() for row in next(figures.all("tbody")).all("tr")]  # type: ignore[union-attr]
    assert methods == ["equal,architecture=single_task", "equal"]
    assert "mgda seed=0" in list(html.all("section"))[-1].text()
    assert report_command([*given, "-o", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["outputs", "-o", "page.pdf"], "ends in .html"),
        (["nowhere"], "nowhere is not there"),
        (["outputs"], "no finished run"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs/default/digits/mgda/seed=0").mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        report_command([*arguments, "--no-cache"])
    assert not Path("report.html").exists()


# -- markup ----------------------------------------------------------------------------------------


def test_markup() -> None:
    assert element("p", "a < b", None, Markup("<i>c</i>")) == "<p>a &lt; b<i>c</i></p>"
    made = element("a", class_="x", data_value='"', hidden=True, title=None, open=False, x=1 / 3)
    assert made == '<a class="x" data-value="&quot;" hidden x="0.333333"></a>'
    assert element("p", "a\x00\ud800") == "<p>a\ufffd\ufffd</p>"
    assert embedded({"a": "</script>\u2028&"}) == r'{"a":"\u003c/script\u003e\u2028\u0026"}'
    with pytest.raises(ValueError, match="JSON"):
        embedded([math.nan])
    assert shortened("abcdefghij", 7) == "abcd…ij"
    assert shortened("abcdefg", 7) == "abcdefg"
