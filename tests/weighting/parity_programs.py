"""Parity of the methods that solve a program for the task weights."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from parity_kit import Row, aggregator_cases, close, first_step, toy2d
from scipy.optimize import lsq_linear
from torch import Tensor
from weighting_driver import Drive, build, random_problem, task_infos

from mtlrun.types import Evaluation


def nearest_in_dual_cone(vector: Tensor, jacobian: Tensor) -> Tensor:
    """By trying all sets of gradients that the answer may be orthogonal to."""
    best = torch.zeros_like(vector)
    for count in range(len(jacobian) + 1):
        for chosen in itertools.combinations(range(len(jacobian)), count):
            rows = jacobian[list(chosen)]
            candidate = vector - rows.T @ torch.linalg.lstsq(rows.T, vector).solution
            closer = (candidate - vector).norm() < (best - vector).norm()
            if closer and (jacobian @ candidate).min() > -1e-12:
                best = candidate
    return best


def torchjd_aggregator(name: str) -> Any:
    """UPGrad or DualProj of torchjd, with a solver that comes with SciPy in place of its own."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    linalg = pytest.importorskip("torchjd.linalg")
    if not hasattr(linalg, "DualConeProjector"):
        pytest.skip("this torchjd takes no other solver")

    class Projector(linalg.DualConeProjector):
        def __call__(self, U: Tensor, G: Tensor) -> Tensor:
            """For each u in U the v >= u of least v' G v."""
            root = torch.linalg.cholesky(G).T.numpy()
            lowest = U.reshape(-1, len(G)).numpy()
            zeros = np.zeros(len(G))
            found = [
                lsq_linear(root, zeros, (u, np.inf), method="bvls", tol=1e-14).x for u in lowest
            ]
            return torch.from_numpy(np.array(found)).reshape(U.shape)

    return getattr(aggregation, name)(projector=Projector())


def upgrad() -> None:
    """Exact answers, and projections found by trying everything."""
    for jacobian, losses, case in aggregator_cases():
        direction = Drive(build("upgrad", len(losses)), len(losses)).step(jacobian, losses)
        close(direction, case["exact"]["upgrad_exact_mean"]["direction"], 1e-6)
    for seed in range(5):
        jacobian, losses = random_problem(4, 6, seed)
        projections = [nearest_in_dual_cone(gradient, jacobian) for gradient in jacobian]
        direction = Drive(build("upgrad", 4), 4).step(jacobian, losses)
        close(direction, torch.stack(projections).mean(dim=0), 1e-10)


def dualproj() -> None:
    for seed in range(10):
        jacobian, losses = random_problem(4, 6, seed)
        direction = Drive(build("dualproj", 4), 4).step(jacobian, losses)
        close(direction, nearest_in_dual_cone(jacobian.mean(dim=0), jacobian), 1e-10)


def close_or_better(
    jacobian: Tensor, c: float, ours: Tensor, theirs: Tensor, tolerance: float
) -> None:
    """CAGrad's problem: ours lies in the ball, and theirs is as good or no rival."""
    mean = jacobian.mean(dim=0)
    radius = c * mean.norm()
    assert (ours - mean).norm() <= radius * (1 + 1e-9)
    if (ours - theirs).abs().max() > tolerance:
        close(ours, theirs, 1e-3)
        outside = (theirs - mean).norm() > radius * (1 + 1e-7)
        assert outside or (jacobian @ ours).min() > (jacobian @ theirs).min()


def cagrad() -> None:
    """Exact answers to 1e-6, published ones to 1e-4.

    Where theirs is further off it lies outside of the ball, or its worst task is worse than ours.
    """
    for jacobian, losses, case in aggregator_cases():
        tasks = len(losses)
        for c in (0.2, 0.4, 0.5):
            ours = Drive(build("cagrad", tasks, c=c), tasks).step(jacobian, losses)
            exact = case["exact"][f"cagrad_exact:c={c}"]["direction_mean_norescale"]
            close_or_better(jacobian, c, ours, torch.tensor(exact).double(), 1e-6)
            published = torch.tensor(case["published"][f"nash/cagrad:c={c}"]["direction"]).double()
            close_or_better(jacobian, c, ours, published * (1 + c**2) / tasks, 1e-4)
            weighting = build("cagrad", tasks, c=c, rescale="1+c^2", reduction="sum")
            rescaled = Drive(weighting, tasks).step(jacobian, losses)
            close(rescaled, ours * tasks / (1 + c**2), 1e-12)
    toy2d("cagrad", c=0.4, rescale="1+c^2", reduction="sum")


def nash_mtl() -> None:
    """On the toy the published code clips the direction to length 1."""
    first_step("nash_mtl", "nash_exact", kind="exact", tolerance=1e-6)
    first_step("nash_mtl", "nash/nashmtl:optim_niter=20", tolerance=1e-6)
    toy2d("nash_mtl", change=lambda weights: weights / math.sqrt(2))  # |d|^2 is the 2 of tasks


def fairgrad() -> None:
    for alpha in (0.5, 1.0, 2.0):
        key = f"fairgrad/fairgrad:alpha={alpha}"
        first_step("fairgrad", key, tolerance=2e-6, alpha=alpha, multiply_by_tasks=True)


def pivrg() -> None:
    """The published scores are positive where worse, our changes where better."""
    for jacobian, losses, case in aggregator_cases():
        infos = task_infos(len(losses))
        for kind, (bound, temperature) in itertools.product(
            ("zeros", "scores"), ((2.0, 10), (1.8, 100))
        ):
            known = case["published"][f"pivrg/pivrg:{kind},bound={bound},mintemp={temperature}"]
            settings = {"bound": bound, "min_temperature": temperature, "multiply_by_tasks": True}
            drive = Drive(build("pivrg", infos, **settings), len(losses))
            changes = {
                info.name: -score for info, score in zip(infos, known["scores"], strict=True)
            }
            drive.weighting.after_evaluation(Evaluation({}, {}, changes))
            close(drive.step(jacobian, losses), known["direction_after_times_T"], 2e-6)


ROWS = [
    Row("upgrad", "exact, vectors, and trying all active sets", upgrad),
    Row("dualproj", "trying all active sets", dualproj),
    Row("cagrad", "exact, and AvivNavon/nash-mtl, vectors and 2-D toy", cagrad),
    Row("nash_mtl", "exact, and AvivNavon/nash-mtl, vectors and 2-D toy", nash_mtl),
    Row("fairgrad", "OptMN-Lab/fairgrad, vectors", fairgrad),
    Row("pivrg", "jianke0604/MTLlib, vectors", pivrg),
]
