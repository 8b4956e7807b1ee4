"""Parity of the methods in closed form: IMTL, GradVac, Aligned-MTL, ConFIG, NTKMTL, DiBS-MTL."""

import random

import numpy as np
import torch
from parity_kit import Row, aggregator_cases, close, first_step, toy2d
from weighting_driver import Drive, build
from weighting_toys import toy2d_reference, walk_toy2d

from mtlrun.weighting.gradvac import vaccinate
from mtlrun.weighting.imtl_g import impartial_weights


def imtl_g() -> None:
    """The last case is nearly singular, and published figures are float32.

    At the toy's (0, 0) the closed form is singular: gradients are parallel. There published code
    leaves the axis by rounding and comes back to it, by some 0.003 in between; ours stays on it.
    """
    first_step("imtl_g", "nash/imtl", tolerance=1e-5)
    first_step("imtl_g", "config/config_repo_imtlg", tolerance=1e-5)
    toy2d("imtl_g", only=[(-8.5, 7.5), (9.0, 9.0)])
    found = walk_toy2d(
        [(0.0, 0.0)],
        [lambda jacobian, _: impartial_weights(jacobian @ jacobian.T) @ jacobian],
        2000,
    )
    for step, position in toy2d_reference("imtl_g")[0.0, 0.0].items():
        close(found[step][0], position, 4e-3)


def imtl() -> None:
    """At s = 0 it is IMTL-G; then, against explicit scaled gradients, LibMTL's rule by hand.

    One Adam step from 0 moves s by the learning rate, against the sign of e^s L - 1.
    """
    first_step("imtl", "nash/imtl", tolerance=1e-5)
    for jacobian, losses, _ in aggregator_cases():
        weighting = build("imtl", len(losses), learning_rate=0.1)
        drive = Drive(weighting, len(losses))
        drive.step(jacobian, losses)
        scales = torch.exp(-0.1 * torch.sign(losses - 1))
        scaled = scales[:, None] * jacobian
        unit = scaled / scaled.norm(dim=1, keepdim=True)
        difference, units = scaled[0] - scaled[1:], unit[0] - unit[1:]
        rest = scaled[0] @ units.T @ torch.linalg.inv(difference @ units.T)
        weights = torch.cat([1 - rest.sum()[None], rest])
        close(drive.step(jacobian, losses), weights @ scaled, 1e-6)
        close(weighting.head_weights, scales, 1e-6)


def gradvac() -> None:
    """Samsung's three steps, drawn with random.seed(0), with its rule for the targets.

    It moves the targets of turned pairs only. The paper's rule, and the method itself, are
    compared in test_gradvac.py.
    """
    for jacobian, losses, case in aggregator_cases():
        known = case["published"]["samsung/gradvac(samsung):beta=0.5,3steps"]
        tasks = len(losses)
        shuffle = random.Random(0).shuffle
        targets = np.zeros((1, tasks, tasks))
        for expected in known["directions"]:
            orders = []
            for own in range(tasks):
                order = [other for other in range(tasks) if other != own]
                shuffle(order)
                orders.append([*order, own])
            coefficients, cosines, turned = vaccinate(
                (jacobian @ jacobian.T).numpy()[None], targets, np.array([orders])
            )
            close(torch.from_numpy(coefficients[0]).sum(dim=0) @ jacobian, expected, 1e-6)
            targets = np.where(turned, 0.5 * targets + 0.5 * cosines, targets)
        close(torch.from_numpy(targets[0]), known["rho"], 1e-6)


def aligned_mtl() -> None:
    first_step("aligned_mtl", "aligned_exact:min", kind="exact", tolerance=1e-7)
    for scale in ("min", "median", "rmse"):
        first_step("aligned_mtl", f"samsung/aligned_mtl:{scale}", tolerance=1e-5, scale=scale)


def config() -> None:
    first_step("config", "config_exact", kind="exact", tolerance=1e-7)
    first_step("config", "config/config", tolerance=1e-5)
    first_step("config", "config/config:pinv", tolerance=1e-5)


def ntkmtl() -> None:
    """By hand, n = 1: gradients of norm 3 and 4 (and the exponent 1/2) both get that of sqrt(12.5).

    With the sum in place of the mean, times T, as published code has it: 2 * 5 times unit vectors.
    """
    jacobian = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    losses = torch.ones(2, dtype=torch.float64)
    close(Drive(build("ntkmtl", 2), 2).step(jacobian, losses), [12.5**0.5] * 2, 1e-12)
    close(Drive(build("ntkmtl", 2, reduction="sum"), 2).step(jacobian, losses), [10, 10], 1e-12)
    got = Drive(build("ntkmtl", 2, exponent=0.75), 2).step(jacobian, losses)
    close(got, [3 * (12.5 / 9) ** 0.75, 4 * (12.5 / 16) ** 0.75], 1e-12)


def dibs_mtl() -> None:
    """By the released code on explicit gradients: one step, and five with its other step size."""
    for steps, step_size in ((1, 0.01), (5, 0.0002), (5, 0.4)):
        for jacobian, losses, _ in aggregator_cases():
            radius = 0.001
            norms = jacobian.norm(dim=1)
            units = jacobian / norms[:, None]
            x, weights = torch.zeros_like(units[0]), torch.zeros_like(norms)
            for _ in range(steps):
                distances = (x + radius * units).norm(dim=1)
                weights = weights + step_size * distances / norms
                x = x - step_size * distances @ units
                if x.norm() > radius:
                    break
            drive = Drive(
                build("dibs_mtl", len(losses), steps=steps, step_size=step_size), len(losses)
            )
            close(drive.step(jacobian, losses), weights @ jacobian, 1e-12)


ROWS = [
    Row("imtl_g", "AvivNavon/nash-mtl and tum-pbs/ConFIG, vectors and 2-D toy", imtl_g),
    Row("imtl", "AvivNavon/nash-mtl, vectors; LibMTL's rule by hand", imtl),
    Row("gradvac", "SamsungLabs/MTL, vectors over three steps", gradvac),
    Row("aligned_mtl", "exact, and SamsungLabs/MTL, vectors", aligned_mtl),
    Row("config", "exact, and tum-pbs/ConFIG, vectors", config),
    Row("ntkmtl", "the rule of jianke0604/NTKMTL by hand", ntkmtl),
    Row("dibs_mtl", "the rule of suryakmurthy/dibs-mtl by hand", dibs_mtl),
]
