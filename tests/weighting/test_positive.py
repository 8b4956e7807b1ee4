"""What GLS, log losses and analytical uncertainty do with losses that are not positive."""

import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, build, random_problem

from mtlrun.errors import UserError
from mtlrun.weighting._positive import SOLVED, PositiveLossWeighting

IDENTITY = torch.eye(3, dtype=torch.float64)
METHODS: list[tuple[str, dict[str, object]]] = [
    ("gls", {}),
    ("log_loss", {}),
    ("soft_uncertainty", {}),
    ("soft_uncertainty", {"form": "inverse"}),
    ("soft_uncertainty", {"temperature": 1e-6}),
]
every_method = pytest.mark.parametrize(("name", "changes"), METHODS)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@every_method
@pytest.mark.parametrize("loss", [0.0, -0.0, 1e-45, -2.0])
def test_a_task_without_a_positive_loss_sits_out(
    name: str, changes: dict[str, object], loss: float
) -> None:
    """As if it were absent."""
    jacobian, losses = random_problem(3, 20)
    losses[1] = loss
    found = Drive(build(name, 3, **changes), 3).step(jacobian, losses)
    others = [0, 2]
    drive = Drive(build(name, 3, **changes), 3)
    assert torch.equal(found, drive.step(jacobian[others], losses[others], others))


@every_method
def test_nothing_moves_where_all_losses_are_zero(name: str, changes: dict[str, object]) -> None:
    drive = Drive(build(name, 3, **changes), 3)
    assert torch.equal(drive.step(IDENTITY, torch.zeros_like(IDENTITY[0])), IDENTITY[0] * 0)


@every_method
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_task_is_solved_by_its_own_scale(
    name: str, changes: dict[str, object], scale: float
) -> None:
    """Small beside other tasks' losses is not solved; small beside its own first losses is."""
    jacobian = torch.ones(1, 1, dtype=torch.float64)
    drive = Drive(build(name, 2, **changes), 2)
    drive.step(jacobian, tensor(1e12 * scale), [1])
    assert drive.step(jacobian, tensor(scale), [0]).item() > 0
    assert drive.step(jacobian, tensor(2 * SOLVED * scale), [0]).item() > 0
    assert drive.step(jacobian, tensor(SOLVED / 2 * scale), [0]).item() == 0
    assert drive.step(jacobian, tensor(scale), [0]).item() > 0


@every_method
def test_what_is_not_finite_stays_visible_and_is_forgotten(
    name: str, changes: dict[str, object]
) -> None:
    drive = Drive(build(name, 3, **changes), 3)
    found = drive.step(IDENTITY, tensor(1.0, torch.nan, 2.0))
    assert found.isnan().any()
    drive.step(IDENTITY, tensor(1.0, torch.inf, 2.0))
    assert isinstance(drive.weighting, PositiveLossWeighting)
    assert drive.weighting.largest_losses.tolist() == [1, 0, 2]
    assert drive.step(IDENTITY, tensor(1.0, 3.0, 2.0)).isfinite().all()


@pytest.mark.parametrize("name", ["gls", "log_loss", "soft_uncertainty", "imtl_l", "imtl"])
def test_negative_mean_losses_are_refused(name: str) -> None:
    weighting = build(name, 3)
    weighting.start_epoch([])
    weighting.start_epoch([tensor(-1.0, 1.0, 1.0), tensor(0.0, torch.nan, 1.0)])
    with pytest.raises(UserError, match=r"last epoch was negative: task0 -0\.25, task2 -3\. Use"):
        weighting.start_epoch([tensor(1.0, 1.0, 1.0), tensor(-0.25, 1.0, -3.0)])


def test_steps_are_not_added_up() -> None:
    for name in ("gls", "log_loss", "soft_uncertainty"):
        weighting = build(name, 2)
        assert isinstance(weighting, PositiveLossWeighting)
        assert not weighting.linear
