"""Parity of methods that average gradients or draw several batches a step.

Published code of these draws batches of its own, so most figures here are worked out in NumPy from
the papers' recursions, on gradients that change from step to step, or by autograd.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from parity_kit import Row, aggregator_cases, close
from scipy.optimize import brentq, nnls
from torch import Tensor
from weighting_driver import Drive, build, random_problem

from mtlrun.weighting.base import GramianWeighting, StepInfo

Array = NDArray[np.float64]
STEPS = 4


def nearest_on_simplex(values: Array) -> Array:
    """By bisection for the number that is taken off, unlike the sort under test."""

    def excess(offset: float) -> float:
        return float(np.maximum(values - offset, 0).sum() - 1)

    offset = brentq(excess, values.max() - 1.1, values.max(), xtol=1e-15, rtol=1e-14)
    return np.maximum(values - offset, 0)


def batches_of(tasks: int, count: int, step: int) -> list[Array]:
    """Independent gradients, [T, P] each, of about length 1."""
    return [random_problem(tasks, 6, 100 * step + batch)[0].numpy() / 2.5 for batch in range(count)]


def show(method: GramianWeighting, batches: list[Array], step: int, rate: float = 0.0) -> Tensor:
    """The method's weights for the rows of several batches."""
    rows = torch.from_numpy(np.concatenate(batches))
    tasks = len(batches[0])
    method.begin_step(StepInfo(0, 0, step, tuple(range(tasks)), rate))
    with torch.no_grad():
        return method.weights(rows @ rows.T, torch.ones(len(rows), dtype=torch.float64))


def gramian_method(name: str, tasks: int, **changes: object) -> GramianWeighting:
    method = build(name, tasks, **changes)
    assert isinstance(method, GramianWeighting)
    return method


def db_mtl() -> None:
    """Worked out by hand: rows of length 3 and 1 with losses 2 and 1/2, beta 1/2 / k.

    Log gradients have lengths 1.5 and 2. Averages are half of these, then a quarter of that and
    three quarters of them again: 0.75 and 1, then 1.3125 and 1.75. The longest sets the length.
    Then NumPy, over losses and gradients that change.
    """
    jacobian = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    losses = torch.tensor([2.0, 0.5], dtype=torch.float64)
    drive = Drive(build("db_mtl", 2, beta=0.5, decay=1.0), 2)
    for length in (1.0, 1.75):
        close(drive.step(jacobian, losses), [length, length], 1e-12)
        close(drive.weighting.head_weights, [0.5, 2.0], 1e-12)

    drive = Drive(build("db_mtl", 4), 4)
    average = np.zeros((4, 6))
    for step in range(STEPS):
        (rows,) = batches_of(4, 1, step)
        now = np.array([1e-3, 0.2, 3.0, 500.0]) / (step + 1)
        average = 0.9 * average + 0.1 * rows / now[:, None]
        lengths = np.linalg.norm(average, axis=1)
        expected = (lengths.max() / lengths) @ average
        got = drive.step(torch.from_numpy(rows), torch.from_numpy(now))
        torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-9, atol=0)


def moco() -> None:
    """The recursion in NumPy, the ICLR code's too (twice the step, no rho, decays)."""
    for changes, beta_decay, gamma, gamma_decay, rho in (
        ({}, 0.0, 0.1, 0.0, 0.1),
        ({"gamma": 0.2, "rho": 0.0, "beta_decay": 0.5, "gamma_decay": 0.5}, 0.5, 0.2, 0.5, 0.0),
    ):
        drive = Drive(build("moco", 3, **changes), 3)
        average, shares = np.zeros((3, 6)), np.ones(3) / 3
        for step in range(STEPS):
            (rows,) = batches_of(3, 1, step)
            rows = rows * [[3.0], [1.0], [30.0]]  # so that a share reaches 0
            count = step + 1
            average -= 0.1 / count**beta_decay * (average - rows)
            gradient = average @ (average.T @ shares) + rho * shares
            shares = nearest_on_simplex(shares - gamma / count**gamma_decay * gradient)
            got = drive.step(torch.from_numpy(rows), torch.ones(3, dtype=torch.float64))
            close(got, shares @ average, 1e-10)
        assert shares.min() == 0 < np.median(shares)


def modo() -> None:
    """The recursion in NumPy; the authors' benchmark code has no half."""
    for reduction, factor in (("mean", 0.5), ("sum", 1.0)):
        method = gramian_method("modo", 3, reduction=reduction)
        shares = np.ones(3) / 3
        for step in range(STEPS):
            first, second = batches_of(3, 2, step)
            gradient = first @ (second.T @ shares) + 0.1 * shares
            shares = nearest_on_simplex(shares - 0.1 * gradient)
            got = show(method, [first, second], step)
            close(got, factor * np.concatenate([shares, shares]), 1e-12)


