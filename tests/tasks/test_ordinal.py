import math

import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score, mean_absolute_error
from task_checks import (
    assert_loss_is_precise,
    assert_nothing_is_read_back,
    assert_nothing_labelled_is_nothing,
    assert_unlabelled_rows_change_nothing,
    metrics_of,
)
from torch import Tensor
from torchmetrics.functional.classification import multiclass_cohen_kappa

from mtlrun.models.heads.ordinal import OrdinalHead
from mtlrun.tasks.ordinal import Ordinal

CLASSES = 5


def draw(rows: int, missing: float = 0.3) -> tuple[Tensor, Tensor]:
    """Logits that fall with k, and targets near them, a share of which is missing."""
    draws = torch.Generator().manual_seed(rows)
    score = 3 * torch.randn(rows, 1, generator=draws)
    logits = score - torch.tensor([-3.0, -1.0, 1.0, 3.0])
    noisy = logits + torch.randn(rows, 1, generator=draws)
    target = (noisy > 0).sum(1)
    target[torch.rand(rows, generator=draws) < missing] = -1
    return logits, target


@pytest.fixture
def task() -> Ordinal:
    return Ordinal(name="stars", classes=CLASSES)


def test_what_every_task_keeps_to(task: Ordinal) -> None:
    logits, target = draw(64)
    assert_unlabelled_rows_change_nothing(task, logits, target)
    assert_nothing_labelled_is_nothing(task, logits, torch.full((64,), -1))
    assert_loss_is_precise(task, logits, target)
    assert_nothing_is_read_back(task, logits, target)


def test_loss_is_the_mean_over_thresholds_of_the_cross_entropies(task: Ordinal) -> None:
    probability = [0.9, 0.7, 0.4, 0.2]  # of y > 0, 1, 2, 3
    logits = torch.tensor(probability).logit().expand(3, 4)
    # y = 2: above 0 and 1, not above 2 and 3
    first = -(math.log(0.9) + math.log(0.7) + math.log(0.6) + math.log(0.8)) / 4
    second = -(math.log(0.1) + math.log(0.3) + math.log(0.6) + math.log(0.8)) / 4
    loss = task.loss(logits, torch.tensor([2, 0, -1]))
    assert loss.item() == pytest.approx((first + second) / 2)


def test_loss_of_zero_logits_is_the_initial_loss(task: Ordinal) -> None:
    loss = task.loss(torch.zeros(CLASSES, CLASSES - 1), torch.arange(CLASSES))
    assert loss.item() == pytest.approx(task.initial_loss) == pytest.approx(math.log(2))


def test_metrics_over_unequal_batches_agree_with_the_oracles(task: Ordinal) -> None:
    batches = [draw(rows) for rows in (1, 200, 17)]
    figures = metrics_of(task, *batches)
    logits, target = (torch.cat(column) for column in zip(*batches, strict=True))
    rows = target >= 0
    labels, predicted = target[rows], (logits[rows] > 0).sum(1)
    assert 0.3 < figures["accuracy"] < 0.95
    assert figures["accuracy"] == accuracy_score(labels, predicted)
    assert figures["mae"] == pytest.approx(mean_absolute_error(labels, predicted), rel=1e-12)
    expected = cohen_kappa_score(labels, predicted, weights="quadratic")
    assert figures["quadratic_kappa"] == pytest.approx(expected, rel=1e-12)
    oracle = multiclass_cohen_kappa(predicted, labels, CLASSES, weights="quadratic").item()
    assert figures["quadratic_kappa"] == pytest.approx(oracle)


def test_the_class_given_is_the_number_of_logits_above_0(task: Ordinal) -> None:
    logits = torch.tensor([[-1.0, -2, -3, -4], [1, -1, -1, -1], [4, 3, 2, 1], [0, 0, 0, 0]])
    confusion = task.statistics(logits, torch.tensor([3, 3, 3, 3]))["confusion"]
    assert confusion[3].tolist() == [2, 1, 0, 0, 1]
    assert confusion.sum() == 4


def test_kappa_of_one_class_alone_is_nan(task: Ordinal) -> None:
    figures = metrics_of(task, (torch.full((3, 4), -1.0), torch.zeros(3, dtype=torch.long)))
    assert math.isnan(figures["quadratic_kappa"])
    assert (figures["mae"], figures["accuracy"]) == (0, 1)


@pytest.mark.parametrize("label", [CLASSES, -2])
def test_a_label_outside_the_classes_is_refused(task: Ordinal, label: int) -> None:
    with pytest.raises(IndexError):
        task.loss(torch.zeros(2, CLASSES - 1), torch.tensor([0, label]))


def test_with_its_head_it_learns_thresholds_of_unequal_classes() -> None:
    torch.manual_seed(0)
    features = torch.randn(2000, 1)
    cuts = torch.tensor([-1.5, 0.0, 0.3])
    odds = torch.logit(torch.rand(2000, 1))  # proportional odds: the noise is logistic
    target = (4 * features + odds > 4 * cuts).sum(1)
    task = Ordinal(name="stars", classes=4)
    head = OrdinalHead(in_channels=1, out_channels=3, layout="vector")
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = task.loss(head(features), target)
        loss.backward()
        return loss

    optimizer.step(step)
    torch.testing.assert_close(head.thresholds().detach(), 4 * cuts, atol=0.35, rtol=0)
    assert head.layers[-1].weight.item() == pytest.approx(4, abs=0.35)


def test_facts() -> None:
    task = Ordinal(name="stars", classes=2, class_names=["bad", "good"])
    assert (task.class_names, task.output_size, task.per) == (("bad", "good"), 1, "row")
    assert task.likelihood == "classification"
    assert Ordinal(name="stars", classes=2).class_names == ("0", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "classes=1"),
        ({"classes": 3, "class_names": ["a"]}, r"class_names=\['a'\]: .* each of 3 classes"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ordinal(name="stars", **arguments)
