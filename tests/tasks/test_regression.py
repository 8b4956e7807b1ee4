import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.regression import r2_score as torchmetrics_r2

from mtlrun.tasks.base import Statistics
from mtlrun.tasks.regression import Regression

LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


def draw(rows: int, outputs: int, missing: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions and targets of which a share is missing; [N] targets where outputs is 0."""
    draws = torch.Generator().manual_seed(100 * rows + 10 * outputs + seed)
    shape = (rows, outputs) if outputs else (rows,)
    target = 2 * torch.randn(shape, generator=draws) + 5
    prediction = target.view(rows, -1) + torch.randn(rows, max(outputs, 1), generator=draws)
    target[torch.rand(shape, generator=draws) < missing] = torch.nan
    return prediction, target


def total(parts: list[Statistics]) -> Statistics:
    return {name: sum(part[name] for part in parts) for name in parts[0]}


@pytest.mark.parametrize("outputs", [0, 1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_the_mean_over_labelled_values(loss: str, outputs: int) -> None:
    task = Regression(name="ink", outputs=max(outputs, 1), loss=loss)
    prediction, target = draw(40, outputs)
    flat = target.view(40, -1)
    known = ~flat.isnan()
    expected = LOSSES[loss](prediction[known], flat[known])
    torch.testing.assert_close(task.loss(prediction, target), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_bitwise_that_of_the_batch_without_unlabelled_rows(loss: str) -> None:
    task = Regression(name="ink", loss=loss)
    prediction, target = draw(64, 0)
    rows = ~target.isnan()
    whole = prediction.clone().requires_grad_()
    task.loss(whole, target).backward()
    part = prediction[rows].clone().requires_grad_()
    LOSSES[loss](part[:, 0], target[rows]).backward()
    assert 0 < rows.sum() < 64
    assert torch.equal(whole.grad[rows], part.grad)
    assert torch.equal(whole.grad[~rows], torch.zeros_like(whole.grad[~rows]))


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_labelled_gives_zero_loss_and_gradient(loss: str) -> None:
    prediction = torch.randn(4, 1, requires_grad=True)
    value = Regression(name="ink", loss=loss).loss(prediction, torch.full((4,), torch.nan))
    value.backward()
    assert value.item() == 0
    assert torch.equal(prediction.grad, torch.zeros(4, 1))


def test_huber_turns_linear_at_delta() -> None:
    task = Regression(name="ink", loss="huber", delta=0.5)
    value = task.loss(torch.tensor([[0.2], [3.0]]), torch.zeros(2))
    assert value.item() == pytest.approx((0.5 * 0.2**2 + 0.5 * (3 - 0.25)) / 2)


def test_loss_of_bfloat16_predictions_is_computed_in_float32() -> None:
    prediction, target = draw(40, 0)
    assert Regression(name="ink").loss(prediction.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("outputs", [0, 1, 3])
def test_metrics_over_unequal_batches_agree_with_the_oracles(outputs: int) -> None:
    task = Regression(name="ink", outputs=max(outputs, 1))
    batches = [draw(rows, outputs, missing=0) for rows in (1, 64, 17)]
    metrics = task.compute(total([task.statistics(*batch) for batch in batches]))
    prediction, target = (torch.cat(column).double() for column in zip(*batches, strict=True))
    target = target.view(len(target), -1)
    assert metrics["r2"] == pytest.approx(r2_score(target, prediction), rel=1e-9)
    assert metrics["r2"] == pytest.approx(torchmetrics_r2(prediction, target).item(), rel=1e-9)
    flat = (target.flatten(), prediction.flatten())
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(*flat), rel=1e-9)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(*flat), rel=1e-9)


def test_missing_values_do_not_enter_the_metrics() -> None:
    task = Regression(name="joints", outputs=3)
    batches = [draw(rows, 3, seed=1) for rows in (30, 7)]
    metrics = task.compute(total([task.statistics(*batch) for batch in batches]))
    prediction, target = (torch.cat(column).double() for column in zip(*batches, strict=True))
    known = ~target.isnan()
    r2 = [r2_score(target[k, j], prediction[k, j]) for j in range(3) for k in [known[:, j]]]
    assert metrics["r2"] == pytest.approx(sum(r2) / 3)
    flat = (target[known], prediction[known])
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(*flat))
    assert metrics["mae"] == pytest.approx(mean_absolute_error(*flat))


@given(offset=st.floats(-1e4, 1e4), spread=st.floats(0.01, 100))
def test_r2_does_not_lose_its_figures_to_a_large_mean(offset: float, spread: float) -> None:
    task = Regression(name="ink")
    draws = torch.Generator().manual_seed(0)
    target = offset + spread * torch.randn(200, generator=draws, dtype=torch.float64)
    prediction = target + 0.3 * spread * torch.randn(200, generator=draws, dtype=torch.float64)
    r2 = task.compute(task.statistics(prediction[:, None], target))["r2"]
    assert r2 == pytest.approx(r2_score(target, prediction), abs=1e-3)


def test_r2_far_from_0_is_exact_with_a_center() -> None:
    draws = torch.Generator().manual_seed(0)
    target = 1e7 + torch.randn(500, generator=draws, dtype=torch.float64)
    prediction = target - 1e7 + 0.5 * torch.randn(500, generator=draws, dtype=torch.float64)
    task = Regression(name="time", center=1e7 + 0.1, scale=2.0)
    metrics = task.compute(task.statistics((prediction[:, None] - 0.1) / 2, target))
    assert metrics["r2"] == pytest.approx(r2_score(target, prediction + 1e7), abs=1e-7)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(target, prediction + 1e7), abs=1e-7)


@pytest.mark.parametrize("target", [[7.3], [0.1] * 10, [1e6 + 0.1] * 1000, [0.0] * 3])
def test_r2_of_equal_labels_is_nan(target: list[float]) -> None:
    task = Regression(name="ink")
    labels = torch.tensor(target)
    metrics = task.compute(task.statistics(labels[:, None] + 1, labels))
    assert math.isnan(metrics["r2"])
    assert metrics["rmse"] == pytest.approx(1, abs=0.1)  # float32 near 1e6 has steps of 0.06


def test_r2_is_the_mean_over_the_outputs_where_it_is_defined() -> None:
    task = Regression(name="joints", outputs=2)
    target = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert task.compute(task.statistics(target, target))["r2"] == 1


def test_metrics_of_nothing_are_nan() -> None:
    task = Regression(name="ink")
    metrics = task.compute(task.statistics(torch.zeros(3, 1), torch.full((3,), torch.nan)))
    assert set(metrics) == set(task.metrics)
    assert all(math.isnan(value) for value in metrics.values())


STANDARDISED = [(1998.0, 10.5), ([3.0, -20.0, 1e4], [0.1, 5.0, 300.0])]


@pytest.mark.parametrize(("center", "scale"), STANDARDISED)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_on_the_standardised_scale(
    loss: str, center: float | list[float], scale: float | list[float]
) -> None:
    task = Regression(name="joints", outputs=3, loss=loss, center=center, scale=scale)
    prediction, standard = draw(40, 3)
    standard = standard - 5
    target = (standard.double() * torch.tensor(scale) + torch.tensor(center)).float()
    known = ~target.isnan()
    expected = LOSSES[loss](prediction[known], standard[known])
    torch.testing.assert_close(task.loss(prediction, target), expected, rtol=1e-4, atol=0)
    assert task.loss(prediction.bfloat16(), target).dtype == torch.float32


def test_huber_delta_is_on_the_standardised_scale() -> None:
    task = Regression(name="ink", loss="huber", delta=0.5, center=100, scale=10)
    value = task.loss(torch.tensor([[0.2], [3.0]]), torch.full((2,), 100.0))
    assert value.item() == pytest.approx((0.5 * 0.2**2 + 0.5 * (3 - 0.25)) / 2)


@pytest.mark.parametrize(("center", "scale"), STANDARDISED)
def test_metrics_are_in_the_targets_units_and_r2_does_not_change(
    center: float | list[float], scale: float | list[float]
) -> None:
    prediction, target = draw(40, 3)
    scales, centers = (torch.tensor(value, dtype=torch.float64) for value in (scale, center))
    target = (target.double() - 5) * scales + centers
    prediction = prediction - 5
    task = Regression(name="joints", outputs=3, center=center, scale=scale)
    plain = Regression(name="joints", outputs=3)
    expected = plain.compute(plain.statistics(prediction.double() * scales + centers, target))
    assert 0.5 < expected["r2"] < 1
    assert task.compute(task.statistics(prediction, target)) == pytest.approx(expected, rel=1e-12)


def test_gradient_of_standardised_values_leaves_missing_ones_out_exactly() -> None:
    task = Regression(name="ink", center=5.0, scale=2.0)
    prediction, target = draw(64, 0)
    rows = ~target.isnan()
    whole = prediction.clone().requires_grad_()
    task.loss(whole, target).backward()
    part = prediction[rows].clone().requires_grad_()
    task.loss(part, target[rows]).backward()
    assert torch.equal(whole.grad[rows], part.grad)
    assert torch.equal(whole.grad[~rows], torch.zeros_like(whole.grad[~rows]))


def test_constants_made_in_an_evaluation_serve_in_training() -> None:
    task = Regression(name="joints", outputs=2, center=[1.0, 2.0], scale=[2.0, 4.0])
    prediction, target = torch.zeros(1, 2, requires_grad=True), torch.tensor([[5.0, 2.0]])
    with torch.inference_mode():
        task.statistics(prediction, target)
    task.loss(prediction, target).backward()
    assert torch.equal(prediction.grad, torch.tensor([[-2.0, 0.0]]))


def test_labelled() -> None:
    nan = torch.nan
    assert Regression(name="ink").labelled(torch.tensor([0.0, nan])).tolist() == [True, False]
    rows = torch.tensor([[0.0, nan], [nan, nan], [1.0, 2.0]])
    assert Regression(name="joints", outputs=2).labelled(rows).tolist() == [True, False, True]


def test_likelihood_follows_the_loss() -> None:
    likelihoods = {loss: Regression(name="ink", loss=loss).likelihood for loss in LOSSES}
    assert likelihoods == {"mse": "gaussian", "l1": "laplace", "huber": "gaussian"}


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ink: .*\[4, 1\] .*\[4, 2\]"):
        Regression(name="ink").loss(torch.zeros(4, 1), torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": 0}, "outputs=0"),
        ({"loss": "mean"}, "loss='mean': choose one of mse, l1, huber"),
        ({"delta": 2.0}, "delta=2.0: only loss=huber"),
        ({"loss": "huber", "delta": 0.0}, "delta=0.0"),
        ({"scale": 0.0}, "scale=0.0: must be above 0"),
        ({"scale": math.nan}, "scale=nan: must be above 0"),
        ({"outputs": 2, "scale": [1.0, -1.0]}, r"scale=\[1.0, -1.0\]: must be above 0"),
        ({"center": math.inf}, "center=inf: must be finite"),
        ({"outputs": 3, "center": [0.0, 1.0]}, r"center=\[0.0, 1.0\]: .* for each of 3"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regression(name="ink", **arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_is_read_back_from_the_device() -> None:
    task = Regression(name="ink")
    prediction, target = (tensor.cuda() for tensor in draw(64, 0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, part = task.loss(prediction, target), task.statistics(prediction, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.cpu(), task.loss(prediction.cpu(), target.cpu()))
    on_cpu = task.statistics(prediction.cpu(), target.cpu())
    torch.testing.assert_close({name: value.cpu() for name, value in part.items()}, on_cpu)
