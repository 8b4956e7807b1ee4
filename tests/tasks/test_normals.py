import math

import numpy as np
import pytest
import torch

from mtlrun.tasks.normals import BIN_DEGREES, SurfaceNormals, histogram_median, known_normals


@pytest.fixture
def task() -> SurfaceNormals:
    return SurfaceNormals(name="normals")


def batches(sizes, seed=0, noise=0.5):
    draws = torch.Generator().manual_seed(seed)
    for rows in sizes:
        target = torch.nn.functional.normalize(torch.randn(rows, 3, 5, 6, generator=draws), dim=1)
        prediction = 3 * (target + noise * torch.randn(rows, 3, 5, 6, generator=draws))
        holes = torch.rand(rows, 5, 6, generator=draws).unsqueeze(1).expand_as(target)
        target = target.masked_fill(holes < 0.1, 0)
        target[:, :1].masked_fill_(holes[:, :1] > 0.9, math.nan)
        yield prediction, target


def numpy_angles(prediction, target):
    p, t = (x.double().movedim(1, -1).reshape(-1, 3).numpy() for x in (prediction, target))
    keep = np.isfinite(t).all(1) & (t != 0).any(1)
    p, t = p[keep], t[keep]
    cosine = (p * t).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(t, axis=1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def figures_of(task, pairs):
    total: dict[str, torch.Tensor] = {}
    for prediction, target in pairs:
        for name, value in task.statistics(prediction, target).items():
            total[name] = total.get(name, 0) + value
    return task.compute(total)


def test_metrics_are_those_of_all_pixels(task):
    pairs = list(batches([2, 5, 1]))
    pairs[1][1][:, :, :3] = 0
    figures = figures_of(task, pairs)
    angle = np.concatenate([numpy_angles(*pair) for pair in pairs])
    assert list(figures) == list(task.metrics)
    assert figures["mean_angle"] == pytest.approx(angle.mean(), rel=1e-5)
    assert figures["median_angle"] == pytest.approx(np.median(angle), abs=BIN_DEGREES)
    for threshold in (11.25, 22.5, 30):
        assert figures[f"within_{threshold:g}"] == pytest.approx((angle < threshold).mean())


@pytest.mark.parametrize("noise", [1e-5, 1e-3])
def test_small_angles_are_not_lost_in_rounding(task, noise):
    pairs = list(batches([8], noise=noise))
    angle = numpy_angles(*pairs[0])
    figures = figures_of(task, pairs)
    assert figures["mean_angle"] == pytest.approx(angle.mean(), rel=0.01, abs=2e-5)


@pytest.mark.parametrize(
    "angles", [[3.0], [3.0, 90.0], [1.0, 2.0, 150.0], [0.0], [180.0], [5.001, 5.002, 5.003, 5.009]]
)
def test_the_median_is_within_one_bin_of_the_exact_one(angles):
    place = (torch.tensor(angles) / BIN_DEGREES).long().clamp(max=17999)
    histogram = torch.bincount(place, minlength=18000)
    assert abs(histogram_median(histogram) - np.median(angles)) <= BIN_DEGREES + 1e-6


def test_the_median_of_many_even_angles_is_closer_than_a_bin():
    angles = torch.linspace(10, 20, 100_001, dtype=torch.float64)
    histogram = torch.bincount((angles / BIN_DEGREES).long(), minlength=18000)
    assert histogram_median(histogram) == pytest.approx(15, abs=BIN_DEGREES / 10)


def test_loss_and_gradient_are_those_of_the_labelled_pixels_alone(task):
    prediction, target = next(batches([3]))
    prediction.requires_grad_()
    loss = task.loss(prediction, target)
    (gradient,) = torch.autograd.grad(loss, prediction)

    keep = known_normals(target)[1]
    picked = prediction.movedim(1, -1)[keep].detach().requires_grad_()
    cosine = torch.nn.functional.cosine_similarity(picked, target.movedim(1, -1)[keep], dim=1)
    expected = (1 - cosine).mean()
    (expected_gradient,) = torch.autograd.grad(expected, picked)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient.movedim(1, -1)[keep], expected_gradient)
    assert (gradient.movedim(1, -1)[~keep] == 0).all()


@pytest.mark.parametrize("hole", [0.0, math.nan])
def test_nothing_labelled_gives_no_loss_no_gradient_and_no_figures(task, hole):
    prediction = torch.randn(2, 3, 4, 4, requires_grad=True)
    target = torch.full((2, 3, 4, 4), hole)
    loss = task.loss(prediction, target)
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert loss.item() == 0
    assert (gradient == 0).all()
    assert not task.labelled(target).any()
    figures = task.compute(task.statistics(prediction, target))
    assert all(math.isnan(value) for value in figures.values())


def test_a_zero_prediction_has_a_finite_gradient(task):
    prediction = torch.zeros(1, 3, 1, 1, requires_grad=True)
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    loss = task.loss(prediction, target)
    loss.backward()
    assert loss.item() == 1
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_length_does_not_matter_and_opposite_is_2(task):
    normal = torch.tensor([0.0, 0.6, 0.8]).view(1, 3, 1, 1)
    assert task.loss(5 * normal, normal / 2).item() == pytest.approx(0, abs=1e-6)
    assert task.loss(-normal, normal).item() == pytest.approx(2)
    assert (task.output_size, task.per, task.likelihood) == (3, "pixel", "laplace")


def test_labelled_rows(task):
    target = torch.zeros(3, 3, 2, 2)
    target[1, 2, 0, 0] = 1
    target[2, :, 0, 0] = torch.tensor([math.nan, 0, 1])
    assert task.labelled(target).tolist() == [False, True, False]


def test_pictures(task):
    target = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).T.view(1, 3, 1, 3)
    picture = task.picture(target)[0, :, 0].T
    assert picture.dtype == torch.uint8
    assert picture.tolist() == [[128, 128, 255], [0, 128, 128], [0, 0, 0]]
    assert (picture == task.picture(7 * target)[0, :, 0].T).all()
