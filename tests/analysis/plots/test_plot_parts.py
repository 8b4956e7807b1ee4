import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from mtlrun.analysis.curves import Curve, loss_curves, metric_curves, over_seeds, smoothed
from mtlrun.analysis.plots import conflict, ranks
from mtlrun.analysis.plots.limits import robust_limits
from mtlrun.analysis.plots.style import fitted, line_style, log_ticks, plain, text_width
from mtlrun.analysis.statistics.front import pareto_front

WriteCurves = Callable[..., Path]


def test_seeds_are_averaged_where_all_have_steps() -> None:
    first = Curve(np.array([0.0, 10, 20, 30]), np.array([4.0, 2, math.nan, 0]))
    second = Curve(np.array([5.0, 15, 25]), np.array([1.0, 3, 5]))
    band = over_seeds([first, second, Curve(np.array([1.0]), np.array([math.nan]))])
    assert band.steps.tolist() == [5, 10, 15, 25]
    assert band.low == pytest.approx([1, 2, 1.5, 0.5])  # by straight lines from 2 at 10 to 0 at 30
    assert band.high == pytest.approx([3, 2, 3, 5])
    assert band.mean == pytest.approx([2, 2, 2.25, 2.75])
    assert band.seeds == 2
    long = Curve(np.arange(1001.0), np.arange(1001.0))
    thin = over_seeds([long], most_points=11)
    assert thin.steps.tolist() == list(range(0, 1001, 100))
    apart = Curve(np.array([90.0]), np.array([1.0]))
    assert len(over_seeds([second, apart]).steps) == 0
    assert over_seeds([]).seeds == 0


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", []),
        ("epoch,st", []),  # the file is being written
        ("\x00\x00,\x00\n\x00", []),
        ("step,epoch,task,loss\n1,1,a,0.5\n2,1,a,oops\nx,1,a,0.7\n3,1,a,0.4\n4,1", [0.5, 0.4]),
    ],
)
def test_damaged_tables_give_what_can_be_read(
    tmp_path: Path, text: str, values: list[float]
) -> None:
    (tmp_path / "losses.csv").write_text(text)
    curves = loss_curves(tmp_path, "loss")
    assert [value for curve in curves.values() for value in curve.finite().values] == values


def test_smoothing_is_a_centred_mean() -> None:
    steps = np.arange(0.0, 100, 10)
    line = smoothed(Curve(steps, 3 * steps + 1), 40)
    assert line.values == pytest.approx(3 * steps + 1)
    spike = np.zeros(10)
    spike[5] = 1e30
    values = smoothed(Curve(steps, spike), 20).values
    assert values == pytest.approx([0, 0, 0, 0, *[1e30 / 3] * 3, 0, 0, 0])
    noisy = np.array([8.0, 1, 2, 3, 4, 5, 6, 7, 9, 1])
    assert smoothed(Curve(steps, noisy), 1000).values[[0, -1]].tolist() == [8, 1]
    assert smoothed(Curve(steps, noisy), 0).values.tolist() == noisy.tolist()


def test_any_name_of_a_task_is_read(write: WriteCurves) -> None:
    folder = write("equal", {"null": {"accuracy": 1.0}, "up-down": {"accuracy": 1.0}})
    assert list(loss_curves(folder, "weight")) == ["null", "up-down"]
    assert loss_curves(folder, "grad_norm") == {}
    head = "epoch,step,split,task,metric,value\n"
    (folder / "metrics.csv").write_text(f"{head}1,10,val,up-down,acc,0.5\n1,10,val,up-down,auc,\n")
    assert list(metric_curves(folder)) == ["up-down/acc"]


@pytest.mark.parametrize("higher", [(True, True), (True, False), (False, False, True)])
def test_the_front_is_what_nothing_dominates(higher: tuple[bool, ...]) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        points = generator.integers(0, 6, size=(12, len(higher))).astype(float)
        points[3, 0] = math.nan
        turned = [[x if up else -x for x, up in zip(p, higher, strict=True)] for p in points]

        def dominated(one: list[float], by: list[float]) -> bool:
            pairs = list(zip(one, by, strict=True))
            return all(b >= a for a, b in pairs) and any(b > a for a, b in pairs)

        known = [at for at in range(12) if at != 3]
        brute = {a for a in known if not any(dominated(turned[a], turned[b]) for b in known)}
        front = pareto_front(points, higher)
        assert set(front) == brute
        assert [turned[at][0] for at in front] == sorted(turned[at][0] for at in front)


def test_limits_leave_out_what_is_far_only_where_it_stretches_the_axis() -> None:
    near = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    limits = robust_limits([*near, -90.0])
    assert limits.low == pytest.approx(1 - 0.06 * 0.5)
    assert limits.nearest(-90) == limits.low
    assert not limits.hold(-90)
    assert robust_limits([*near, 2.4]).hold(2.4)  # less than three times as long
    assert robust_limits([*near[:4], -90.0]).hold(-90)  # five values are too few to tell
    assert robust_limits([*near, -90.0], always=[-90.0]).hold(-90)
    assert robust_limits([2.0]).low < 2 < robust_limits([2.0]).high


def test_logarithmic_axes_have_few_ticks() -> None:
    assert log_ticks(0.04, 1.1) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1])
    assert log_ticks(0.003, 2) == pytest.approx([0.003, 0.01, 0.03, 0.1, 0.3, 1])
    assert log_ticks(1e-9, 1e2) == pytest.approx([1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 1e1])


def test_styles_differ_for_all_methods_and_names_are_cut_to_fit() -> None:
    assert len({line_style(index) for index in range(168)}) == 168
    assert plain("a" * 50 + "$x$") == "a" * 26 + "…" + "a" * 10 + r"\$x\$"
    assert fitted("short", 1.0) == "short"
    assert fitted("m" * 60, 1.0).endswith("m…")
    assert 0.8 < text_width(fitted("m" * 60, 1.0)) <= 1


def test_bars_on_one_level_do_not_touch() -> None:
    cliques = [(0, 4), (1, 5), (4, 6), (5, 8), (7, 9), (8, 12)]
    levels = ranks.clique_levels(cliques)
    assert levels == [0, 1, 2, 0, 1, 2]
    for (one, at), (other, level) in combinations(zip(cliques, levels, strict=True), 2):
        assert at != level or one[1] < other[0] or other[1] < one[0]


def test_bins_hold_every_point_and_none_is_empty() -> None:
    few = Curve(np.array([1.0, 20, 40, 50]), np.array([0.5, -0.5, math.nan, 1]))
    edges = conflict.bin_edges([few])
    assert edges.tolist() == [1, 10.5, 35, 50]
    assert conflict.binned([few], edges) == pytest.approx([0.5, -0.5, 1])
    many = Curve(np.concatenate([np.arange(1.0, 500, 7), [500.0]]), np.ones(73))
    edges = conflict.bin_edges([many, few], most=10)
    assert len(edges) == 11
    assert np.isnan(conflict.binned([few], edges)).tolist() == [False] + [True] * 9
    assert not np.isnan(conflict.binned([many], edges)).any()
