import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.weighting.soft_uncertainty import SoftUncertainty
from mtlrun.weighting.uncertainty import FORMS, Uncertainty

LOSSES = torch.tensor([0.2, 0.5, 3.0], dtype=torch.float64)


def weights(weighting: SoftUncertainty, losses: Tensor = LOSSES) -> Tensor:
    return Drive(weighting, 3).step(torch.eye(3, dtype=torch.float64), losses)


def test_inverse_is_where_uncertainty_weighting_ends() -> None:
    """Trained to its optimum on L1 losses, uncertainty weighting has the weights 1 / L."""
    laplace = [info for info in task_infos(3) if info.likelihood == "laplace"] * 3
    learned = Uncertainty(tasks=laplace)
    drive = Drive(learned, 3, learning_rate=0.05)
    identity = torch.eye(3, dtype=torch.float64)
    for _ in range(500):
        found = drive.step(identity, LOSSES)
    assert FORMS["likelihood"]["laplace"] == (1.0, 0.5, 0.5)
    expected = weights(SoftUncertainty("inverse", tasks=laplace))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_the_temperature_goes_from_one_task_to_equal_weights() -> None:
    cold = weights(SoftUncertainty(temperature=0.05, tasks=task_infos(3)))
    hot = weights(SoftUncertainty(temperature=1e4, tasks=task_infos(3)))
    assert cold.tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    assert hot.tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)


def test_the_temperature_is_in_units_of_the_inverse_loss() -> None:
    """All losses times c are the temperature divided by c."""
    plain = weights(SoftUncertainty(temperature=2.0, tasks=task_infos(3)))
    scaled = weights(SoftUncertainty(temperature=0.02, tasks=task_infos(3)), 100 * LOSSES)
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-7)
    assert plain.sum().item() == pytest.approx(1, abs=1e-6)


def test_weights_are_over_the_tasks_of_the_step() -> None:
    jacobian, losses = random_problem(3, 5)
    chosen = [0, 2]
    drive = Drive(SoftUncertainty(tasks=task_infos(3)), 3)
    direction = drive.step(jacobian[chosen], losses[chosen], chosen)
    expected = torch.softmax(1 / losses[chosen], dim=0) @ jacobian[chosen]
    torch.testing.assert_close(direction, expected, rtol=1e-5, atol=1e-6)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="temperature=0: must be a number greater than 0"):
        SoftUncertainty(temperature=0, tasks=task_infos(2))
    with pytest.raises(ValueError, match="form='soft': choose one of softmax, inverse"):
        SoftUncertainty("soft", tasks=task_infos(2))  # type: ignore[arg-type]
