import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.weighting.great import SMALLEST_SCALE, Great


def great(tasks: int, channels: int = 2, **settings: object) -> Great:
    return Great(tasks=task_infos(tasks), channels=channels, **settings)


def unlike_gradients(step: int, rows: int = 32) -> Tensor:
    """Of two tasks on features [rows, 2]: the first task's first channel is ten times as large."""
    draws = torch.Generator().manual_seed(step)
    gradients = torch.randn(2, rows, 2, generator=draws, dtype=torch.float64)
    gradients[0, :, 0] *= 10
    return gradients.flatten(1)


def walk(weighting: Great, steps: int) -> list[float]:
    """The auxiliary network's accuracy in each step."""
    drive, losses, found = Drive(weighting, 2, 0.02), torch.ones(2), []
    for step in range(steps):
        drive.step(unlike_gradients(step), losses)
        found.append(weighting.auxiliary_accuracy.item())
    return found


def test_scales_make_the_gradients_alike() -> None:
    """Without the adversary the auxiliary network tells the tasks apart; with it, it hardly can."""
    alone = walk(great(2, strength=1e-30), 100)
    assert sum(alone[-50:]) / 50 > 0.85
    weighting = great(2, strength=1.0)
    accuracy = walk(weighting, 250)
    assert sum(accuracy[-50:]) / 50 < 0.6
    scales = weighting.scales.detach()
    assert scales[1, 0] / scales[0, 0] == pytest.approx(10, rel=0.4)
    assert scales[1, 1] / scales[0, 1] == pytest.approx(1, rel=0.4)


def test_the_first_direction_is_the_sum_and_later_ones_are_scaled() -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = great(3)
    drive = Drive(weighting, 3)
    torch.testing.assert_close(drive.step(jacobian, losses), jacobian.sum(dim=0), rtol=1e-5, atol=0)
    scales = torch.tensor([[1.0, 2.0], [0.5, 1.0], [3.0, 0.25]])
    with torch.no_grad():
        weighting.scales.copy_(scales)
    expected = (jacobian.view(3, -1, 2) * scales[:, None]).sum(dim=0).flatten()
    torch.testing.assert_close(drive.step(jacobian, losses), expected, rtol=1e-5, atol=1e-6)


def test_maps_have_one_scale_a_channel() -> None:
    weighting = great(2, channels=3)
    weighting.representation = torch.ones(4, 3, 2, 5)
    gradients = torch.randn(2, 4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    scales = torch.tensor([[1.0, 2.0, 0.5], [3.0, 1.0, 1.0]])
    with torch.no_grad():
        weighting.scales.copy_(scales)
    drive = Drive(weighting, 2)
    drive.weighting.sees_representation = False  # it has one
    direction = drive.step(gradients.flatten(1).double(), torch.ones(2))
    expected = torch.einsum("tc,tnchw->nchw", scales, gradients).flatten()
    torch.testing.assert_close(direction.float(), expected)


def test_the_auxiliary_network_looks_at_each_position_of_a_map() -> None:
    """Opposed gradients at two positions: their mean is 0, and tells nothing."""
    weighting = great(2, strength=1e-30)
    drive = Drive(weighting, 2, 0.02)
    drive.weighting.sees_representation = False  # it has one
    weighting.representation = torch.ones(16, 2, 1, 2)
    accuracy = []
    for step in range(60):
        one = unlike_gradients(step, rows=16).view(2, 16, 2, 1, 1)
        drive.step(torch.cat([one, -one], dim=-1).flatten(1), torch.ones(2))
        accuracy.append(weighting.auxiliary_accuracy.item())
    assert sum(accuracy[-20:]) / 20 > 0.8


def test_the_auxiliary_network_does_not_see_the_scale_of_the_losses() -> None:
    found = []
    for factor in (1e-6, 1.0, 1e6):
        weighting = great(3)
        drive = Drive(weighting, 3)
        for step in range(3):
            jacobian, losses = random_problem(3, 20, step)
            drive.step(factor * jacobian, factor * losses)
        found.append(weighting.scales.detach().clone())
    assert not torch.equal(found[1], torch.ones(3, 2))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[2], found[1], rtol=1e-3, atol=1e-4)


def test_scales_stay_positive_and_absent_tasks_keep_theirs() -> None:
    weighting = great(3)
    drive = Drive(weighting, 3, learning_rate=2.0)
    jacobian, losses = random_problem(3, 20)
    jacobian[0] *= 100
    for _ in range(4):
        drive.step(jacobian, losses)
        assert weighting.scales.min() >= torch.tensor(SMALLEST_SCALE)
    before = weighting.scales.detach().clone()
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    assert torch.equal(weighting.scales[1], before[1])
    assert not torch.equal(weighting.scales[[0, 2]], before[[0, 2]])


def test_wrong_settings() -> None:
    for hidden in (0, 1.5):
        with pytest.raises(ValueError, match=f"hidden={hidden}: must be a whole number of 1 or"):
            great(2, hidden=hidden)
    with pytest.raises(ValueError, match="strength=-1: must be a number greater than 0"):
        great(2, strength=-1)
