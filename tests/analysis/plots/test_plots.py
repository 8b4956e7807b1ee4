import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mtlrun.analysis.comparison.compare import compare
from mtlrun.analysis.plots import conflict, cost, lines, pareto, ranks, transfer
from mtlrun.analysis.plots.style import BASELINE, COLUMN, PAGE, REST
from mtlrun.analysis.plots.subject import NothingToDrawError, subject_of
from mtlrun.analysis.runs import find_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SINGLE_TASK = "equal,architecture=single_task"

WriteCurves = Callable[..., Path]


def texts(panel: "Axes") -> list[str]:
    return [text.get_text() for text in panel.texts]


def both(digit: float, ink: float) -> dict[str, dict[str, float]]:
    return {"digit": {"accuracy": digit}, "ink": {"rmse": ink}}


def test_a_panel_a_task_has_a_line_a_method(write: WriteCurves, subject: Any) -> None:
    write("gradnorm", ratios=(1, 0.5, 0.4, 0.3))
    write("gradnorm", ratios=(1, 0.7, 0.6, 0.5), seed=1)
    write(SINGLE_TASK)
    picture = lines.loss_ratios(subject())
    left, right = picture.figure.axes
    assert (left.get_title(), right.get_title()) == ("digit", "ink")
    assert (left.get_ylabel(), left.get_xlabel()) == ("loss ratio", "steps")
    assert left.get_xlim() == (0, 30)
    baseline, line = left.lines
    assert baseline.get_color() == BASELINE.colour
    assert line.get_xdata().tolist() == [1, 10, 20, 30]
    assert line.get_ydata() == pytest.approx([1, 0.6, 0.5, 0.4])
    (band,) = left.collections
    assert band.get_datalim(left.transData).intervaly == pytest.approx([0.3, 1])
    (legend,) = picture.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["single_task", "gradnorm"]
    assert picture.figure.get_figwidth() == PAGE
    smooth = lines.loss_ratios(subject(window=20))
    assert smooth.figure.axes[0].lines[1].get_ydata() == pytest.approx([1, 0.8, 0.5, 0.4])
    assert "Smoothed: centred mean over 20 steps." in smooth.caption


def test_a_panel_a_method_has_a_line_a_task(write: WriteCurves, subject: Any) -> None:
    for method in ("mgda", "gradnorm", "pcgrad"):
        write(method, ratios=(1, 0.1, 0.05, 0.01))
    panels = lines.loss_ratios_by_method(subject()).figure.axes
    assert [panel.get_title() for panel in panels] == ["gradnorm", "mgda", "pcgrad"]
    assert all(len(panel.lines) == 2 for panel in panels)
    assert panels[0].get_yscale() == "log"
    assert {tuple(panel.get_ylim()) for panel in panels} == {(0.01 / 1.1, 1.1)}


def test_of_many_methods_the_best_are_in_colour(write: WriteCurves, subject: Any) -> None:
    write(SINGLE_TASK)
    for index in range(12):
        write(f"method{index:02}", both(0.8 + index / 100, 0.5))
    only = lines.loss_ratios(subject("digit"))
    (panel,) = only.figure.axes
    assert only.figure.get_figwidth() == COLUMN
    colours = [line.get_color() for line in panel.lines]
    assert colours.count(REST) == 6
    assert len({*colours}) == 8  # six, the baseline's, and grey
    names = [text.get_text() for text in only.figure.legends[0].get_texts()]
    assert {*names} == {"single_task", *(f"method{i:02}" for i in range(6, 12)), "6 others"}
    assert any("in grey the other 6" in sentence for sentence in only.caption)
    everything = lines.loss_ratios(subject("digit", chosen=True))
    (panel,) = everything.figure.axes
    assert REST not in [line.get_color() for line in panel.lines]
    assert len({(line.get_color(), line.get_linestyle()) for line in panel.lines}) == 13


def test_a_steep_start_runs_out_of_the_axis(write: WriteCurves, subject: Any) -> None:
    steps = range(100)
    write("equal", steps=steps, ratios=[1.0, *np.linspace(0.5, 0.4, 99)], weights=[1] * 100)
    picture = lines.loss_ratios(subject())
    low, high = picture.figure.axes[0].get_ylim()
    assert 0.39 < low < 0.4
    assert 0.49 < high < 0.51
    assert "The steep start runs out of the axes." in picture.caption


