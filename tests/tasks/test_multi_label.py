import math

import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from task_checks import (
    assert_loss_is_precise,
    assert_nothing_is_read_back,
    assert_nothing_labelled_is_nothing,
    assert_unlabelled_rows_change_nothing,
    metrics_of,
)
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multilabel_auroc, multilabel_exact_match

from mtlrun.tasks.multi_label import MultiLabel

LABELS = 4


def draw(rows: int, missing: float = 0.3) -> tuple[Tensor, Tensor]:
    """Logits, and targets a share of whose entries is missing, and some rows wholly."""
    draws = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, LABELS, generator=draws).round(decimals=1)
    target = (torch.rand(rows, LABELS, generator=draws) < logits.sigmoid()).float()
    target[torch.rand(rows, LABELS, generator=draws) < missing] = torch.nan
    target[torch.rand(rows, generator=draws) < missing] = torch.nan
    return logits, target


@pytest.fixture
def task() -> MultiLabel:
    return MultiLabel(name="genres", labels=LABELS)


def test_what_every_task_keeps_to(task: MultiLabel) -> None:
    logits, target = draw(64)
    assert_unlabelled_rows_change_nothing(task, logits, target)
    assert_nothing_labelled_is_nothing(task, logits, torch.full_like(target, torch.nan))
    assert_loss_is_precise(task, logits, target)
    assert_nothing_is_read_back(task, logits, target)


def test_loss_and_gradient_are_those_of_the_known_entries(task: MultiLabel) -> None:
    logits, target = draw(50)
    known = ~target.isnan()
    logits.requires_grad_()
    loss = task.loss(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = F.binary_cross_entropy_with_logits(logits[known], target[known])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    assert not gradient[~known].any()
    zero = task.loss(torch.zeros_like(logits), target)
    assert zero.item() == pytest.approx(task.initial_loss) == pytest.approx(math.log(2))


def test_metrics_over_unequal_batches_agree_with_the_oracles(task: MultiLabel) -> None:
    batches = [draw(rows, missing=0) for rows in (1, 200, 17)]
    figures = metrics_of(task, *batches)
    logits, target = (torch.cat(column) for column in zip(*batches, strict=True))
    for metric, average in (("f1_micro", "micro"), ("f1_macro", "macro")):
        expected = f1_score(target, logits > 0, average=average)
        assert figures[metric] == pytest.approx(expected, rel=1e-12), metric
    assert figures["auc_macro"] == pytest.approx(roc_auc_score(target, logits), rel=1e-12)
    oracle = multilabel_auroc(logits, target.long(), LABELS).item()
    assert figures["auc_macro"] == pytest.approx(oracle)
    oracle = multilabel_exact_match(logits, target.long(), LABELS).item()
    assert figures["exact_match"] == pytest.approx(oracle)


def test_metrics_with_missing_entries_are_those_of_each_labels_known_rows(
    task: MultiLabel,
) -> None:
    logits, target = draw(300)
    figures = metrics_of(task, (logits, target))
    columns = [(target[k, j], logits[k, j]) for j in range(LABELS) for k in [~target[:, j].isnan()]]
    f1 = [f1_score(labels, scores > 0) for labels, scores in columns]
    auc = [roc_auc_score(labels, scores) for labels, scores in columns]
    assert figures["f1_macro"] == pytest.approx(sum(f1) / LABELS)
    assert figures["auc_macro"] == pytest.approx(sum(auc) / LABELS)
    known = ~target.isnan()
    assert figures["f1_micro"] == pytest.approx(f1_score(target[known], logits[known] > 0))
    right = [
        all(t == (s > 0) for t, s in zip(labels, scores, strict=True) if not math.isnan(t))
        for labels, scores in zip(target.tolist(), logits.tolist(), strict=True)
        if not all(map(math.isnan, labels))
    ]
    assert 0 < sum(right) < len(right)
    assert figures["exact_match"] == pytest.approx(sum(right) / len(right))


def test_labels_that_never_occur_are_left_out_of_the_means() -> None:
    task = MultiLabel(name="genres", labels=3)
    nan = math.nan
    target = torch.tensor([[1.0, 0.0, nan], [0.0, 0.0, 1.0], [1.0, 0.0, nan]])
    logits = torch.tensor([[2.0, -1.0, 5.0], [1.0, -2.0, 1.0], [3.0, -3.0, 5.0]])
    figures = metrics_of(task, (logits, target))
    assert figures["f1_macro"] == pytest.approx((0.8 + 1.0) / 2)  # the second has none
    assert figures["auc_macro"] == 1  # of the first alone: the others have one class
    assert figures["f1_micro"] == pytest.approx(6 / 7)
    assert figures["exact_match"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("arguments", "headline"),
    [
        ({}, "f1_micro"),
        ({"positive_share": 0.3}, "f1_micro"),
        ({"positive_share": 0.05}, "auc_macro"),
        ({"positive_share": 0.05, "headline": "f1_micro"}, "f1_micro"),
        ({"headline": "auc_macro"}, "auc_macro"),
    ],
)
def test_headline_follows_how_rare_labels_are(arguments: dict, headline: str) -> None:
    task = MultiLabel(name="genres", labels=LABELS, **arguments)
    assert next(iter(task.metrics)) == headline
    assert set(task.metrics) == set(MultiLabel.metrics)


def test_facts() -> None:
    task = MultiLabel(name="genres", labels=2, label_names=["drama", "war"])
    assert (task.label_names, task.output_size) == (("drama", "war"), 2)
    rows = torch.tensor([[0.0, math.nan], [math.nan, math.nan], [1.0, 1.0]])
    assert task.labelled(rows).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": 0}, "labels=0"),
        ({"labels": 3, "label_names": ["a"]}, r"label_names=\['a'\]: .* each of 3"),
        ({"labels": 3, "headline": "auc"}, "headline='auc': choose one of auto, f1_micro, auc_m"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiLabel(name="genres", **arguments)
