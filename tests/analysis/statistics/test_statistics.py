import math
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mtlrun.analysis.statistics import bootstrap
from mtlrun.analysis.statistics.bootstrap import (
    bootstrap_change,
    bootstrap_interval,
    jackknife_change,
)
from mtlrun.analysis.statistics.delta_m import delta_m, relative_change
from mtlrun.analysis.statistics.ranking import (
    cliques,
    critical_difference,
    friedman,
    mean_rank_over_metrics,
    mean_ranks,
    nemenyi_distance,
    wins,
)
from mtlrun.analysis.statistics.seeds import (
    bonferroni,
    holm,
    paired_test,
    t_interval,
    unpaired_test,
)

Array = np.ndarray[Any, Any]

SIGNS = [1, -1, -1]
GROUPS = ["segmentation", "depth", "depth"]
METHOD = np.array([[0.42, 0.50, 0.20], [0.45, 0.55, 0.19], [0.40, 0.52, 0.22]])
BASELINE = np.array([[0.38, 0.60, 0.21], [0.41, 0.58, 0.20], [0.37, 0.65, 0.23]])


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


# Intervals for a mean


def test_t_interval_is_students() -> None:
    values = normal(7)
    expected = stats.t.interval(0.9, 6, loc=values.mean(), scale=stats.sem(values))
    assert t_interval(values, 0.9) == pytest.approx(expected)
    # Two seeds: half their distance times tan(0.475 pi), which is 12.7062.
    assert t_interval([1.0, 3.0]) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)


def test_bootstrap_enumerates_every_resample() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0, 9.0])
    means = np.sort([np.mean(resample) for resample in product(values, repeat=5)])
    # 5 % of 3125 is 156.25: the 157th from either end is the first that is not beyond it.
    assert bootstrap_interval(values, level=0.9) == pytest.approx((means[156], means[-157]))
    medians = np.sort([np.median(resample) for resample in product(values, repeat=5)])
    expected = (medians[78], medians[-79])
    assert bootstrap_interval(values, np.median) == pytest.approx(expected)


def test_bootstrap_of_three_seeds_is_their_range() -> None:
    assert bootstrap_interval([0.3, 0.1, 0.2]) == pytest.approx((0.1, 0.3))  # 1/27 > 2.5 %


def test_drawn_resamples_are_near_the_enumerated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    values = normal(8)
    every = bootstrap_interval(values)
    monkeypatch.setattr(bootstrap, "MOST_ENUMERATED", 0)
    drawn = bootstrap_interval(values, draws=40_000)
    assert drawn == pytest.approx(every, abs=0.02)
    assert drawn == bootstrap_interval(values, draws=40_000)
    assert drawn != bootstrap_interval(values, draws=40_000, seed=1)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, math.nan, 0.4], [0.5, math.inf]])
def test_no_interval_without_two_figures(values: list[float]) -> None:
    for interval in (t_interval(values), bootstrap_interval(values)):
        assert np.isnan(interval).all()


# Tests


@pytest.mark.parametrize("size", [2, 3, 9])
def test_t_tests_are_scipys(size: int) -> None:
    first, second = normal(size), normal(size, seed=1) + 0.5
    assert paired_test(first, second) == pytest.approx(stats.ttest_rel(first, second).pvalue)
    longer = np.append(second, 3.0)
    welch = stats.ttest_ind(first, longer, equal_var=False).pvalue
    assert unpaired_test(first, longer) == pytest.approx(welch)
    assert unpaired_test(1e-120 * first, 1e-120 * longer) == pytest.approx(welch)


@pytest.mark.parametrize("size", [5, 12, 25])
def test_wilcoxon_is_scipys_exact_one(size: int) -> None:
    first, second = normal(size), normal(size, seed=1) + 0.4
    expected = stats.wilcoxon(first, second, method="exact").pvalue
    assert paired_test(first, second, "wilcoxon") == pytest.approx(expected)


