import numpy as np
import pytest
import torch
from parity_forum import ask, problem_11
from parity_stochastic import batches_of, gramian_method
from torch import Tensor
from weighting_driver import Drive, build, fallen, random_problem, task_infos

from mtlrun.weighting._constrained import pulled_min_norm_point
from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.forum import FORUM
from mtlrun.weighting.solvers import SolverError, min_norm_point

# -- problem 11 -----------------------------------------------------------------------------------


def two_units(along: float) -> tuple[Tensor, Tensor]:
    """Cosines of (1, 0) and (-a, along), both of length 1, and their products with (0, 1)."""
    across = np.sqrt(1 - along**2)
    cosines = torch.tensor([[1.0, -across], [-across, 1.0]], dtype=torch.float64)
    return cosines, torch.tensor([0.0, along], dtype=torch.float64)


@pytest.mark.parametrize("pull", [1e-3, 0.2, 0.44, 0.46, 0.5, 0.52, 0.54, 1.0, 7.0, 1e6])
def test_two_vectors(pull: float) -> None:
    """With m the second's weight: (1 - m (1 + a))^2 + pull 0.9 m; below m = pull / 0.9, that is.

    Beyond, (0.9 m)^2 has the place of the second term; in between m = pull / 0.9 itself is best.
    """
    cosines, along = two_units(0.9)
    step = 1 + np.sqrt(1 - 0.9**2)
    gentle = (step - 0.45 * pull) / step**2
    steep = step / (step**2 + 0.81)
    expected = min(max(pull / 0.9, 0.0), gentle) if steep < pull / 0.9 else steep
    assert pulled_min_norm_point(cosines, along, pull)[1].item() == pytest.approx(
        max(expected, 0.0), abs=1e-9
    )


def test_as_good_as_the_best_set_of_constraints() -> None:
    for seed in range(40):
        draws = np.random.default_rng(seed)
        rows = draws.normal(size=(3, 4))
        rows /= np.linalg.norm(rows, axis=1)[:, None]
        constraint = (seed % 3 - 1) * rows.sum(axis=0) + draws.normal(size=4)
        constraint *= 10 ** draws.uniform(-1, 1)
        length = np.linalg.norm(constraint)
        rho = 10 ** draws.uniform(-2, 0.5)
        found = pulled_min_norm_point(
            torch.from_numpy(rows @ rows.T),
            torch.from_numpy(rows @ constraint / length),
            rho * length,
        )
        best = problem_11(rows, constraint, rho)[:3]
        np.testing.assert_allclose(found.numpy() @ rows, best @ rows, atol=1e-6)


def test_products_of_float32_gradients() -> None:
    """More of them than parameters: rounding makes many of their Gramians indefinite."""
    for seed in range(20):
        rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        units = rows / rows.norm(dim=1, keepdim=True)
        cosines, along = (units @ units.T).double(), -units[:, 0].double()
        for pull in (0.01, 0.1, 1.0):
            shares = pulled_min_norm_point(cosines, along, pull)
            best = problem_11(units.double().numpy(), np.array([-pull, 0, 0]), 1.0)[:5]
            found = [part @ units.double().numpy() for part in (shares.numpy(), best)]
            np.testing.assert_allclose(*found, atol=1e-4)


def test_numbers_that_are_not_finite() -> None:
    cosines, along = two_units(0.5)
    for wrong in (torch.inf, torch.nan):
        with pytest.raises(SolverError):
            pulled_min_norm_point(cosines, along, wrong)
        with pytest.raises(SolverError):
            pulled_min_norm_point(cosines * wrong, along, 1.0)


# -- the method -----------------------------------------------------------------------------------

LOSSES = np.array([1.0, 1.0, 1.0])


def test_the_constraint_falls_as_fast_as_wanted() -> None:
    """dq . direction >= rho |dq|^2, with the part of a: equal where nu is not 0."""
    for rho, tight in ((1e-4, False), (5.0, True)):
        method = gramian_method("forum", 3, rho=rho)
        train, validation = batches_of(3, 2, 3)
        train = train + validation
        inner = np.array([0.2, 0.5, 0.9])
        weights = np.full(3, 1 / 3)
        by_place = torch.from_numpy(weights @ train)
        fell = LOSSES - inner
        by_logits = torch.from_numpy(weights * (fell - weights @ fell))
        direction = ask(method, train, validation, LOSSES, inner, 0)
        step = method.adam.first / 0.1  # nu times the part of dq by a
        wanted = rho * (by_place @ by_place + by_logits @ by_logits).item()
        reached = (by_place @ direction + by_logits @ step).item()
        assert reached == pytest.approx(wanted) if tight else reached > 2 * wanted