def test_weights_that_never_change_are_not_drawn(write: WriteCurves, subject: Any) -> None:
    write("equal")
    write(SINGLE_TASK, weights=(1, 2, 3, 4))  # means nothing
    with pytest.raises(NothingToDrawError, match="all weights stay"):
        lines.weights(subject())
    write("gradnorm", weights=(1, 2, 3, 4))
    panel = lines.weights(subject()).figure.axes[0]
    assert [line.get_ydata().tolist() for line in panel.lines] == [[1] * 4, [1, 2, 3, 4]]


def test_conflict_is_a_row_a_pair_and_a_panel_a_method(write: WriteCurves, subject: Any) -> None:
    metrics = {"digit": {"accuracy": 0.8}, "ink": {"r2": 0.5}, "parity": {"accuracy": 0.9}}
    pairs = {("digit", "ink"): (0.1, 0.2, 0.3, -0.4), ("digit", "parity"): (1, 1, 1, 1)}
    write("mgda", metrics, cosines=pairs)
    write("mgda", metrics, cosines={p: [-v for v in of] for p, of in pairs.items()}, seed=1)
    write("pcgrad", metrics, cosines={("digit", "ink"): (-0.9, 0, 0, 0)})
    write("equal", metrics)
    picture = conflict.conflict(subject())
    first, second, scale = picture.figure.axes
    assert [panel.get_title() for panel in (first, second)] == ["mgda", "pcgrad"]
    assert [t.get_text() for t in first.get_yticklabels()] == ["digit – ink", "digit – parity"]
    (mesh,) = (mesh for mesh in second.collections)
    assert mesh.get_clim() == (-1, 1)
    image = np.ma.filled(mesh.get_array(), math.nan)
    assert image == pytest.approx(np.array([[-0.9, 0, 0, 0], [math.nan] * 4]), nan_ok=True)
    assert np.asarray(first.collections[0].get_array()) == pytest.approx(np.zeros((2, 4)))
    assert scale.get_xlim() == (-1, 1)
    one = conflict.conflict(subject("digit", "ink"))
    assert [t.get_text() for t in one.figure.axes[0].get_yticklabels()] == ["mgda", "pcgrad"]
    assert one.figure.axes[0].collections[0].get_array().shape == (2, 4)


def test_of_many_pairs_those_in_conflict_are_kept() -> None:
    pairs = [("a", str(index)) for index in range(5)]
    cosines = {pair: np.array([index / 10, math.nan]) for index, pair in enumerate(pairs[::-1])}
    assert conflict.most_in_conflict({"mgda": cosines}, pairs, most=2) == pairs[3:]  # type: ignore[dict-item]


def test_better_is_up_and_right_and_the_front_is_a_staircase(
    write: WriteCurves, subject: Any
) -> None:
    for seed, shift in enumerate((-0.01, 0.01)):
        write(SINGLE_TASK, both(0.85 + shift, 0.3), seed=seed)
        write("mgda", both(0.9 + shift, 0.5), seed=seed)
        write("pcgrad", both(0.8 + shift, 0.2), seed=seed)
        write("gradnorm", both(0.79 + shift, 0.4), seed=seed)
    picture = pareto.pareto(subject())
    (panel,) = picture.figure.axes
    left, right = panel.get_xlim()
    bottom, top = panel.get_ylim()
    assert left < 0.78 < 0.91 < right
    assert bottom > 0.5 > 0.2 > top
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("digit accuracy ↑", "ink rmse ↓")
    assert panel.get_title(loc="right") == "better ↗"
    (front,) = (line for line in panel.lines if line.get_label() == "front")
    corners = [(left, 0.2), (0.8, 0.2), (0.8, 0.5), (0.9, 0.5), (0.9, bottom)]
    assert front.get_xydata() == pytest.approx(np.array(corners))
    cross = [line.get_xydata() for line in panel.lines if line is not front]
    assert cross[0][:, 0] == pytest.approx([0.85, 0.85])
    assert cross[1][:, 1] == pytest.approx([0.3, 0.3])
    points = [tuple(c.get_offsets()[0]) for c in panel.collections if len(c.get_offsets()) == 1]
    assert len(points) == 4
    assert all(any(point == pytest.approx(m) for m in points) for point in [(0.9, 0.5), (0.8, 0.2)])