def test_wilcoxon_with_ties_and_zeros_counts_sign_flips() -> None:
    differences = np.array([1.0, 1.0, -1.0, 2.0, 2.0, 3.0, 0.0])
    ranks = np.array([2, 2, 2, 4.5, 4.5, 6])  # of the six that differ
    sums = [ranks[np.array(flip)].sum() for flip in product([False, True], repeat=6)]
    seen = ranks[[0, 1, 3, 4, 5]].sum()
    expected = 2 * np.mean([total >= seen for total in sums])
    assert paired_test(differences, np.zeros(7), "wilcoxon") == pytest.approx(expected)


@pytest.mark.parametrize("pairs", [3, 5, 6])
def test_smallest_p_of_wilcoxon(pairs: int) -> None:
    smallest = paired_test(np.arange(1, pairs + 1), np.zeros(pairs), "wilcoxon")
    assert smallest == pytest.approx(2 / 2**pairs)
    assert (smallest < 0.05) == (pairs >= 6)


@pytest.mark.parametrize("kind", ["t", "wilcoxon"])
def test_degenerate_pairs(kind: Literal["t", "wilcoxon"]) -> None:
    assert paired_test([0.5, 0.7, 0.6], [0.5, 0.7, 0.6], kind) == 1
    assert math.isnan(paired_test([0.5], [0.4], kind))
    assert math.isnan(paired_test([0.5, math.nan], [0.4, 0.3], kind))
    with pytest.raises(ValueError, match="2 and 3 values"):
        paired_test([1, 2], [1, 2, 3], kind)


def test_no_spread() -> None:
    assert paired_test([2, 3, 4], [1, 2, 3]) == 0
    assert unpaired_test([2, 2], [1, 1, 1]) == 0
    assert unpaired_test([2, 2], [2, 2, 2]) == 1
    assert math.isnan(unpaired_test([2], [1, 1, 1]))


# Several tests at once


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_as_the_step_down_procedure_does(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    going_on, before = True, 0.0
    for done, at in enumerate(order):
        # In products, not quotients, so that both round alike.
        going_on = going_on and p_values[at] * (len(p_values) - done) <= 0.05
        assert (adjusted[at] <= 0.05) == going_on
        assert before <= adjusted[at] <= bonferroni(p_values)[at]
        before = adjusted[at]


def test_tests_that_were_not_made_do_not_count() -> None:
    p_values = [0.01, math.nan, 0.04, 0.03]
    assert holm(p_values) == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert bonferroni(p_values) == pytest.approx([0.03, math.nan, 0.12, 0.09], nan_ok=True)
    assert holm([]) == []
    assert np.isnan(holm([math.nan])).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, 1.5])


# Rankings


def test_friedman_is_scipys_with_ties() -> None:
    scores = np.random.default_rng(0).integers(0, 4, size=(11, 5))
    chi2, p = stats.friedmanchisquare(*scores.T)
    test = friedman(scores)
    assert (test.chi2, test.p) == pytest.approx((chi2, p))
    f = 10 * chi2 / (11 * 4 - chi2)
    assert (test.f, test.f_p) == pytest.approx((f, stats.f.sf(f, 4, 40)))
    assert mean_ranks(scores) == pytest.approx(stats.rankdata(-scores, axis=1).mean(axis=0))


def test_friedman_at_its_ends() -> None:
    agreed = friedman([[3, 2, 1], [30, 20, 10], [0.3, 0.2, 0.1]])
    assert agreed.chi2 == pytest.approx(6)  # blocks (methods - 1)
    assert agreed.p == pytest.approx(math.exp(-3))  # chi-squared with two degrees of freedom
    assert (agreed.f, agreed.f_p) == (math.inf, 0)
    tied = friedman(np.ones((4, 3)))
    assert (tied.chi2, tied.p, tied.f, tied.f_p) == (0, 1, 0, 1)
    with pytest.raises(ValueError, match="without NaN"):
        friedman([[1, math.nan], [1, 2]])


