import pytest
import torch
from weighting_driver import Drive, build, random_problem

from mtlrun.weighting.dibs_mtl import DiBSMTL


def test_one_step_sums_unit_gradients() -> None:
    jacobian, losses = random_problem(5, 20)
    jacobian *= torch.logspace(-3, 3, 5, dtype=torch.float64)[:, None]
    units = jacobian / jacobian.norm(dim=1, keepdim=True)
    got = Drive(build("dibs_mtl", 5, radius=0.5, step_size=0.2), 5).step(jacobian, losses)
    torch.testing.assert_close(got, 0.1 * units.sum(dim=0))


def test_two_opposed_tasks_stay_where_they_are() -> None:
    one, _ = random_problem(1, 20)
    opposed = torch.cat([one, -50 * one])
    got = Drive(build("dibs_mtl", 2, steps=20, step_size=0.3), 2).step(
        opposed, torch.ones(2).double()
    )
    assert got.abs().max() < 1e-15


def test_a_long_bargain_ends_where_distances_balance() -> None:
    """Two orthogonal tasks, in units of the radius: x = -(a, a), with a = 1 where it leaves."""
    jacobian = torch.eye(2, dtype=torch.float64)
    drive = Drive(build("dibs_mtl", 2, steps=10_000, step_size=1e-3, radius=1.0), 2)
    got = drive.step(jacobian, torch.ones(2).double())
    torch.testing.assert_close(got.norm(), torch.tensor(1.0).double(), rtol=0, atol=1e-2)
    torch.testing.assert_close(got[0], got[1])


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scales_of_losses_do_not_matter(factor: float) -> None:
    jacobian, losses = random_problem(3, 20)
    expected = Drive(build("dibs_mtl", 3, steps=5), 3).step(jacobian, losses)
    jacobian[1] *= factor
    got = Drive(build("dibs_mtl", 3, steps=5), 3).step(jacobian, losses)
    torch.testing.assert_close(got, expected)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="steps=0: must be 1 or more"):
        DiBSMTL(0)
    with pytest.raises(ValueError, match="radius=-1: must be a number greater than 0"):
        DiBSMTL(radius=-1)
