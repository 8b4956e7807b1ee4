import pytest
import torch
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.weighting.moco import MoCo
from mtlrun.weighting.solvers import min_norm_point


def test_the_first_step_by_hand() -> None:
    """Orthogonal gradients of length 1 and 2: averages of 0.5 and 1, products 0.25 and 1.

    lambda = P(0.5 - 0.2 x 0.25 x 0.5, 0.5 - 0.2 x 1 x 0.5) = P(0.475, 0.4) = (0.5375, 0.4625).
    """
    jacobian = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    weighting = MoCo(beta=0.5, gamma=0.2, rho=0.0, tasks=task_infos(2))
    direction = Drive(weighting, 2).step(jacobian, torch.ones(2, dtype=torch.float64))
    assert weighting.shares.tolist() == pytest.approx([0.5375, 0.4625])
    assert direction.tolist() == pytest.approx([0.5375 * 0.5, 0.4625])


def test_comes_to_the_weights_of_mgda() -> None:
    """On gradients that stand still."""
    jacobian, losses = random_problem(4, 20)
    jacobian = jacobian / jacobian.norm(dim=1, keepdim=True)
    weighting = MoCo(beta=1.0, gamma=0.3, rho=0.0, tasks=task_infos(4))
    drive = Drive(weighting, 4)
    for _ in range(200):
        direction = drive.step(jacobian, losses)
    expected = min_norm_point(jacobian @ jacobian.T)
    torch.testing.assert_close(weighting.shares, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(direction, expected @ jacobian, rtol=0, atol=1e-6)


def test_rho_pulls_towards_equal_weights() -> None:
    """Orthogonal gradients of length 1 and 2: lambda comes to 1 / (1 + rho) and 1 / (4 + rho)."""
    jacobian = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    losses = torch.ones(2, dtype=torch.float64)
    for rho, expected in ((0.0, [4 / 5, 1 / 5]), (2.0, [2 / 3, 1 / 3])):
        weighting = MoCo(beta=1.0, gamma=0.1, rho=rho, tasks=task_infos(2))
        drive = Drive(weighting, 2)
        for _ in range(60):
            drive.step(jacobian, losses)
        assert weighting.shares.tolist() == pytest.approx(expected, abs=1e-6)


def test_absent_tasks_keep_their_share_and_average() -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = MoCo(tasks=task_infos(3))
    drive = Drive(weighting, 3)
    drive.step(jacobian, losses)
    assert drive.tracked is not None
    before, average = weighting.shares.clone(), drive.tracked[1].clone()
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    assert weighting.shares[1] == before[1]
    assert not torch.equal(weighting.shares, before)
    assert weighting.shares.sum().item() == pytest.approx(1)
    assert torch.equal(drive.tracked[1], average)


def test_wrong_settings() -> None:
    for beta in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"beta={beta}"):
            MoCo(beta=beta, tasks=task_infos(2))
    for name in ("beta_decay", "gamma", "gamma_decay", "rho"):
        with pytest.raises(ValueError, match=f"{name}=-1: must be a number, 0 or more"):
            MoCo(**{name: -1}, tasks=task_infos(2))
