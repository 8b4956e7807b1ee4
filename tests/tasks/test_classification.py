import math

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from mtlrun.tasks.classification import Classification

CLASSES = 7


@pytest.fixture
def task() -> Classification:
    return Classification(name="digit", classes=CLASSES)


def draw(rows: int, missing: float = 0.3, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Logits with outliers, and targets a share of which is missing."""
    draws = torch.Generator().manual_seed(rows)
    logits = 3 * torch.randn(rows, classes, generator=draws)
    target = torch.randint(classes, (rows,), generator=draws)
    target[torch.rand(rows, generator=draws) < missing] = -1
    return logits, target


def test_loss_is_the_mean_cross_entropy_of_labelled_rows(task: Classification) -> None:
    logits, target = draw(50)
    rows = target >= 0
    expected = F.cross_entropy(logits[rows], target[rows])
    torch.testing.assert_close(task.loss(logits, target), expected)


def test_loss_of_equal_logits_is_the_initial_loss(task: Classification) -> None:
    loss = task.loss(torch.zeros(5, CLASSES), torch.arange(5))
    assert loss.item() == pytest.approx(math.log(CLASSES))
    assert task.initial_loss == math.log(CLASSES)


def test_gradient_is_bitwise_that_of_the_batch_without_unlabelled_rows(
    task: Classification,
) -> None:
    logits, target = draw(64)
    rows = target >= 0
    assert 0 < rows.sum() < 64
    whole = logits.clone().requires_grad_()
    task.loss(whole, target).backward()
    part = logits[rows].clone().requires_grad_()
    F.cross_entropy(part, target[rows]).backward()
    assert torch.equal(whole.grad[rows], part.grad)
    assert not whole.grad[~rows].any()


def test_nothing_labelled_gives_zero_loss_and_gradient(task: Classification) -> None:
    logits = torch.randn(4, CLASSES, requires_grad=True)
    loss = task.loss(logits, torch.full((4,), -1))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(4, CLASSES))


def test_loss_of_bfloat16_logits_is_computed_in_float32(task: Classification) -> None:
    logits, target = draw(50)
    logits = logits.bfloat16()
    loss = task.loss(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, task.loss(logits.float(), target), rtol=0, atol=0)
    assert task.loss(logits.double(), target).dtype == torch.float64


@pytest.mark.parametrize("classes", [2, CLASSES])
def test_metrics_over_unequal_batches_agree_with_the_oracles(classes: int) -> None:
    task = Classification(name="digit", classes=classes)
    batches = [draw(rows, classes=classes) for rows in (1, 64, 17)]
    parts = [task.statistics(*batch) for batch in batches]
    metrics = task.compute({"confusion": sum(part["confusion"] for part in parts)})
    logits, target = (torch.cat(column) for column in zip(*batches, strict=True))
    labels, predicted = target[target >= 0], logits[target >= 0].argmax(1)
    assert metrics["accuracy"] == accuracy_score(labels, predicted)
    assert metrics["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    oracle = multiclass_accuracy(logits, target, classes, average="micro", ignore_index=-1)
    assert metrics["accuracy"] == pytest.approx(oracle.item())
    oracle = multiclass_f1_score(logits, target, classes, average="macro", ignore_index=-1)
    assert metrics["f1_macro"] == pytest.approx(oracle.item())


def test_f1_leaves_out_classes_that_never_occur(task: Classification) -> None:
    logits, target = draw(40)
    logits[:, 3:] = -100
    target[target >= 3] = 0
    labels, predicted = target[target >= 0], logits[target >= 0].argmax(1)
    metrics = task.compute(task.statistics(logits, target))
    assert metrics["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_confusion_counts_true_classes_in_rows(task: Classification) -> None:
    logits = F.one_hot(torch.tensor([1, 2, 2, 0]), CLASSES).float()
    confusion = task.statistics(logits, torch.tensor([1, 0, 0, -1]))["confusion"]
    expected = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    expected[1, 1], expected[0, 2] = 1, 2
    assert torch.equal(confusion, expected)


def test_metrics_of_nothing_are_nan(task: Classification) -> None:
    metrics = task.compute(task.statistics(torch.zeros(3, CLASSES), torch.full((3,), -1)))
    assert set(metrics) == set(task.metrics)
    assert all(math.isnan(value) for value in metrics.values())


def test_labelled(task: Classification) -> None:
    assert task.labelled(torch.tensor([0, -1, 6])).tolist() == [True, False, True]


def test_a_label_outside_the_classes_is_refused(task: Classification) -> None:
    with pytest.raises(IndexError):
        task.loss(torch.zeros(2, CLASSES), torch.tensor([0, CLASSES]))


def test_class_names() -> None:
    assert Classification(name="parity", classes=2).class_names == ("0", "1")
    named = Classification(name="parity", classes=2, class_names=["even", "odd"])
    assert named.class_names == ("even", "odd")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "classes=1"),
        ({"classes": 3, "class_names": ["a", "b"]}, r"class_names=\['a', 'b'\]"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classification(name="digit", **arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_is_read_back_from_the_device(task: Classification) -> None:
    logits, target = (tensor.cuda() for tensor in draw(64))
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, part = task.loss(logits, target), task.statistics(logits, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = task.statistics(logits.cpu(), target.cpu())
    torch.testing.assert_close(loss.cpu(), task.loss(logits.cpu(), target.cpu()))
    assert torch.equal(part["confusion"].cpu(), on_cpu["confusion"])