def best_shares(rows: Array, pull: float) -> Array:
    """The w on the simplex of least |w' G + pull g_0|: w = x / sum x of a least squares problem.

    With g_i + pull g_0 for rows, w' G + pull g_0 is a convex combination of rows, so this is their
    point of least norm, which the x >= 0 with least |x' rows|^2 + (1 - sum x)^2 points to.
    """
    rows = rows + pull * rows.mean(axis=0)
    solution, _ = nnls(np.vstack([rows.T, np.ones(len(rows))]), np.eye(rows.shape[1] + 1)[-1])
    return solution / solution.sum()


def sdmgrad() -> None:
    """The official solver's figures, and the exact solution where it converges.

    The official code sees one batch in all places and multiplies by T. The driver's third batch is
    1.2 times the gradients shown, which scales the direction only.
    """
    for jacobian, losses, case in aggregator_cases():
        for pull, steps in ((0.3, 20), (0.6, 20), (0.3, 2000)):
            settings = {"pull": pull, "steps": steps, "sampling": "last", "reduction": "sum"}
            drive = Drive(build("sdmgrad", len(losses), **settings), len(losses))
            published = case["published"][f"sdmgrad/sdmgrad:lamda={pull},niter={steps}"]
            expected = 1.2 * torch.tensor(published["direction"], dtype=torch.float64)
            # once the weights do not end in a corner, and the official 0.0001 under the root shows
            tolerance = 1e-3 if (pull, steps) == (0.3, 20) else 1e-6
            close(drive.step(jacobian, losses), expected, tolerance)
        tasks, rows = len(losses), jacobian.numpy()
        method = gramian_method("sdmgrad", tasks, step_size=0.2, steps=2000)
        weights = show(method, [rows, rows, rows], 0)
        close(weights[:tasks], (best_shares(rows, 0.3) + 0.3 / tasks) / 1.3, 1e-6)
        close(weights[tasks:], torch.zeros(2 * tasks), 0)


def hypergradients(
    losses: Callable[[Tensor], Tensor], others: Callable[[Tensor], Tensor], rate: float
) -> tuple[Array, Array, Array]:
    """By autograd through the step: gradients of both batches [T, P], and hypergradients [T, T]."""
    start = torch.linspace(-1, 1, 6, dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    rows = torch.autograd.functional.jacobian(losses, start)
    moved = start - rate * logits.softmax(dim=0) @ rows
    after = torch.autograd.functional.jacobian(others, moved.detach())
    hyper = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in others(moved)]
    return rows.numpy(), after.numpy(), torch.stack(hyper).numpy()


def moml() -> None:
    """Hypergradients by autograd, their least norm by search, and Adam's first step by its sign.

    Adam's first step moves each logit by the learning rate, against the sign of its gradient.
    """
    draws = torch.Generator().manual_seed(3)
    first, second = (torch.randn(3, 6, generator=draws, dtype=torch.float64) for _ in range(2))
    rows, after, hyper = hypergradients(
        lambda at: (first * at).sin().sum(dim=1).square(),
        lambda at: (first * at + second / 4).sin().sum(dim=1).square(),
        0.05,
    )
    for normalisation in ("l2", "none"):
        method = gramian_method("moml", 3, normalisation=normalisation, learning_rate=0.01)
        before = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
        method.logits.copy_(before)
        combined = hyper
        if normalisation == "l2":
            combined = hyper / np.linalg.norm(hyper, axis=1, keepdims=True)
        grid = np.linspace(0, 1, 201)
        shares = np.array([(a, b, 1 - a - b) for a in grid for b in grid if a + b <= 1 + 1e-12])
        candidates = shares @ combined
        gradient = candidates[np.square(candidates).sum(axis=1).argmin()]
        assert np.abs(gradient).min() > 0.4 * np.abs(gradient).max()  # the signs are certain
        expected = (before - 0.01 * torch.from_numpy(np.sign(gradient))).softmax(dim=0)
        close(show(method, [rows, after], 0, rate=0.05), expected, 1e-5)
        found = method.adam.first.numpy() / (1 - 0.9)  # the gradient itself, as exact as the search
        np.testing.assert_allclose(found, gradient, rtol=0, atol=0.02 * np.abs(gradient).max())


ROWS = [
    Row("db_mtl", "by hand, and the recursion in NumPy", db_mtl),
    Row("moco", "the recursion in NumPy, of both of the authors' codes", moco),
    Row("modo", "the recursion in NumPy, of both of the authors' codes", modo),
    Row("sdmgrad", "OptMN-Lab/sdmgrad, vectors; exact solution of its problem", sdmgrad),
    Row("moml", "hypergradients by autograd, least norm by search", moml),
]
