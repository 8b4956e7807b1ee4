import numpy as np
import pytest
import torch
from parity_stochastic import batches_of, best_shares, gramian_method, show
from weighting_driver import task_infos

from mtlrun.weighting.sdmgrad import SDMGrad


def test_the_first_batch_gives_the_direction_and_the_others_the_weights() -> None:
    first, second, third = batches_of(3, 3, 0)
    expected = show(gramian_method("sdmgrad", 3), [first, second, third], 0)
    got = show(gramian_method("sdmgrad", 3), [7 * second, second, third], 0)
    torch.testing.assert_close(got, expected)
    assert torch.equal(got[3:], torch.zeros(6, dtype=torch.float64))
    other = show(gramian_method("sdmgrad", 3, step_size=0.1), [first, second, third], 0)
    changed = show(gramian_method("sdmgrad", 3, step_size=0.1), [first, second, first], 0)
    assert not torch.allclose(other, changed)


@pytest.mark.parametrize("pull", [0.0, 0.3, 5.0])
def test_small_steps_solve_the_problem_when_batches_are_the_same(pull: float) -> None:
    (rows,) = batches_of(4, 1, 3)
    settings = {"pull": pull, "step_size": 0.1, "steps": 1000}
    method = gramian_method("sdmgrad", 4, **settings)
    got = show(method, [rows, rows, rows], 0)[:4]
    expected = (best_shares(rows, pull) + pull / 4) / (1 + pull)
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_weights_go_on_from_step_to_step() -> None:
    batches = batches_of(3, 3, 1)
    settings = {"step_size": 0.02, "momentum": 0.0}
    short = gramian_method("sdmgrad", 3, steps=5, **settings)
    show(short, batches, 0)
    expected = show(gramian_method("sdmgrad", 3, steps=10, **settings), batches, 0)
    torch.testing.assert_close(show(short, batches, 1), expected)


def test_a_large_pull_gives_the_mean() -> None:
    weights = show(gramian_method("sdmgrad", 3, pull=1e6), batches_of(3, 3, 0), 0)
    torch.testing.assert_close(weights[:3], torch.full((3,), 1 / 3).double(), rtol=0, atol=1e-5)


def test_reduction_and_sampling() -> None:
    batches = batches_of(3, 3, 2)
    mean = show(gramian_method("sdmgrad", 3), batches, 0)
    total = show(gramian_method("sdmgrad", 3, reduction="sum"), batches, 0)
    torch.testing.assert_close(total, 3 * mean)
    last = show(gramian_method("sdmgrad", 3, sampling="last"), batches, 0)
    alone = show(gramian_method("sdmgrad", 3), [batches[2]] * 3, 0)
    torch.testing.assert_close(last, alone.roll(6))


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_batches_that_contradict_each_other_or_have_no_gradient(sign: float) -> None:
    first, second, _ = batches_of(3, 3, 0)
    for scale in (1e-6, 1.0, 1e6):
        batches = [scale * first, scale * second, sign * scale * second]
        weights = show(gramian_method("sdmgrad", 3), batches, 0)
        assert weights[:3].sum().item() == pytest.approx(1)


def test_beside_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.SDMGradWeighting(lr=0.5, momentum=0.5, n_iter=7, lambda_=0.4)
    method = gramian_method("sdmgrad", 4, pull=0.4, steps=7, step_size=0.5)
    for step in range(4):
        common, *noise = batches_of(4, 4, step)
        batches = [common + 0.3 * part for part in noise]
        expected = theirs(torch.from_numpy(batches[1] @ batches[2].T))
        got = show(method, batches, step)[:4]
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)  # theirs adds 1e-8 to s^2


def test_wrong_settings() -> None:
    for settings, message in (
        ({"pull": -1}, "pull=-1: must be a number, 0 or more"),
        ({"steps": 0}, "steps=0: must be"),
        ({"step_size": 0.0}, "step_size=0.0: must be"),
        ({"momentum": 1.0}, "momentum=1.0: must be 0 or more and less than 1"),
        ({"sampling": "two"}, "sampling='two': choose one of three, last"),
        ({"reduction": "max"}, "reduction='max': choose one of sum, mean"),
    ):
        with pytest.raises(ValueError, match=message):
            SDMGrad(**settings, tasks=task_infos(2))
