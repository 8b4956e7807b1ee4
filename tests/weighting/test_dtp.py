import math

import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.types import Evaluation, MetricValue, TaskInfo
from mtlrun.weighting.dtp import DTP

NAN = math.nan


def evaluation(*accuracies: float, **metrics: MetricValue) -> Evaluation:
    """Accuracies of task0, task1, ...; ``metrics`` are task0's further ones."""
    found = {
        f"task{i}": {"loss": MetricValue(1.0, False), "accuracy": MetricValue(accuracy, True)}
        for i, accuracy in enumerate(accuracies)
    }
    found["task0"].update(metrics)
    return Evaluation(found, dict.fromkeys(found, "accuracy"), {})


def focal(value: float, gamma: float = 2.0) -> float:
    return -((1 - value) ** gamma) * math.log(value)


def after(weighting: DTP, *evaluations: Evaluation) -> Tensor:
    for found in evaluations:
        weighting.after_evaluation(found)
    return weighting.task_weights


def test_the_first_evaluation_starts_the_average() -> None:
    weighting = DTP(alpha=0.1, tasks=task_infos(2))
    assert weighting.task_weights.tolist() == [1, 1]
    found = after(weighting, evaluation(0.3, 0.8))
    assert found.tolist() == pytest.approx([focal(0.3), focal(0.8)], rel=1e-5)
    found = after(weighting, evaluation(0.5, 0.8))
    assert found.tolist() == pytest.approx([focal(0.32), focal(0.8)], rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 5.0])
def test_the_worse_a_task_the_more_it_weighs(gamma: float) -> None:
    weights = after(DTP(gamma=gamma, tasks=task_infos(4)), evaluation(0.1, 0.4, 0.7, 0.95))
    assert (weights.diff() < 0).all()
    assert weights[1].item() == pytest.approx(focal(0.4, gamma), rel=1e-5)


def test_gamma_of_single_tasks() -> None:
    weights = after(DTP(gamma={"task1": 0.5}, tasks=task_infos(2)), evaluation(0.4, 0.4))
    assert weights.tolist() == pytest.approx([focal(0.4), focal(0.4, 0.5)], rel=1e-5)


def test_weights_stay_finite_and_above_zero_at_the_ends() -> None:
    weights = after(DTP(margin=0.01, tasks=task_infos(3)), evaluation(0.0, 1.0, -0.7))
    assert weights.tolist() == pytest.approx([focal(0.01), focal(0.99), focal(0.01)], rel=1e-4)


def test_the_margin_is_not_kept_in_the_average() -> None:
    """A clamped 0 that is averaged with 1 gives 0.5."""
    weights = after(DTP(alpha=0.5, tasks=task_infos(1)), evaluation(0.0), evaluation(1.0))
    assert weights.item() == pytest.approx(focal(0.5), rel=1e-5)


def test_what_was_not_measured_changes_nothing() -> None:
    weighting = DTP(alpha=0.5, tasks=task_infos(2))
    assert after(weighting, evaluation(NAN, 0.5)).tolist() == pytest.approx([1, focal(0.5)])
    assert after(weighting, evaluation(0.2, NAN)).tolist() == pytest.approx(
        [focal(0.2), focal(0.5)], rel=1e-5
    )
    left_out = Evaluation({"task1": evaluation(0, 0.7).metrics["task1"]}, {"task1": "accuracy"}, {})
    assert after(weighting, left_out).tolist() == pytest.approx([focal(0.2), focal(0.6)], rel=1e-5)


def test_a_named_kpi() -> None:
    weighting = DTP({"task0": "iou"}, tasks=task_infos(2))
    weights = after(weighting, evaluation(0.9, 0.9, iou=MetricValue(0.2, True)))
    assert weights.tolist() == pytest.approx([focal(0.2), focal(0.9)], rel=1e-5)


@pytest.mark.parametrize(
    ("kpi", "found", "message"),
    [
        (
            {"task0": "loss"},
            evaluation(0.5),
            r"loss of task0 is better when lower\. Name one with weighting\.kpi={task0:acc",
        ),
        (
            {"task0": "accurcy"},
            evaluation(0.5),
            r"no metric of that name\. Did you mean accuracy\?",
        ),
        ({}, evaluation(45.0), r"accuracy of task0 is above 1 \(45\)\. None of its metrics is one"),
        (
            {},
            evaluation(45.0, share=MetricValue(0.45, True)),
            r"weighting\.kpi={task0:share}; it has share\.",
        ),
    ],
)
def test_what_cannot_be_a_kpi(kpi: dict[str, str], found: Evaluation, message: str) -> None:
    with pytest.raises(UserError, match=message):
        after(DTP(kpi, tasks=task_infos(1)), found)


def with_metrics(**metrics: bool) -> list[TaskInfo]:
    return [TaskInfo("task0", "gaussian", None, 10, metrics)]


@pytest.mark.parametrize(
    ("kpi", "infos", "message"),
    [
        ({}, with_metrics(error=False), r"error of task0 is better when lower\. None of its metri"),
        ({}, with_metrics(error=False, r2=True), r"error of task0 .* weighting\.kpi={task0:r2};"),
        ({"task0": "loss"}, with_metrics(r2=True), r"loss of task0 is better when lower\. Name"),
        ({"task0": "r3"}, with_metrics(r2=True), r"no metric of that name\. Name one with"),
    ],
)
def test_what_cannot_be_a_kpi_is_refused_at_the_start(
    kpi: dict[str, str], infos: list[TaskInfo], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        DTP(kpi, tasks=infos)


def test_what_can_be_a_kpi_is_taken_at_the_start() -> None:
    assert DTP(tasks=with_metrics(r2=True, error=False)).kpi == {}
    assert DTP({"task0": "r2"}, tasks=with_metrics(error=False, r2=True)).kpi == {"task0": "r2"}


def test_wrong_settings() -> None:
    infos = task_infos(2)
    with pytest.raises(UserError, match=r"weighting\.kpi\.taks1=iou: .* Did you mean task1\?"):
        DTP({"taks1": "iou"}, tasks=infos)
    with pytest.raises(UserError, match=r"weighting\.gamma\.task1=-1: give a finite number, 0 or"):
        DTP(gamma={"task1": -1}, tasks=infos)
    with pytest.raises(ValueError, match="alpha=0: must be above 0 and at most 1"):
        DTP(alpha=0, tasks=infos)
    with pytest.raises(ValueError, match=r"margin=0\.5: must be above 0 and below 0\.5"):
        DTP(margin=0.5, tasks=infos)


def test_what_it_asks_of_the_engine() -> None:
    weighting = DTP(tasks=task_infos(2))
    assert weighting.uses_evaluation
    assert weighting.linear
    assert sorted(weighting.state_dict()) == ["performance", "task_weights"]


def test_an_absent_task_leaves_the_other_weights_alone() -> None:
    weighting = DTP(tasks=task_infos(3))
    after(weighting, evaluation(0.2, 0.5, 0.8))
    jacobian, losses = random_problem(2, 5)
    direction = Drive(weighting, 3).step(jacobian, losses, (0, 2))
    expected = focal(0.2) * jacobian[0] + focal(0.8) * jacobian[1]
    torch.testing.assert_close(direction, expected, rtol=1e-5, atol=1e-6)
