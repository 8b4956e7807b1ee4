import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.imtl import IMTL
from mtlrun.weighting.imtl_g import impartial_weights


def show(weighting: IMTL, jacobian: Tensor, losses: Tensor, present: tuple[int, ...]) -> Tensor:
    weighting.step = StepInfo(0, 0, 0, present)
    return weighting.weights(jacobian @ jacobian.T, losses)


def test_is_imtl_g_on_the_scaled_gradients() -> None:
    jacobian, losses = random_problem(4, 20)
    weighting = IMTL(tasks=task_infos(4))
    scales = torch.tensor([0.1, 1.0, 3.0, 20.0], dtype=torch.float64)
    with torch.no_grad():
        weighting.log_scale.copy_(scales.log())
    scaled = scales[:, None] * jacobian
    got = show(weighting, jacobian, losses, (0, 1, 2, 3)) @ jacobian
    torch.testing.assert_close(got, impartial_weights(scaled @ scaled.T) @ scaled)
    assert weighting.head_weights is not None
    torch.testing.assert_close(weighting.head_weights, scales)


def test_gradient_of_the_scales_is_that_of_the_published_loss() -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = IMTL(tasks=task_infos(3))
    s = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        weighting.log_scale.copy_(s)
    (expected,) = torch.autograd.grad((s.exp() * losses - s).sum(), s)
    show(weighting, jacobian, losses, (0, 1, 2))
    torch.testing.assert_close(weighting.log_scale.grad, expected)


def test_scaled_losses_come_to_one() -> None:
    jacobian, _ = random_problem(3, 20)
    losses = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    weighting = IMTL(learning_rate=0.05, tasks=task_infos(3))
    drive = Drive(weighting, 3)
    for _ in range(100):
        drive.step(jacobian, losses)
    scaled = weighting.log_scale.detach().exp() * losses
    torch.testing.assert_close(scaled, torch.ones_like(scaled), rtol=0, atol=0.05)


def test_an_absent_task_has_no_gradient_on_its_scale() -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = IMTL(tasks=task_infos(3))
    show(weighting, jacobian[[0, 2]], 2 * losses[[0, 2]], (0, 2))
    assert weighting.log_scale.grad is not None
    assert weighting.log_scale.grad[1] == 0
    assert weighting.head_weights is not None
    assert weighting.head_weights.shape == (2,)


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_a_loss_that_is_not_positive_leaves_its_scale(loss: float) -> None:
    """Otherwise the scale grows without end and its weight overflows. As in IMTL-L."""
    jacobian, losses = random_problem(3, 20)
    losses[1] = loss
    weighting = IMTL(tasks=task_infos(3))
    drive = Drive(weighting, 3)
    for _ in range(3):
        drive.step(jacobian, losses)
    assert (weighting.log_scale != 0).tolist() == [True, False, True]


def test_what_it_asks_of_the_engine() -> None:
    assert IMTL.heads == "weighted"
    assert IMTL.place == "parameters"
    assert IMTL(tasks=task_infos(2)).learning_rate is None
