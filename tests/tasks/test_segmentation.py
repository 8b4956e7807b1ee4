import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from mtlrun.tasks.segmentation import Segmentation, class_colours

CLASSES = 5


@pytest.fixture
def task() -> Segmentation:
    return Segmentation(name="segmentation", classes=CLASSES)


def batches(sizes, missing=0.2, seed=0):
    draws = torch.Generator().manual_seed(seed)
    for rows in sizes:
        logits = torch.randn(rows, CLASSES, 6, 7, generator=draws)
        target = torch.randint(CLASSES, (rows, 6, 7), generator=draws, dtype=torch.uint8)
        target[torch.rand(rows, 6, 7, generator=draws) < missing] = 255
        yield logits, target


def summed(task, pairs):
    total = {}
    for logits, target in pairs:
        for name, value in task.statistics(logits, target).items():
            total[name] = total.get(name, 0) + value
    return task.compute(total)


def test_metrics_are_those_of_the_whole_split_and_agree_with_torchmetrics(task):
    # Unequal batches of unlike class balance, so that means over batches would differ.
    pairs = list(batches([3, 1, 4]))
    pairs[1][1][pairs[1][1] == 2] = 255
    iou = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=255)
    accuracy = MulticlassAccuracy(CLASSES, average="micro", ignore_index=255)
    for logits, target in pairs:
        iou.update(logits, target.long())
        accuracy.update(logits, target.long())
    figures = summed(task, pairs)
    assert list(figures) == list(task.metrics)
    assert figures["mean_iou"] == pytest.approx(iou.compute().item(), abs=1e-6)
    assert figures["pixel_accuracy"] == pytest.approx(accuracy.compute().item(), abs=1e-6)
    over_batches = np.mean([summed(task, [pair])["mean_iou"] for pair in pairs])
    assert abs(figures["mean_iou"] - over_batches) > 1e-3


def test_classes_that_never_occur_are_left_out_and_false_ones_count_as_zero(task):
    target = torch.tensor([[[0, 0, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 1, 2]]])
    logits = torch.nn.functional.one_hot(predicted, CLASSES).permute(0, 3, 1, 2).float()
    figures = task.compute(task.statistics(logits, target))
    # Class 0: 2/2, class 1: 1/2, class 2: 0/1; classes 3 and 4 do not occur.
    assert figures["mean_iou"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert figures["pixel_accuracy"] == pytest.approx(0.75)
    oracle = MulticlassJaccardIndex(CLASSES, average="macro")
    assert figures["mean_iou"] == pytest.approx(oracle(predicted, target).item())


def test_loss_and_gradient_are_those_of_the_labelled_pixels_alone(task):
    logits, target = next(batches([3]))
    logits.requires_grad_()
    loss = task.loss(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)

    keep = target != 255
    picked = logits.permute(0, 2, 3, 1)[keep].detach().requires_grad_()
    expected = torch.nn.functional.cross_entropy(picked, target[keep].long())
    (expected_gradient,) = torch.autograd.grad(expected, picked)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient.permute(0, 2, 3, 1)[keep], expected_gradient)
    assert (gradient.permute(0, 2, 3, 1)[~keep] == 0).all()
    assert task.loss(logits, target.long()).item() == loss.item()


def test_nothing_labelled_gives_no_loss_no_gradient_and_no_figures(task):
    logits = torch.randn(2, CLASSES, 3, 3, requires_grad=True)
    target = torch.full((2, 3, 3), 255, dtype=torch.uint8)
    loss = task.loss(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert (gradient == 0).all()
    assert not task.labelled(target).any()
    assert all(
        math.isnan(value) for value in task.compute(task.statistics(logits, target)).values()
    )


def test_labelled_rows(task):
    target = torch.full((2, 3, 3), 255, dtype=torch.uint8)
    target[1, 2, 2] = 0
    assert task.labelled(target).tolist() == [False, True]


def test_an_untrained_network_starts_at_log_classes(task):
    logits = torch.zeros(1, CLASSES, 2, 2)
    target = torch.randint(CLASSES, (1, 2, 2))
    assert task.initial_loss == pytest.approx(task.loss(logits, target).item())
    assert (task.output_size, task.per, task.likelihood) == (CLASSES, "pixel", "classification")


def test_half_precision_logits_lose_nothing_in_the_loss(task):
    logits, target = next(batches([2]))
    half = logits.bfloat16()
    assert task.loss(half, target).dtype == torch.float32
    assert task.loss(half, target).item() == task.loss(half.float(), target).item()


def test_pictures(task):
    target = torch.tensor([[[0, 1, 2], [3, 4, 255]]], dtype=torch.uint8)
    picture = task.picture(target)
    assert picture.shape == (1, 3, 2, 3)
    assert picture.dtype == torch.uint8
    colours = {tuple(colour) for colour in picture.permute(0, 2, 3, 1).reshape(-1, 3).tolist()}
    assert len(colours) == CLASSES + 1
    assert picture[0, :, 1, 2].tolist() == [0, 0, 0]
    logits = torch.nn.functional.one_hot(target.long().clamp(max=4), CLASSES).permute(0, 3, 1, 2)
    assert (task.picture(logits.float())[0, :, :, :2] == picture[0, :, :, :2]).all()


@pytest.mark.parametrize("classes", [13, 40])
def test_class_colours_tell_classes_apart(classes):
    colours = class_colours(classes)
    apart = torch.cdist(colours.float(), colours.float())
    assert colours.shape == (classes + 1, 3)
    assert apart[~torch.eye(classes + 1, dtype=torch.bool)].min() > 10


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"classes": 1}, "classes=1"),
        ({"classes": 3, "class_names": ["a"]}, r"class_names=\['a'\]"),
        ({"classes": 3, "ignore_index": 2}, "ignore_index=2"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Segmentation(name="segmentation", **arguments)