def test_fixed_weights_are_joined_in_their_order(write: WriteCurves, subject: Any) -> None:
    given = {0.5: (0.7, 0.2), 1.5: (0.9, 0.4), 1.0: (0.85, 0.3)}
    for share, figures in given.items():
        method = f"static,weighting.weights.digit={share}" if share != 1 else "equal"
        folder = write(method, both(*figures))
        result = json.loads((folder / "result.json").read_text())
        for task, weight in (("digit", share), ("ink", 2 - share)):
            result["tasks"][task]["weight"] = weight
        (folder / "result.json").write_text(json.dumps(result))
    write("mgda", both(0.8, 0.35))
    (panel,) = pareto.pareto(subject()).figure.axes
    (line,) = (line for line in panel.lines if line.get_label() == "weights")
    assert line.get_xydata() == pytest.approx(np.array([(0.7, 0.2), (0.85, 0.3), (0.9, 0.4)]))


def test_a_method_that_went_astray_is_named_and_not_drawn_to_scale(
    write: WriteCurves, subject: Any
) -> None:
    for index in range(8):
        write(f"method{index}", both(0.8 + index / 100, 0.5 - index / 100))
    write("astray", both(0.1, 9.0))
    picture = pareto.pareto(subject())
    assert picture.figure.axes[0].get_xlim()[0] > 0.7
    said = "Hollow, outside of the axes: astray (digit 0.1, ink 9)."
    assert said in picture.caption


def test_pareto_needs_two_or_three_tasks(write: WriteCurves, subject: Any) -> None:
    for method in ("equal", "mgda"):
        write(method, {task: {"accuracy": 0.5} for task in "abcd"})
    with pytest.raises(NothingToDrawError, match="there are 4 tasks: --task A,B"):
        pareto.pareto(subject())
    assert len(pareto.pareto(subject("a", "b", "c")).figure.axes) == 3
    (panel,) = pareto.pareto(subject("c", "a")).figure.axes
    assert panel.get_xlabel() == "c accuracy ↑"


def test_costs_are_relative_to_single_task(write: WriteCurves, subject: Any) -> None:
    facts: dict[str, Any] = {"forward_flops": 2e9, "parameters": {"total": 4000}}
    write(SINGLE_TASK, seconds=100.0, **facts)
    facts["parameters"] = {"total": 1000}
    write("equal", both(0.88, 0.47), seconds=20.0, architecture="hps", **facts)
    facts["parameters"] = {"total": 3000}
    write("equal,architecture=mtan", both(0.8, 0.45), seconds=60.0, architecture="mtan", **facts)
    picture = cost.cost(subject())
    time, size = picture.figure.axes  # the operations are those of single-task for all
    points = np.array([c.get_offsets()[0] for c in size.collections])
    assert points == pytest.approx(np.array([(1, 0), (0.25, 8), (0.75, 5)]))
    assert size.get_xlabel() == "parameters relative to\nsingle-task (4 k)"
    assert [c.get_offsets()[0][0] for c in time.collections] == pytest.approx([100, 20, 60])
    assert time.get_ylabel() == r"$\Delta_m$ [%]"
    assert any("1 times the forward FLOPs of single-task" in text for text in picture.caption)


def test_costs_beside_a_named_baseline_are_relative_to_that(
    write: WriteCurves, tmp_path: Path
) -> None:
    baseline = write("equal", seconds=20.0, parameters={"total": 1000})
    write("mgda", both(0.88, 0.47), seconds=60.0, parameters={"total": 3000})
    found = find_runs([tmp_path / "outputs"])
    (table,) = compare(found, baseline=(baseline, find_runs([baseline]))).tables
    picture = cost.cost(subject_of(table, ["digit"], chosen=False, which="test", window=0))
    size = picture.figure.axes[1]
    assert size.get_xlabel() == "parameters relative to\nequal (1 k)"
    assert "over all metrics against equal (positive is better)" in picture.caption[0]
    assert "single-task" not in " ".join(picture.caption)


