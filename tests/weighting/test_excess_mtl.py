import pytest
import torch
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.excess_mtl import ExcessMTL


def drive_of(tasks: int, **settings: object) -> tuple[ExcessMTL, Drive]:
    weighting = ExcessMTL(**settings, tasks=task_infos(tasks))
    return weighting, Drive(weighting, tasks)


def test_beside_torchjd() -> None:
    """With two steps of warm-up. Its 1e-7 in the square root is what sets the tolerance."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    if not hasattr(aggregation, "ExcessMTLWeighting"):
        pytest.skip("torchjd before 0.17")
    theirs = aggregation.ExcessMTLWeighting(0.5, 2)
    _, drive = drive_of(3, step_size=0.5, warmup_epochs=2)
    jacobian, losses = random_problem(3, 20)
    changes = torch.linspace(0.2, 1.5, 3, dtype=torch.float64)
    for epoch in range(6):  # one step each
        shown = jacobian * changes[:, None] ** epoch
        expected = theirs(shown.float()).double() @ shown
        torch.testing.assert_close(
            drive.step(shown, losses, epoch=epoch), expected, rtol=0, atol=1e-4
        )


def test_excess_risks_of_the_first_step_are_sums_of_magnitudes() -> None:
    """sum g^2 / sqrt(g^2) = sum |g|, whatever the scale: here down to 1e-15."""
    weighting, drive = drive_of(2, warmup_epochs=1)
    jacobian = torch.tensor([[1e-15, -2e-15, 0.0], [3.0, 0.0, 0.0]], dtype=torch.float64)
    drive.step(jacobian, torch.ones(2))
    expected = torch.tensor([3e-15, 3.0], dtype=torch.float64)
    torch.testing.assert_close(weighting.excess_sums, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("warmup", [0, 1])
def test_the_scale_of_losses_does_not_matter(warmup: int) -> None:
    jacobian, losses = random_problem(3, 20)
    scales = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    plain, other = (drive_of(3, warmup_epochs=warmup)[1] for _ in range(2))
    for epoch in range(4):
        now = jacobian * torch.linspace(0.5, 0.9, 3, dtype=torch.float64)[:, None] ** epoch
        plain.step(now, losses, epoch=epoch)
        other.step(scales[:, None] * now, losses, epoch=epoch)
        torch.testing.assert_close(
            other.weighting.task_weights, plain.weighting.task_weights, rtol=1e-4, atol=1e-6
        )


def test_a_task_far_from_convergence_gains_weight() -> None:
    weighting, drive = drive_of(2, warmup_epochs=1)
    jacobian, losses = random_problem(2, 20)
    drive.step(jacobian, losses)
    shrinking = torch.tensor([[1.0], [0.1]], dtype=torch.float64)
    for _ in range(3):
        direction = drive.step(shrinking * jacobian, losses, epoch=1)
    weights = weighting.task_weights
    assert weights is not None
    assert weights[0] > 0.5 > weights[1]
    assert weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close(direction, weights.double() @ (shrinking * jacobian))


def test_a_task_without_a_gradient() -> None:
    """It has no excess risk; its first one above 0 is its baseline."""
    jacobian, losses = random_problem(2, 20)
    silent = jacobian * torch.tensor([[1.0], [0.0]])
    weighting, drive = drive_of(2, warmup_epochs=1)
    for epoch, shown in enumerate((silent, silent, jacobian)):
        assert drive.step(shown, losses, epoch=epoch).isfinite().all()
    assert weighting.excess_sums[1].item() == pytest.approx(jacobian[1].abs().sum().item())


def test_an_absent_task_keeps_its_state() -> None:
    jacobian, losses = random_problem(3, 20)
    weighting, drive = drive_of(3, warmup_epochs=0)
    drive.step(jacobian, losses)
    drive.step(jacobian / torch.tensor([[1.0], [2.0], [9.0]]), losses)
    before = {name: state.clone() for name, state in weighting.state_dict().items()}
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    for name, state in weighting.state_dict().items():
        assert torch.equal(state[1], before[name][1])
    assert weighting.log_weights[0] != before["log_weights"][0]
    torch.testing.assert_close(weighting.log_weights.exp().sum(), before["log_weights"].exp().sum())


def test_a_representation_that_changes_its_size_is_refused() -> None:
    jacobian, losses = random_problem(2, 20)
    _, drive = drive_of(2)
    drive.step(jacobian, losses)
    with pytest.raises(UserError, match=r"20 gradient elements .* shown 10\. Use gradients\.at="):
        drive.step(jacobian[:, :10], losses)


def test_wrong_settings() -> None:
    for settings, message in (
        ({"step_size": 0}, "step_size=0: must be a number greater than 0"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1: must be a number, 0 or more"),
        ({"reduction": "max"}, "reduction='max': choose one of sum, mean"),
    ):
        with pytest.raises(ValueError, match=message):
            drive_of(2, **settings)
