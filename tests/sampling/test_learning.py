"""Samplers that learn from evaluations."""

import math
from typing import Any

import pytest
import torch
from sampling_driver import NAMES, ROWS, build, close, evaluation, softmax

from mtlrun.sampling.units import Unit
from mtlrun.types import Evaluation, MetricValue

REAL = torch.tensor(ROWS, dtype=torch.float64)


def tempered(temperature: float) -> torch.Tensor:
    return REAL ** (1 / temperature) / (REAL ** (1 / temperature)).sum()


# -- dynamic temperature ---------------------------------------------------------------------------


def test_temperature_rises_as_published() -> None:
    sampler = build("dynamic_temperature")
    found = [sampler.temperature(epoch) for epoch in range(8)]
    assert found == pytest.approx([1, 1.8, 2.6, 3.4, 4.2, 5, 5, 5])
    close(sampler.probabilities(0), REAL / REAL.sum())
    close(sampler.probabilities(6), tempered(5))
    assert not sampler.uses_evaluation
    slow = build("dynamic_temperature", ramp_epochs=10, initial_temperature=2)
    assert slow.temperature(5) == pytest.approx(3.5)


def dynamic() -> Any:
    return build("dynamic_temperature", mode="performance")


def test_temperature_follows_the_task_that_lags() -> None:
    sampler = dynamic()
    assert sampler.uses_evaluation
    close(sampler.probabilities(9), REAL / REAL.sum())
    sampler.after_evaluation(evaluation(dict(zip(NAMES, (0.2, 0.5, 0.6, 0.9), strict=True))))
    assert sampler.temperature(1) == 1
    # half of every error is left
    sampler.after_evaluation(evaluation(dict(zip(NAMES, (0.6, 0.75, 0.8, 0.95), strict=True))))
    assert sampler.temperature(2) == pytest.approx(1)
    # shares 0.5, 0.5, 0.25 and 1: T = 1 + 4 (1 - 0.25)
    sampler.after_evaluation(evaluation(dict(zip(NAMES, (0.6, 0.75, 0.9, 0.9), strict=True))))
    assert sampler.temperature(3) == pytest.approx(4)
    close(sampler.probabilities(3), tempered(4))


def test_errors_fall_towards_nothing() -> None:
    sampler = dynamic()
    for errors in ((4.0, 2.0, 1.0, 8.0), (3.0, 0.5, 1.0, 8.0)):
        levels = dict(zip(NAMES, errors, strict=True))
        sampler.after_evaluation(evaluation(levels, higher_is_better=False))
    assert sampler.temperature(1) == pytest.approx(1 + 4 * 0.75)


def test_what_was_not_measured_keeps_its_share() -> None:
    sampler = dynamic()
    sampler.after_evaluation(evaluation(dict.fromkeys(NAMES, 0.5)))
    sampler.after_evaluation(evaluation({"task0": 0.75, "task1": 0.9, "task2": 0.5}))
    before = sampler.temperature(2)
    assert before == pytest.approx(1 + 4 * 0.8)
    sampler.after_evaluation(evaluation({"task1": math.nan, "task0": math.inf}))
    assert sampler.temperature(3) == before
    solved = dynamic()
    for _ in range(2):
        solved.after_evaluation(evaluation(dict.fromkeys(NAMES, 1.0)))
    assert solved.temperature(1) == 1


# -- active ----------------------------------------------------------------------------------------


def test_the_furthest_task_is_likeliest() -> None:
    sampler = build("active", targets=dict.fromkeys(NAMES, 0.8), temperature=0.5)
    assert sampler.probabilities(0).tolist() == [0.25] * 4
    sampler.after_evaluation(evaluation(dict(zip(NAMES, (0.4, 0.6, 0.8, 0.9), strict=True))))
    close(sampler.probabilities(1), softmax([1.0, 0.5, 0.0, 0.0]))


def test_lower_is_better() -> None:
    sampler = build("active", targets=dict.fromkeys(NAMES, 2.0), temperature=1)
    levels = dict(zip(NAMES, (5.0, 3.0, 2.0, 1.0), strict=True))
    sampler.after_evaluation(evaluation(levels, higher_is_better=False))
    close(sampler.probabilities(1), softmax([1.5, 0.5, 0.0, 0.0]))


def test_levels_are_means_of_the_last_evaluations() -> None:
    sampler = build("active", targets=dict.fromkeys(NAMES, 1.0), temperature=1, window=2)
    for level in (0.9, 0.1, 0.5):
        sampler.after_evaluation(evaluation({"task0": level, "task1": 1.0, "task2": 1.0}))
    # task3 was never measured and counts as the mean of the others, 0.7 / 3
    expected = [0.7, 0.0, 0.0, 0.7 / 3]
    close(sampler.probabilities(3), softmax(expected))


def test_a_baseline_gives_the_targets() -> None:
    levels = dict(zip(NAMES, (0.5, 0.6, 0.7, 0.8), strict=True))
    by_run = build("active", baseline="folder", levels=levels)
    by_hand = build("active", targets=levels)
    for sampler in (by_run, by_hand):
        sampler.after_evaluation(evaluation(dict.fromkeys(NAMES, 0.55)))
    assert torch.equal(by_run.probabilities(1), by_hand.probabilities(1))
    # all short of it but the first: the fourth by 0.25 / 0.8, over a temperature of 0.05
    gaps = [0, 0.05 / 0.6, 0.15 / 0.7, 0.25 / 0.8]
    close(by_run.probabilities(1), softmax([gap / 0.05 for gap in gaps]))


def test_a_stream_has_the_mean_gap_of_its_tasks() -> None:
    streams = (Unit("x", "x", ("a", "b"), 9, 3), Unit("y", "y", ("c",), 9, 3))
    sampler = build(
        "active", streams, targets={"a": 1.0, "b": 10.0, "c": 1.0}, temperature=1, window=1
    )
    metrics = {
        "a": {"f1": MetricValue(0.4, True)},
        "b": {"rmse": MetricValue(12.0, False)},
        "c": {"f1": MetricValue(0.5, True)},
    }
    sampler.after_evaluation(Evaluation(metrics, {"a": "f1", "b": "rmse", "c": "f1"}, {}))
    close(sampler.probabilities(1), softmax([0.4, 0.5]))
