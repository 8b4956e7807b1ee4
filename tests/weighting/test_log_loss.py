import torch
from weighting_driver import Drive, build, random_problem, task_infos

from mtlrun.weighting.log_loss import LogLoss


def test_weights_are_one_over_the_loss() -> None:
    losses = torch.tensor([0.25, 2.0, 1e-4], dtype=torch.float64)
    drive = Drive(LogLoss(tasks=task_infos(3)), 3)
    found = drive.step(torch.eye(3, dtype=torch.float64), losses)
    torch.testing.assert_close(found, 1 / losses, rtol=1e-6, atol=0)


def test_a_factor_of_one_loss_changes_nothing() -> None:
    """Not even the length of the direction."""
    jacobian, losses = random_problem(3, 20)
    factors = torch.tensor([1e-5, 1.0, 1e5], dtype=torch.float64)
    expected = Drive(LogLoss(tasks=task_infos(3)), 3).step(jacobian, losses)
    scaled = Drive(LogLoss(tasks=task_infos(3)), 3).step(
        factors[:, None] * jacobian, factors * losses
    )
    torch.testing.assert_close(scaled, expected, rtol=1e-5, atol=1e-6)


def test_it_is_gls_up_to_length_and_optimal_uncertainty_exactly() -> None:
    jacobian, losses = random_problem(4, 20)
    found = Drive(LogLoss(tasks=task_infos(4)), 4).step(jacobian, losses)
    gls = Drive(build("gls", 4), 4).step(jacobian, losses)
    torch.testing.assert_close(gls / gls.norm(), found / found.norm(), rtol=1e-5, atol=1e-6)
    optimal = Drive(build("soft_uncertainty", 4, form="inverse"), 4).step(jacobian, losses)
    torch.testing.assert_close(optimal, found, rtol=1e-5, atol=1e-6)
