import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from task_checks import (
    assert_loss_is_precise,
    assert_nothing_is_read_back,
    assert_nothing_labelled_is_nothing,
    assert_unlabelled_rows_change_nothing,
    metrics_of,
)
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from mtlrun.tasks.binary import Binary
from mtlrun.tasks.ranking import roc_auc


def draw(rows: int, missing: float = 0.3) -> tuple[Tensor, Tensor]:
    """Logits with many ties, and targets a share of which is missing."""
    draws = torch.Generator().manual_seed(rows)
    logits = (2 * torch.randn(rows, 1, generator=draws)).round(decimals=1)
    target = (torch.rand(rows, generator=draws) < logits[:, 0].sigmoid()).float()
    target[torch.rand(rows, generator=draws) < missing] = torch.nan
    return logits, target


@pytest.fixture
def task() -> Binary:
    return Binary(name="sold")


def test_what_every_task_keeps_to(task: Binary) -> None:
    logits, target = draw(64)
    assert_unlabelled_rows_change_nothing(task, logits, target)
    assert_nothing_labelled_is_nothing(task, logits, torch.full((64,), torch.nan))
    assert_loss_is_precise(task, logits, target)
    assert_nothing_is_read_back(task, logits, target)


@pytest.mark.parametrize("weight", [None, 3.5])
def test_loss_is_the_mean_cross_entropy_of_labelled_rows(weight: float | None) -> None:
    logits, target = draw(50)
    rows = ~target.isnan()
    expected = F.binary_cross_entropy_with_logits(
        logits[rows, 0], target[rows], pos_weight=None if weight is None else torch.tensor(weight)
    )
    task = Binary(name="sold", positive_weight=weight)
    torch.testing.assert_close(task.loss(logits, target), expected)


@pytest.mark.parametrize(
    ("weight", "share", "expected"),
    [(None, None, 1.0), (None, 0.1, 1.0), (3.0, 0.25, 1.5), (3.0, None, None)],
)
def test_initial_loss_is_that_of_zero_logits(
    weight: float | None, share: float | None, expected: float | None
) -> None:
    task = Binary(name="sold", positive_weight=weight, positive_share=share)
    if expected is None:
        assert task.initial_loss is None
    else:
        assert task.initial_loss == pytest.approx(expected * math.log(2))
    if weight is not None and share is not None:
        target = torch.tensor([1.0, 0.0, 0.0, 0.0])
        assert task.loss(torch.zeros(4, 1), target).item() == pytest.approx(task.initial_loss)


def test_metrics_over_unequal_batches_agree_with_the_oracles(task: Binary) -> None:
    batches = [draw(rows) for rows in (1, 300, 17)]
    figures = metrics_of(task, *batches)
    logits, target = (torch.cat(column) for column in zip(*batches, strict=True))
    rows = ~target.isnan()
    scores, labels = logits[rows, 0], target[rows].long()
    assert len(scores.unique()) < len(scores) / 2  # ties
    assert figures["accuracy"] == accuracy_score(labels, scores > 0)
    assert figures["f1"] == pytest.approx(f1_score(labels, scores > 0), rel=1e-12)
    assert figures["auc"] == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)
    expected = average_precision_score(labels, scores)
    assert figures["average_precision"] == pytest.approx(expected, rel=1e-12)
    assert figures["auc"] == pytest.approx(binary_auroc(scores, labels).item())
    expected = binary_average_precision(scores, labels).item()
    assert figures["average_precision"] == pytest.approx(expected)


@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({label for _, label in rows}) == 2
    )
)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    pairs = [(p, n) for p, one in rows for n, other in rows if one and not other]
    expected = sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)
    scores, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    assert roc_auc(scores.float(), labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (0.0, {"accuracy": 1 / 3, "auc": None, "average_precision": None, "f1": 0.0}),
        (1.0, {"accuracy": 2 / 3, "auc": None, "average_precision": 1.0, "f1": 0.8}),
    ],
)
def test_metrics_where_one_class_is_absent(
    task: Binary, label: float, expected: dict[str, float | None]
) -> None:
    figures = metrics_of(task, (torch.tensor([[1.0], [2.0], [-1.0]]), torch.full((3,), label)))
    for metric, value in expected.items():
        if value is None:
            assert math.isnan(figures[metric]), metric
        else:
            assert figures[metric] == pytest.approx(value), metric


def test_a_network_that_gives_nan_has_no_area(task: Binary) -> None:
    figures = metrics_of(task, (torch.tensor([[math.nan], [1.0]]), torch.tensor([0.0, 1.0])))
    assert math.isnan(figures["auc"])
    assert math.isnan(figures["average_precision"])


@pytest.mark.parametrize(
    ("arguments", "headline"),
    [
        ({}, "accuracy"),
        ({"positive_share": 0.2}, "accuracy"),
        ({"positive_share": 0.19}, "auc"),
        ({"positive_share": 0.81}, "auc"),
        ({"positive_share": 0.01, "headline": "accuracy"}, "accuracy"),
        ({"positive_share": 0.5, "headline": "auc"}, "auc"),
    ],
)
def test_headline_follows_the_rarer_class(arguments: dict, headline: str) -> None:
    task = Binary(name="sold", **arguments)
    assert next(iter(task.metrics)) == headline
    assert set(task.metrics) == {"accuracy", "auc", "average_precision", "f1"}
    assert next(iter(metrics_of(task, draw(50)))) == headline
    assert next(iter(Binary.metrics)) == "accuracy"  # other tasks keep theirs


def test_labels_that_are_neither_0_nor_1_are_refused(task: Binary) -> None:
    with pytest.raises(ValueError, match=r"sold: labels must be 0, 1 or NaN .* one is 2"):
        metrics_of(task, (torch.zeros(3, 1), torch.tensor([0.0, 2.0, math.nan])))


def test_shapes_that_do_not_match_are_refused(task: Binary) -> None:
    with pytest.raises(ValueError, match=r"sold: .*\[4, 2\] .*\[4\]"):
        task.loss(torch.zeros(4, 2), torch.zeros(4))


def test_facts() -> None:
    task = Binary(name="sold", class_names=["no", "yes"])
    assert (task.class_names, task.output_size, task.per) == (("no", "yes"), 1, "row")
    assert (task.likelihood, Binary(name="sold").class_names) == ("classification", ("0", "1"))
    assert task.labelled(torch.tensor([0.0, math.nan, 1.0])).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"class_names": ["a", "b", "c"]},
            r"class_names=\['a', 'b', 'c'\]: needs one name for each of 2",
        ),
        ({"positive_weight": 0.0}, "positive_weight=0.0: must be above 0"),
        ({"positive_weight": math.nan}, "positive_weight=nan"),
        ({"positive_share": 1.5}, "positive_share=1.5: must be from 0 to 1"),
        ({"positive_share": math.nan}, "positive_share=nan"),
        ({"headline": "f1"}, "headline='f1': choose one of auto, accuracy, auc"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Binary(name="sold", **arguments)