def test_cliques_are_the_largest_only() -> None:
    assert cliques([1.0, 1.5, 2.0, 3.5, 4.0], 1.0) == ((0, 2), (3, 4))
    assert cliques([1.0, 2.0, 3.0, 4.0], 1.5) == ((0, 1), (1, 2), (2, 3))
    assert cliques([1.0, 3.0], 1.9) == ()
    with pytest.raises(ValueError, match="ascending"):
        cliques([2.0, 1.0], 1.0)


def test_critical_difference_leaves_out_what_has_no_figure() -> None:
    scores = np.array([[0.9, 0.7, math.nan, 0.8], [0.8, 0.6, 0.5, 0.7], [0.9, 0.8, 0.7, 0.8]])
    diagram = critical_difference(["a", "b", "c", "d"], scores, of="tasks")
    assert diagram is not None
    assert diagram.labels == ("a", "d", "b")
    assert diagram.ranks == pytest.approx((1, 13 / 6, 17 / 6))
    assert diagram.distance == pytest.approx(nemenyi_distance(3, 3))
    assert diagram.p == pytest.approx(stats.friedmanchisquare(*scores[:, [0, 1, 3]].T).pvalue)
    assert critical_difference(["a", "c"], scores[:, [0, 2]], of="tasks") is None
    assert critical_difference(["a", "b"], scores[:1, :2], of="tasks") is None
    with pytest.raises(ValueError, match="2 labels"):
        critical_difference(["a", "b"], scores, of="tasks")


def test_wins_and_mean_rank_follow_the_direction() -> None:
    values = [[0.9, 5.0, 1.0], [0.9, 4.0, 2.0], [0.8, 4.5, math.nan]]
    assert wins(values, [1, -1, 1]) == [1, 3, 0]
    assert wins([[1.0], [math.nan]], [1]) == [0, 0]  # nobody to win against
    ranks = mean_rank_over_metrics(values, [1, -1, 1])
    assert ranks == pytest.approx([(1.5 + 2 + 2) / 3, (1.5 + 1 + 1) / 3, math.nan], nan_ok=True)


# Change against a baseline


def changes_of(method: Array, baseline: Array) -> list[float]:
    """Of both tasks, over metrics and over tasks, by the scalar functions."""
    changes: dict[str, dict[str, float]] = {}
    means = zip(method.mean(axis=0), baseline.mean(axis=0), SIGNS, GROUPS, strict=True)
    for name, (value, against, sign, group) in enumerate(means):
        change = relative_change(value, against, higher_is_better=sign > 0)
        changes.setdefault(group, {})[str(name)] = change
    both = delta_m(changes)
    tasks = [float(np.mean(list(metrics.values()))) for metrics in changes.values()]
    return [*tasks, both.over_metrics, both.over_tasks]


def ends(change: bootstrap.ChangeIntervals) -> Array:
    return np.array([*change.tasks, change.over_metrics, change.over_tasks])


@pytest.mark.parametrize("paired", [True, False])
def test_bootstrap_of_a_change_enumerates_every_resample(paired: bool) -> None:
    resamples = [list(rows) for rows in product(range(3), repeat=3)]
    pairs = [(r, r) for r in resamples] if paired else list(product(resamples, resamples))
    every = np.sort([changes_of(METHOD[a], BASELINE[b]) for a, b in pairs], axis=0)
    beyond = math.ceil(0.05 * len(pairs)) - 1  # level 0.9
    expected = np.stack([every[beyond], every[-1 - beyond]], axis=1)
    intervals = bootstrap_change(METHOD, BASELINE, SIGNS, GROUPS, paired=paired, level=0.9)
    assert ends(intervals) == pytest.approx(expected)


def test_drawn_changes_are_near_the_enumerated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    method, baseline = 5 + 0.1 * normal(5, 3), 4 + 0.1 * normal(4, 3, seed=1)
    every = ends(bootstrap_change(method, baseline, SIGNS, GROUPS, paired=False))
    monkeypatch.setattr(bootstrap, "MOST_ENUMERATED", 0)
    drawn = ends(bootstrap_change(method, baseline, SIGNS, GROUPS, paired=False, draws=99_999))
    assert drawn == pytest.approx(every, abs=0.2)
    assert (drawn != every).any()


