import csv
import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from rich.console import Console

from mtlrun.analysis.comparison.console import print_report
from mtlrun.analysis.comparison.render import latex, to_csv, to_latex, to_markdown
from mtlrun.analysis.comparison.table import (
    Cell,
    Column,
    Report,
    Row,
    Table,
    Transfer,
    format_number,
    suited_decimals,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCURACY = Column("digit", "accuracy", "higher", 4)
ERROR = Column("ink_mean", "mse", "lower", 3)
DELTA = Column("delta_m", "over metrics", "higher", 2, signed=True)
SECONDS = Column("", "seconds", None, 1, spread=False)

FIRST = Table(
    dataset="digits",
    columns=(ACCURACY, ERROR, DELTA, SECONDS),
    rows=(
        Row(
            "default",
            "single_task",
            "single_task",
            2,
            "single_task",
            (Cell(0.95, 0.01), Cell(0.2, 0.01, best=True), Cell(-1e-16, 0.5), Cell(30.0, 1.0)),
        ),
        Row(
            "default",
            "a|b[c]_100%",
            "a|b[c]_100%",
            1,
            "single_task",
            (Cell(0.96, best=True), Cell(), Cell(-1.234, best=True), Cell(10.0)),
        ),
    ),
    caption=("Test split; mean ± deviation.", "In % of the baseline."),
    notes=("1 run is not in the table: dwa_2 seed=0 (unfinished).",),
)
SECOND = Table(
    dataset="nyuv2",
    columns=(Column("depth", "rmse", "lower", 3), DELTA, SECONDS),
    rows=(
        Row("a", "equal", "equal", 1, "", (Cell(0.5), Cell(), Cell(5.0))),
        Row("b", "equal", "equal", 1, "", (Cell(0.6), Cell(), Cell(5.0))),
    ),
    caption=("Test split.",),
    notes=(),
)
REPORT = Report((FIRST, SECOND), ("x/result.json cannot be read.",))


def printed(report: Report, **options: Any) -> str:
    text = io.StringIO()
    print_report(report, Console(file=text, **options))
    return text.getvalue()


def test_csv_parses_back_in_full() -> None:
    frame = pd.read_csv(io.StringIO(to_csv(REPORT)))
    assert list(frame.columns) == [
        *("dataset", "study", "method", "seeds", "baseline"),
        *("digit/accuracy", "digit/accuracy/sd", "ink_mean/mse", "ink_mean/mse/sd"),
        *("depth/rmse", "depth/rmse/sd"),
        *("delta_m/over_metrics", "delta_m/over_metrics/sd", "seconds"),
    ]
    assert list(frame["method"]) == ["single_task", "a|b[c]_100%", "equal", "equal"]
    assert list(frame["study"]) == ["default", "default", "a", "b"]
    assert list(frame["digit/accuracy"][:2]) == [0.95, 0.96]
    assert frame["delta_m/over_metrics"][1] == -1.234
    assert frame["digit/accuracy"].isna().tolist() == [False, False, True, True]
    assert frame["ink_mean/mse"].isna().tolist() == [False, True, True, True]
    assert frame["depth/rmse"][3] == 0.6


def test_csv_rows_have_one_length() -> None:
    lengths = {len(row) for row in csv.reader(io.StringIO(to_csv(REPORT)))}
    assert len(lengths) == 1


def test_markdown_is_a_pipe_table_with_the_best_in_bold() -> None:
    text = to_markdown(REPORT)
    lines = text.splitlines()
    assert lines[0] == "## digits"
    assert lines[2] == (
        "| method | seeds | digit accuracy ↑ | ink_mean mse ↓ | delta_m [%] over metrics ↑ "
        "| seconds |"
    )
    assert lines[3] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[4] == (
        "| single_task | 2 | 0.9500 ± 0.0100 | **0.200** ± 0.010 | 0.00 ± 0.50 | 30.0 |"
    )
    assert lines[5] == "| a\\|b[c]_100% | 1 | **0.9600** | n/a | **-1.23** | 10.0 |"
    assert "- 1 run is not in the table: dwa_2 seed=0 (unfinished)." in lines
    assert "| a | equal | 1 | 0.500 | n/a | 5.0 |" in lines
    assert lines[-1] == "- x/result.json cannot be read."


def test_latex_is_a_booktabs_table() -> None:
    text = to_latex(REPORT)
    assert text.startswith("% \\usepackage{booktabs}\n")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 2
    assert (
        r"a\textbar{}b[c]\_100\% & 1 & \textbf{0.9600} & n/a & \textbf{$-$1.23} & 10.0 \\" in text
    )
    assert r"single\_task & 2 & 0.9500 $\pm$ 0.0100 & \textbf{0.200} $\pm$ 0.010" in text
    assert r"\multicolumn{1}{c}{ink\_mean}" in text
    assert r"\multicolumn{1}{c}{delta\_m [\%]}" in text
    assert r"accuracy $\uparrow$ & mse $\downarrow$" in text
    assert r"In \% of the baseline." in text
    assert r"dwa\_2 seed=0" in text
    assert r"\label{tab:digits}" in text


def test_latex_rows_have_a_cell_for_each_column() -> None:
    for body in re.findall(
        r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", to_latex(REPORT), re.S
    ):
        alignment, lines = body
        for line in lines.splitlines():
            if line.endswith(r"\\"):
                spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
                assert line.count("&") - line.count(r"\&") + 1 + spans == len(alignment)


def test_latex_escapes_what_is_special() -> None:
    assert latex("a_b&c%d$e#f{g}~^\\") == (
        r"a\_b\&c\%d\$e\#f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


def test_names_cannot_break_out_of_markdown_and_latex() -> None:
    name = "a|b\n<img>*c*"
    row = Row("default", name, name, 1, "", (Cell(0.5),))
    table = Table("digits", (Column(name, "m|e", "lower", 1),), (row,), (), (f"{name}: new.",))
    report = Report(
        (replace(table, answer=(f"{name} is best.",)),), notes=(f"{name} is left out.",)
    )
    lines = to_markdown(report).splitlines()
    escaped = r"a|b \<img>\*c\*"
    assert f"{escaped} is best." in lines
    assert f"- {escaped}: new." in lines
    in_a_cell = escaped.replace("|", r"\|")
    assert f"| method | seeds | {in_a_cell} m\\|e ↓ |" in lines
    assert f"| {in_a_cell} | 1 | 0.5 |" in lines
    lines = to_latex(report).splitlines()
    assert "% a|b <img>*c* is best." in lines
    assert "% a|b <img>*c* is left out." in lines
    assert not any(line.startswith("<img>") for line in lines)


def test_the_console_sets_the_best_in_bold() -> None:
    text = printed(REPORT, width=120, force_terminal=True, color_system="standard")
    bold = re.findall(r"\x1b\[1m([-+0-9.]+)\x1b\[0m", text)
    assert bold == ["0.200", "0.9600", "-1.23"]
    assert "Best in bold." in text
    assert "a|b[c]_100%" in text  # square brackets are no markup


def test_a_file_gets_stars_for_bold() -> None:
    text = printed(REPORT, width=120)
    assert "0.9600*" in text
    assert "0.200* ± 0.010" in text
    assert "Best marked with *." in text
    assert "- x/result.json cannot be read." in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_figure_is_cut_in_a_narrow_terminal(width: int) -> None:
    columns = tuple(Column(f"task{i // 3}", f"metric{i}", "higher", 4) for i in range(12))
    rows = tuple(
        Row(
            "default",
            f"weighting{r},setting.of.a.long.name=0.5",
            f"weighting{r},setting.of.a.long.name=0.5",
            3,
            "",
            tuple(Cell(r + i / 10, 0.1234) for i in range(12)),
        )
        for r in range(3)
    )
    text = printed(Report((Table("digits", columns, rows, (), ()),)), width=width)
    for r in range(3):
        for i in range(12):
            assert f"{r + i / 10:.4f}  ± 0.1234" in text
    assert all(len(line) <= width for line in text.splitlines())
    for i in range(12):
        assert len(re.findall(rf"\bmetric{i}\b", text)) == 1


def test_a_terminal_without_the_signs_gets_plain_ones() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_report(Report((FIRST,)), Console(file=stream, width=120))
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "0.200* +- 0.010" in text
    assert "accuracy ^" in text
    assert "mse v" in text


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        ([38.3, 40.1], 2),
        ([0.967, 0.95], 4),
        ([0.0125, 0.0129], 5),
        ([1234.5], 0),
        ([0.95, 0.96, -1e9], 4),
        ([0.0], 3),
        ([float("nan")], 3),
    ],
)
def test_decimals_suit_a_typical_value(values: list[float], decimals: int) -> None:
    assert suited_decimals(values) == decimals