def test_without_baseline_there_is_neither_cost_nor_transfer(
    write: WriteCurves, subject: Any
) -> None:
    write("equal")
    write("mgda")
    with pytest.raises(NothingToDrawError, match="takes single-task runs"):
        cost.cost(subject())
    with pytest.raises(NothingToDrawError, match="takes single-task runs"):
        transfer.transfer(subject())


def test_parameters_of_a_borrowed_baseline_are_of_the_tasks_it_serves(
    write: WriteCurves, tmp_path: Path
) -> None:
    parts = {"shared": 0, "tasks": {"digit": 300, "ink": 100}, "total": 400}
    write(SINGLE_TASK, parameters=parts, forward_flops=1.0)
    write("equal", {"digit": {"accuracy": 0.9}}, parameters={"total": 150}, forward_flops=1.0)
    write("mgda", {"digit": {"accuracy": 0.9}}, parameters={"total": 450}, forward_flops=1.0)
    report = compare(find_runs([tmp_path / "outputs"]))
    (table,) = (t for t in report.tables if any(row.method == "mgda" for row in t.rows))
    of_digit = subject_of(table, ["digit"], chosen=False, which="test", window=0)
    panels = cost.cost(of_digit).figure.axes
    (size,) = (panel for panel in panels if "parameters" in panel.get_xlabel())
    assert sorted(c.get_offsets()[0][0] for c in size.collections) == pytest.approx([0.5, 1, 1.5])


def test_ranks_stand_on_their_line_the_best_on_the_right(write: WriteCurves, subject: Any) -> None:
    for place, method in enumerate(("equal", "mgda", "gradnorm", "pcgrad")):
        for seed in range(3):
            write(method, both(0.9 - place / 10, 0.1 + place / 10), seed=seed)
    given = subject()
    ranking = given.table.ranking
    assert ranking.ranks == pytest.approx((1, 2, 3, 4))
    picture = ranks.critical_difference(given)
    (panel,) = picture.figure.axes
    stems = [line for line in panel.lines if len(line.get_xdata()) == 3]
    places = [line.get_xdata()[0] for line in stems]
    assert np.diff(places) == pytest.approx([places[1] - places[0]] * 3)
    assert places[0] > places[3]
    names = [t for t in panel.texts if t.get_text() in ranking.labels]
    assert [t.get_text() for t in names] == ["equal", "mgda", "gradnorm", "pcgrad"]
    assert [t.get_ha() for t in names] == ["left", "left", "right", "right"]
    bars = [line for line in panel.lines if line.get_linewidth() == 2.2]
    assert len(bars) == len(ranking.cliques) > 0
    assert f"CD = {ranking.distance:.2f}" in texts(panel)
    ruler = next(line for line in panel.lines if line.get_linewidth() == 1.2)
    per_rank = places[0] - places[1]
    assert np.ptp(ruler.get_xdata()) == pytest.approx(ranking.distance * per_rank)


def test_transfer_says_what_each_task_gains(write: WriteCurves, subject: Any) -> None:
    for seed, shift in enumerate((-0.001, 0.0, 0.001)):
        write(SINGLE_TASK, both(0.8 + shift, 0.5), seed=seed)
        write("mgda", both(0.88 + shift, 0.6), seed=seed)
    write("equal", both(0.88, 0.5))
    digit, ink = transfer.transfer(subject()).figure.axes
    assert [t.get_text() for t in digit.get_yticklabels()] == ["equal", "mgda"]
    assert digit.get_xlabel() == "change [%]"
    dots = {line.get_ydata()[0]: line for line in digit.lines if line.get_marker() != "None"}
    assert dots[1].get_xdata()[0] == pytest.approx(10)
    assert dots[1].get_marker() == ">"  # the interval leaves 0 out
    assert dots[0].get_marker() == "o"  # one seed has no interval
    (interval,) = (line for line in digit.lines if np.ptp(line.get_xdata()) > 0)
    low, high = interval.get_xdata()
    assert (low + high) / 2 == pytest.approx(10, abs=0.1)
    worse = [line.get_xdata()[0] for line in ink.lines if line.get_ydata()[0] == 1]
    assert worse == pytest.approx([-20] * len(worse))