def test_a_constraint_that_falls_anyway_changes_nothing() -> None:
    train, validation = batches_of(3, 2, 3)
    train = train + 4 * validation
    method = gramian_method("forum", 3, rho=1e-4)
    direction = ask(method, train, validation, LOSSES, LOSSES / 2, 0)
    unit = torch.from_numpy(validation / np.linalg.norm(validation, axis=1)[:, None])
    torch.testing.assert_close(direction, min_norm_point(unit @ unit.T) @ unit)
    assert not method.logits.any()


def test_a_stationary_constraint_leaves_the_validation_rows() -> None:
    """Its gradient is 0 but for rounding."""
    train, validation = batches_of(3, 2, 3)
    train[2] = -train[0] - train[1]
    method = gramian_method("forum", 3)
    direction = ask(method, train, validation, LOSSES, LOSSES / 2, 0)
    unit = torch.from_numpy(validation / np.linalg.norm(validation, axis=1)[:, None])
    torch.testing.assert_close(direction, min_norm_point(unit @ unit.T) @ unit)


def test_a_task_that_inner_steps_lower_more_loses_weight() -> None:
    train, validation = batches_of(3, 2, 3)
    method = gramian_method("forum", 3, rho=2.0, learning_rate=0.01)
    for step in range(5):
        ask(method, train, validation, LOSSES, np.array([0.1, 0.5, 0.9]), step)
    assert method.logits[0].item() == pytest.approx(-0.05, abs=1e-3)
    assert method.logits[2].item() == pytest.approx(0.05, abs=1e-3)


def test_lengths_of_validation_gradients_do_not_matter() -> None:
    train, validation = batches_of(3, 2, 4)
    inner = np.array([0.2, 0.5, 0.9])
    expected = ask(gramian_method("forum", 3), train, validation, LOSSES, inner, 0)
    for scales in ([1e-5, 1.0, 1e5], [1e6] * 3):
        scaled = np.array(scales)[:, None] * validation
        got = ask(gramian_method("forum", 3), train, scaled, LOSSES, inner, 0)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_averages_more_slowly_with_the_epochs() -> None:
    train, validation = batches_of(3, 2, 4)
    fresh = gramian_method("forum", 3)
    ask(fresh, train, validation, LOSSES, LOSSES / 2, 0)
    later = gramian_method("forum", 3)
    ask(later, train, validation, LOSSES, LOSSES / 2, 15)  # 16^(-3/4) = 1/8
    torch.testing.assert_close(later.shares, 1 / 3 + (fresh.shares - 1 / 3) / 8)


def test_absent_tasks_keep_what_they_have() -> None:
    jacobian, losses = random_problem(3, 20, 1)
    drive = Drive(method := build("forum", 3, rho=2.0), 3)
    for _ in range(3):
        drive.step(jacobian, losses)
    logits, shares = method.logits.clone(), method.shares.clone()
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2), epoch=4)
    assert method.logits[1] == logits[1]
    assert bool((method.logits != logits)[[0, 2]].all())
    assert method.shares[1] == shares[1]
    assert method.shares.sum().item() == pytest.approx(1)


def test_inner_steps_that_diverge_change_no_state() -> None:
    jacobian, losses = random_problem(3, 20, 1)
    drive = Drive(method := build("forum", 3), 3)
    drive.step(jacobian, losses)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    rows = jacobian.repeat(2, 1)
    for wrong in (torch.inf, torch.nan):
        method.inner_losses = fallen(losses)
        method.inner_losses[1] = wrong
        with pytest.raises(SolverError, match="inner_learning_rate is too large"):
            method.weights(rows @ rows.T, losses.repeat(2))
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_what_it_asks_of_the_engine() -> None:
    method = FORUM(inner_steps=7, inner_learning_rate=0.2, tasks=task_infos(3))
    assert (method.batches, method.inner_steps, method.inner_learning_rate) == (2, 7, 0.2)
    assert method.heads_in_rows
    assert not method.lookahead
    method.logits.copy_(torch.tensor([0.0, 1.0, 2.0]))
    method.begin_step(StepInfo(0, 0, 0, (0, 2)))
    expected = torch.tensor([0.0, 2.0], dtype=torch.float64).softmax(dim=0)
    torch.testing.assert_close(method.lookahead_weights(), expected)


def test_wrong_settings() -> None:
    for setting in ("rho", "inner_learning_rate", "learning_rate"):
        with pytest.raises(ValueError, match=f"{setting}=0: must be"):
            FORUM(**{setting: 0}, tasks=task_infos(2))
    for steps in (0, 2.5):
        with pytest.raises(ValueError, match=f"inner_steps={steps}: must be a whole number"):
            FORUM(inner_steps=steps, tasks=task_infos(2))