TRANSFERS = replace(
    FIRST,
    rows=(
        FIRST.rows[0],
        replace(
            FIRST.rows[1],
            transfer=(Transfer("digit", 1.26, -0.5, 3.02), Transfer("ink_mean", -4.0, -5.0, -3.0)),
        ),
    ),
    answer=("On digits, a|b[c]_100% is best.",),
)


def test_transfer_is_a_second_block_with_losing_tasks_marked() -> None:
    text = printed(Report((TRANSFERS,)), width=100)
    assert text.startswith("On digits, a|b[c]_100% is best.\n\ndigits\n")
    assert "+1.3 [-0.5, +3.0]  -4.0 [-5.0, -3.0] ▼" in text
    markdown = to_markdown(Report((TRANSFERS,)))
    assert "| a\\|b[c]_100% | 1 | +1.3 [-0.5, +3.0] | -4.0 [-5.0, -3.0] ▼ |" in markdown
    assert markdown.startswith("## digits\n\nOn digits, a|b[c]_100% is best.")
    assert r"$-$4.0 [$-$5.0, $-$3.0] $\bigtriangledown$ \\" in to_latex(Report((TRANSFERS,)))
    frame = pd.read_csv(io.StringIO(to_csv(Report((TRANSFERS,)))))
    assert frame["transfer/ink_mean/low"][1] == -5.0


def test_small_p_values_are_not_zero() -> None:
    column = Column("", "p (Holm)", None, 3, spread=False, least=0.001)
    assert [format_number(p, column) for p in (0.00004, 0.0316, 1.0)] == [
        "<0.001",
        "0.032",
        "1.000",
    ]
    assert column.key == "p_Holm"


def test_numbers_as_printed() -> None:
    expected: Mapping[float, str] = {0.5: "+0.50", -0.5: "-0.50", -0.001: "0.00", 2.5e7: "+2.5e+07"}
    assert {value: format_number(value, DELTA) for value in expected} == expected
    assert format_number(float("nan"), DELTA) == "n/a"
