import math

import numpy as np
import pytest
import torch
from torchmetrics import MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredError

from mtlrun.tasks.depth import FARTHEST_SHOWN, Depth


@pytest.fixture
def task() -> Depth:
    return Depth(name="depth")


def batches(sizes, seed=0):
    draws = torch.Generator().manual_seed(seed)
    for rows in sizes:
        target = torch.rand(rows, 5, 6, generator=draws) * 9 + 0.5
        prediction = target.unsqueeze(1) + torch.randn(rows, 1, 5, 6, generator=draws)
        holes = torch.rand(rows, 5, 6, generator=draws)
        target[holes < 0.1] = 0
        target[holes > 0.9] = math.nan
        target[(holes > 0.5) & (holes < 0.52)] = math.inf
        target[(holes > 0.6) & (holes < 0.62)] = -1
        yield prediction, target


def test_metrics_are_those_of_all_pixels_and_agree_with_torchmetrics(task):
    pairs = list(batches([2, 5, 1]))
    pairs[1][1][:, :3] = 0  # batches with unlike numbers of labelled pixels
    total: dict[str, torch.Tensor] = {}
    for prediction, target in pairs:
        for name, value in task.statistics(prediction, target).items():
            total[name] = total.get(name, 0) + value
    figures = task.compute(total)

    predicted = torch.cat([p.squeeze(1).flatten() for p, _ in pairs])
    truth = torch.cat([t.flatten() for _, t in pairs])
    keep = truth.isfinite() & (truth > 0)
    predicted, truth = predicted[keep], truth[keep]
    for name, oracle in (
        ("absolute_error", MeanAbsoluteError()),
        ("relative_error", MeanAbsolutePercentageError()),
        ("rmse", MeanSquaredError(squared=False)),
    ):
        assert figures[name] == pytest.approx(oracle(predicted, truth).item(), rel=1e-5), name
    assert list(figures) == list(task.metrics)
    exact = np.abs(predicted.double().numpy() - truth.double().numpy()).mean()
    assert figures["absolute_error"] == pytest.approx(exact, rel=1e-12)


def test_loss_and_gradient_are_those_of_the_labelled_pixels_alone(task):
    prediction, target = next(batches([3]))
    prediction.requires_grad_()
    loss = task.loss(prediction, target)
    (gradient,) = torch.autograd.grad(loss, prediction)

    keep = target.isfinite() & (target > 0)
    picked = prediction.squeeze(1)[keep].detach().requires_grad_()
    expected = (picked - target[keep]).abs().mean()
    (expected_gradient,) = torch.autograd.grad(expected, picked)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(gradient.squeeze(1)[keep], expected_gradient)
    assert (gradient.squeeze(1)[~keep] == 0).all()


@pytest.mark.parametrize("hole", [0.0, math.nan])
def test_nothing_labelled_gives_no_loss_no_gradient_and_no_figures(task, hole):
    prediction = torch.randn(2, 1, 3, 3, requires_grad=True)
    target = torch.full((2, 3, 3), hole)
    loss = task.loss(prediction, target)
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert loss.item() == 0
    assert (gradient == 0).all()
    assert not task.labelled(target).any()
    figures = task.compute(task.statistics(prediction, target))
    assert all(math.isnan(value) for value in figures.values())


def test_labelled_rows_and_facts(task):
    target = torch.zeros(3, 2, 2)
    target[1, 0, 0] = 1.5
    target[2] = math.nan
    assert task.labelled(target).tolist() == [False, True, False]
    assert (task.output_size, task.per, task.likelihood) == (1, "pixel", "laplace")
    assert task.initial_loss is None


def test_half_precision_targets_and_predictions(task):
    prediction, target = next(batches([2]))
    half = target.half()
    assert task.loss(prediction, half).item() == task.loss(prediction, half.float()).item()
    assert task.loss(prediction.bfloat16(), target).dtype == torch.float32


def test_picture_orders_distances_and_blackens_holes(task):
    target = torch.tensor([[[0.0, 0.5, 5.0, FARTHEST_SHOWN, 50.0, math.nan]]])
    picture = task.picture(target)[0, :, 0].T
    assert picture.dtype == torch.uint8
    assert picture[0].tolist() == picture[5].tolist() == [0, 0, 0]
    brightness = picture[1:4].float().sum(1)
    assert brightness[0] > brightness[1] > brightness[2] > 0
    assert picture[3].tolist() == picture[4].tolist()
    assert picture[2].tolist() == [33, 145, 140]
    prediction = torch.tensor([[[[-1.0, 0.5, 5.0, FARTHEST_SHOWN, 50.0, 0.0]]]])
    shown = task.picture(prediction)[0, :, 0].T
    assert shown[1:5].tolist() == picture[1:5].tolist()
    assert shown[0].tolist() == shown[5].tolist() == [253, 231, 37]
