"""Parity of methods that see losses only."""

import math

import torch
from parity_kit import Row, aggregator_cases, close, first_step
from torch import Tensor
from weighting_driver import Drive, build, task_infos

from mtlrun.randomness import generator
from mtlrun.types import Evaluation, MetricValue, TaskInfo

LOSSES = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def weights(method: str, losses: Tensor = LOSSES, **changes: object) -> Tensor:
    """The weights of a first step."""
    drive = Drive(build(method, len(losses), **changes), len(losses))
    return drive.step(torch.eye(len(losses), dtype=torch.float64), losses)


def inverse_size() -> None:
    """Rows 100, 200, 400: inverses are as 4 : 2 : 1, and sum to 3."""
    infos = [TaskInfo(f"task{i}", "gaussian", None, 100 * 2**i) for i in range(3)]
    drive = Drive(build("inverse_size", infos), 3)
    found = drive.step(torch.eye(3, dtype=torch.float64), LOSSES)
    close(found, [12 / 7, 6 / 7, 3 / 7], 1e-6)


def random() -> None:
    """softmax(randn(T)), as Nash-MTL, LibMTL and SamsungLabs have it."""
    for jacobian, losses, _ in aggregator_cases():
        drive = Drive(build("random", len(losses)), len(losses))
        for step in range(3):
            normals = torch.randn(len(losses), generator=generator(7, "weighting/random", 2, step))
            expected = (normals.exp() / normals.exp().sum()).double() @ jacobian
            close(drive.step(jacobian, losses, epoch=2, seed=7), expected, 1e-5)


def soft_uncertainty() -> None:
    """1 / L = (2, 1, 0.5). At temperature 1, e^2, e and e^0.5 over their sum, 11.756059."""
    close(weights("soft_uncertainty", form="inverse"), [2.0, 1.0, 0.5], 1e-6)
    close(weights("soft_uncertainty"), [0.6285317, 0.2312240, 0.1402443], 1e-6)
    close(weights("soft_uncertainty", temperature=0.5), [0.8437947, 0.1141952, 0.0420101], 1e-6)


def gls() -> None:
    """(0.5 * 1 * 2)^(1/3) = 1, so weights are 1 / (3 L); in general GLS / T of Nash-MTL's SI."""
    close(weights("gls"), [2 / 3, 1 / 3, 1 / 6], 1e-6)
    for jacobian, losses, case in aggregator_cases():
        direction = Drive(build("gls", len(losses)), len(losses)).step(jacobian, losses)
        factor = math.prod(losses.tolist()) ** (1 / len(losses)) / len(losses)
        published = torch.tensor(case["published"]["nash/scaleinvls"]["direction"])
        close(direction / factor, published, 1e-4)


def log_loss() -> None:
    first_step("log_loss", "nash/scaleinvls", tolerance=1e-4)


def imtl_l() -> None:
    """LibMTL's e^s L - s, by plain gradient descent worked out by hand.

    ds/dt = 1 - e^s L: from s = 0, L = (0.5, 1, 2) and a step of 0.1, s = (0.05, 0, -0.1), then
    0.05 + 0.1 (1 - 0.5 e^0.05) = 0.0974365 and -0.1 + 0.1 (1 - 2 e^-0.1) = -0.1809675.
    """
    drive = Drive(build("imtl_l", 3), 3)
    drive.optimizer = torch.optim.SGD(drive.weighting.parameters(), lr=0.1)
    for s in ([0.0, 0.0, 0.0], [0.05, 0.0, -0.1], [0.0974365, 0.0, -0.1809675]):
        found = drive.step(torch.eye(3, dtype=torch.float64), LOSSES)
        close(found, torch.tensor(s).exp(), 1e-6)


def dtp() -> None:
    """KPIs 0.5 and 0.9, then 0.7 and 0.8; alpha 0.25, gamma 2 and 1.

    k = (0.5, 0.9): w = -0.25 log 0.5 and -0.1 log 0.9. Then k = (0.55, 0.875): w = -0.45^2 log 0.55
    and -0.125 log 0.875.
    """
    infos = task_infos(2)
    drive = Drive(build("dtp", infos, alpha=0.25, gamma={"task1": 1.0}), 2)
    identity, losses = torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    close(drive.step(identity, losses), [1.0, 1.0], 0)
    for kpis, expected in [
        ((0.5, 0.9), (0.1732868, 0.0105361)),
        ((0.7, 0.8), (0.1210618, 0.0166914)),
    ]:
        metrics = {
            info.name: {"accuracy": MetricValue(kpi, higher_is_better=True)}
            for info, kpi in zip(infos, kpis, strict=True)
        }
        headlines = {info.name: "accuracy" for info in infos}
        drive.weighting.after_evaluation(Evaluation(metrics, headlines, {}))
        close(drive.step(identity, losses), expected, 1e-6)


ROWS = [
    Row("inverse_size", "by hand", inverse_size),
    Row("random", "the rule of AvivNavon/nash-mtl by hand", random),
    Row("soft_uncertainty", "the paper's formulas by hand", soft_uncertainty),
    Row("gls", "by hand, and AvivNavon/nash-mtl's log losses, vectors", gls),
    Row("log_loss", "AvivNavon/nash-mtl, vectors", log_loss),
    Row("imtl_l", "the rule of LibMTL by hand", imtl_l),
    Row("dtp", "the paper's formulas by hand", dtp),
]
