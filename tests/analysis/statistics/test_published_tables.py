"""Statistics against what papers printed: Demsar (JMLR 2006) and the NYUv2 tables."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mtlrun.analysis.statistics.bootstrap import jackknife_change
from mtlrun.analysis.statistics.ranking import (
    critical_difference,
    friedman,
    mean_rank_over_metrics,
    mean_ranks,
    nemenyi_distance,
    wins,
)
from mtlrun.analysis.statistics.seeds import bonferroni, holm


def reference(name: str) -> dict[str, Any]:
    path = Path(__file__).parents[2] / "reference" / f"{name}.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


DEMSAR = reference("demsar_2006")
NYUV2 = reference("delta_m_tables")["tables"]["nyuv2"]
SIGNS = [1 if metric["higher_is_better"] else -1 for metric in NYUV2["metrics"]]


def demsar_scores() -> np.ndarray[Any, Any]:
    """Table 6, shape [14, 4], with the tie that he saw broken in further digits."""
    rows = {name: list(row["auc"]) for name, row in DEMSAR["data_sets"].items()}
    rows["voting"][2] += 1e-4
    return np.array(list(rows.values()))


def test_ranks_of_demsar() -> None:
    for scores, row in zip(demsar_scores(), DEMSAR["data_sets"].values(), strict=True):
        assert mean_ranks(scores[None]).tolist() == row["ranks"]
    assert mean_ranks(demsar_scores()) == pytest.approx(DEMSAR["mean_ranks"], abs=5e-4)


def test_friedman_of_demsar() -> None:
    test = friedman(demsar_scores())
    # Three ties of two and one of four: 1 - (3 * 6 + 60) / (14 * 60).
    without_correction = test.chi2 * (1 - 78 / 840)
    assert without_correction == pytest.approx(DEMSAR["chi2_without_tie_correction"], abs=5e-3)
    f = 13 * without_correction / (14 * 3 - without_correction)
    assert f == pytest.approx(DEMSAR["f_without_tie_correction"], abs=5e-3)
    assert test.f > 2.85  # his critical value of F(3, 39): rejected
    assert test.f_p < test.p < 0.05


@pytest.mark.parametrize("alpha", ["0.05", "0.10"])
def test_critical_values_of_nemenyi(alpha: str) -> None:
    printed = DEMSAR["critical_values"]["nemenyi"][alpha]
    for methods, value in enumerate(printed, start=2):
        quantile = nemenyi_distance(methods, 14, float(alpha)) / math.sqrt(
            methods * (methods + 1) / (6 * 14)
        )
        assert quantile == pytest.approx(value, abs=1e-3)  # the last digit
    four = nemenyi_distance(4, 14, float(alpha))
    assert four == pytest.approx(DEMSAR["critical_difference"][alpha], abs=5e-3)


def test_nemenyi_is_the_studentized_range() -> None:
    for methods, alpha in [(2, 0.05), (7, 0.01), (30, 0.1)]:
        quantile = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / math.sqrt(2)
        ours = nemenyi_distance(methods, 1, alpha) / math.sqrt(methods * (methods + 1) / 6)
        assert ours == pytest.approx(quantile, rel=1e-6)


def test_critical_difference_of_demsar() -> None:
    diagram = critical_difference(DEMSAR["methods"], demsar_scores(), of="data sets")
    assert diagram is not None
    assert diagram.labels == ("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")
    assert (diagram.blocks, diagram.of) == (14, "data sets")
    assert diagram.cliques == ((0, 3),)  # "not powerful enough to detect any"
    assert diagram.distance == pytest.approx(1.25, abs=5e-3)
    # At 10 % figure 1 (a) has two bars: C4.5+cf belongs to either.
    looser = critical_difference(DEMSAR["methods"], demsar_scores(), of="data sets", alpha=0.1)
    assert looser is not None
    assert looser.cliques == ((0, 2), (2, 3))


def test_holm_and_bonferroni_of_demsar() -> None:
    ranks = dict(zip(DEMSAR["methods"], mean_ranks(demsar_scores()), strict=True))
    error = math.sqrt(4 * 5 / (6 * 14))
    printed = DEMSAR["against_c45"]
    p = [2 * stats.norm.sf((ranks["C4.5"] - ranks[name]) / error) for name in printed["methods"]]
    assert p == pytest.approx(printed["p"], abs=2e-3)  # he printed 0.607 where z gives 0.6084
    assert [value < 0.05 for value in holm(p)] == printed["holm_rejects"]
    # "The Bonferroni-Dunn test found C4.5 and C4.5+m too similar": 1.143 < CD = 1.16.
    assert [value < 0.05 for value in bonferroni(p)] == [True, False, False]


def test_mean_rank_of_famo() -> None:
    printed = reference("famo_mean_ranks")["mean_ranks"]
    values = [NYUV2["rows"][name]["values"] for name in printed]
    ours = mean_rank_over_metrics(values, SIGNS)
    assert dict(zip(printed, ours, strict=True)) == pytest.approx(printed, abs=5e-3)


def test_wins_of_the_published_table() -> None:
    names = list(reference("famo_mean_ranks")["mean_ranks"])
    counted = wins([NYUV2["rows"][name]["values"] for name in names], SIGNS)
    # Nash-MTL leads in segmentation and depth, FAMO within 11.25 degrees, MGDA in the rest.
    assert {name: count for name, count in zip(names, counted, strict=True) if count} == {
        "Nash-MTL": 4,
        "MGDA": 4,
        "FAMO": 1,
    }


@pytest.mark.parametrize("method", list(NYUV2["rows"]))
def test_change_between_rows_is_the_printed_delta_m(method: str) -> None:
    # The same row for two seeds: no spread, so the interval is the change itself.
    row = NYUV2["rows"][method]
    changes = jackknife_change(
        [row["values"]] * 2,
        [NYUV2["single_task"]] * 2,
        SIGNS,
        [metric["task"] for metric in NYUV2["metrics"]],
        paired=False,
    )
    low, high = changes.over_metrics
    assert low == pytest.approx(high, abs=1e-9)
    # These papers print the opposite sign.
    inconsistent = method in NYUV2["inconsistent"]
    assert -low == pytest.approx(row["delta_m"], abs=0.2 if inconsistent else 0.01)