@pytest.mark.parametrize("interval", [bootstrap_change, jackknife_change])
def test_pairs_that_all_gain_as_much_leave_no_doubt(interval: Any) -> None:
    gained = BASELINE * np.array([1.1, 0.95, 0.9])
    paired = ends(interval(gained, BASELINE, SIGNS, GROUPS, paired=True))
    assert paired == pytest.approx(np.array([[10, 10], [7.5, 7.5], [25 / 3, 25 / 3], [8.75] * 2]))
    unpaired = ends(interval(gained, BASELINE, SIGNS, GROUPS, paired=False))
    assert (unpaired[:, 1] - unpaired[:, 0] > 1).all()


def test_jackknife_against_a_fixed_baseline_is_students() -> None:
    fixed = np.tile(BASELINE[:1], (3, 1))
    seeds = np.array([changes_of(METHOD[[seed]], fixed) for seed in range(3)])
    expected = np.array([t_interval(column) for column in seeds.T])
    paired = jackknife_change(METHOD, fixed, SIGNS, GROUPS, paired=True)
    unpaired = jackknife_change(METHOD, fixed, SIGNS, GROUPS, paired=False)
    assert ends(paired) == pytest.approx(expected)
    assert ends(unpaired) == pytest.approx(expected)  # Satterthwaite's 2 degrees of freedom


def test_jackknife_surrounds_the_printed_change() -> None:
    middle = ends(jackknife_change(METHOD, BASELINE, SIGNS, GROUPS, paired=False)).mean(axis=1)
    assert middle == pytest.approx(changes_of(METHOD, BASELINE))


@pytest.mark.parametrize("paired", [True, False])
def test_jackknife_holds_the_true_change_as_often_as_it_says(paired: bool) -> None:
    trials, true = 600, 100 * (0.52 - 0.50) / 0.50
    held = 0
    for noise in 0.02 * normal(trials, 2, 3, 1):
        change = jackknife_change(0.52 + noise[0], 0.5 + noise[1], [1], ["a"], paired=paired)
        held += change.over_metrics[0] <= true <= change.over_metrics[1]
    assert 0.93 <= held / trials <= 0.985  # Satterthwaite's is somewhat wide for three and three


@pytest.mark.parametrize("interval", [bootstrap_change, jackknife_change])
def test_what_has_no_change_has_no_interval(interval: Any) -> None:
    one_seed = ends(interval(METHOD[:1], BASELINE, SIGNS, GROUPS, paired=False))
    assert one_seed.shape == (4, 2)
    assert np.isnan(one_seed).all()
    lacking = METHOD.copy()
    lacking[1, 0] = math.nan  # only the task that lacks a figure, and what contains it
    missing = np.isnan(ends(interval(lacking, BASELINE, SIGNS, GROUPS, paired=True)))
    assert missing.tolist() == [[True, True], [False, False], [True, True], [True, True]]
    zero = BASELINE * np.array([0, 1, 1])
    assert np.isnan(ends(interval(METHOD, zero, SIGNS, GROUPS, paired=True))[0]).all()
    with pytest.raises(ValueError, match="as many seeds"):
        interval(METHOD, BASELINE[:2], SIGNS, GROUPS, paired=True)
    with pytest.raises(ValueError, match="do not fit"):
        interval(METHOD, BASELINE, SIGNS[:2], GROUPS, paired=True)


@pytest.mark.parametrize("interval", [bootstrap_change, jackknife_change])
@pytest.mark.parametrize("paired", [True, False])
def test_a_change_of_a_figure_below_zero_has_the_sign_of_its_direction(
    interval: Any, paired: bool
) -> None:
    # R2 from -0.5 to about -0.25 is better, and by half of its size.
    low, high = interval([[-0.26], [-0.24]], [[-0.5], [-0.5]], [1], ["a"], paired=paired).tasks[0]
    assert (low + high) / 2 == pytest.approx(50)
    assert low > 0
