import dataclasses

import pytest
import torch
from torch import Tensor, nn
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.gradnorm import SMALLEST_WEIGHT, GradNorm


def closed_form(weighting: GradNorm, rows: Tensor, losses: Tensor) -> Tensor:
    weighting.step = StepInfo(0, 0, 0, tuple(range(len(losses))))
    weighting.weights(rows @ rows.T, losses)
    assert weighting.task_weights.grad is not None
    return weighting.task_weights.grad


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_closed_form_is_the_gradient_of_the_published_loss(alpha: float) -> None:
    """Against double backward through norms of a small network's gradients."""
    draws = torch.Generator().manual_seed(3)
    layer = nn.Linear(6, 5, bias=False, dtype=torch.float64)
    heads = [torch.randn(5, generator=draws, dtype=torch.float64) * 3**i for i in range(3)]
    inputs = torch.randn(8, 6, generator=draws, dtype=torch.float64)
    losses = [(layer(inputs).tanh() @ head).square().mean() for head in heads]
    weights = torch.tensor([0.3, 1.5, 1.2], dtype=torch.float64, requires_grad=True)
    initial = torch.tensor([5.0, 2.0, 40.0], dtype=torch.float64)

    norms = []
    for weight, loss in zip(weights, losses, strict=True):
        (gradient,) = torch.autograd.grad(weight * loss, layer.weight, create_graph=True)
        norms.append(gradient.norm())
    ratios = torch.stack(losses).detach() / initial
    target = torch.stack(norms).mean().detach() * (ratios / ratios.mean()) ** alpha
    objective = (torch.stack(norms) - target).abs().sum()
    (expected,) = torch.autograd.grad(objective, weights)

    weighting = GradNorm(alpha, tasks=task_infos(3))
    with torch.no_grad():
        weighting.task_weights.copy_(weights)
        weighting.initial_losses.copy_(initial)
    rows = [torch.autograd.grad(loss, layer.weight, retain_graph=True)[0] for loss in losses]
    jacobian = torch.stack(rows).flatten(1)
    got = closed_form(weighting, jacobian, torch.stack(losses).detach())
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def test_weights_keep_their_sum_and_go_against_the_larger_gradient() -> None:
    jacobian, losses = random_problem(3, 20)
    jacobian[0] *= 100
    drive = Drive(GradNorm(learning_rate=0.01, tasks=task_infos(3)), 3)
    for step in range(20):
        drive.step(jacobian, losses * 0.9**step)
        weights = drive.weighting.task_weights
        assert weights.sum().item() == pytest.approx(3, abs=1e-9)
    assert weights[0] < 0.9
    assert weights[1] > 1
    assert weights[2] > 1


def test_weights_stay_positive() -> None:
    jacobian, losses = random_problem(2, 20)
    jacobian[0] *= 1000
    drive = Drive(GradNorm(learning_rate=0.5, tasks=task_infos(2)), 2)
    for _ in range(20):
        drive.step(jacobian, losses)
        assert drive.weighting.task_weights.min() > SMALLEST_WEIGHT / 2


def test_the_network_moves_with_the_weights_as_they_were() -> None:
    jacobian, losses = random_problem(3, 20)
    drive = Drive(GradNorm(tasks=task_infos(3)), 3)
    torch.testing.assert_close(drive.step(jacobian, losses), jacobian.sum(dim=0))


def test_an_absent_task_keeps_its_weight() -> None:
    jacobian, losses = random_problem(3, 20)
    jacobian[0] *= 10
    drive = Drive(GradNorm(tasks=task_infos(3)), 3)
    for _ in range(3):
        drive.step(jacobian, losses)
    before = drive.weighting.task_weights.detach().clone()
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    after = drive.weighting.task_weights.detach()
    assert after[1] == before[1]
    assert after[0] != before[0]
    assert after.sum().item() == pytest.approx(3, abs=1e-9)


def test_a_tasks_first_loss_is_that_of_the_step_in_which_it_first_appears() -> None:
    weighting = GradNorm(tasks=task_infos(3))
    drive = Drive(weighting, 3)
    jacobian, losses = random_problem(3, 20)
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    assert weighting.initial_losses.isnan().tolist() == [False, True, False]
    drive.step(jacobian, losses / 2)
    expected = torch.stack([losses[0], losses[1] / 2, losses[2]])
    assert torch.equal(weighting.initial_losses, expected)


def test_a_first_loss_of_zero_is_passed_over() -> None:
    weighting = GradNorm(tasks=task_infos(2))
    drive = Drive(weighting, 2)
    jacobian, losses = random_problem(2, 20)
    for now in (torch.zeros_like(losses), torch.tensor([0.0, 1.0]).double(), losses):
        assert drive.step(jacobian, now).isfinite().all()
    assert torch.equal(weighting.initial_losses, torch.stack([losses[0], torch.ones(()).double()]))


def test_theoretical_initial_losses() -> None:
    infos = task_infos(2)
    weighting = GradNorm(initial_loss="theory", tasks=infos)
    assert weighting.initial_losses.tolist() == [1.0, 1.1]
    drive = Drive(weighting, 2)
    drive.step(*random_problem(2, 20))
    assert weighting.initial_losses.tolist() == [1.0, 1.1]
    unknown = [infos[0], dataclasses.replace(infos[1], initial_loss=None)]
    with pytest.raises(UserError, match=r"the losses of task1\. Use weighting\.initial_loss=first"):
        GradNorm(initial_loss="theory", tasks=unknown)


def test_what_it_asks_of_the_engine() -> None:
    assert GradNorm.heads == "weighted"
    assert GradNorm.place == "last_layer"
    assert GradNorm(tasks=task_infos(2)).learning_rate == 0.025


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="alpha=-1: must be a number, 0 or more"):
        GradNorm(-1, tasks=task_infos(2))
    with pytest.raises(ValueError, match="initial_loss='last': choose one of first, theory"):
        GradNorm(initial_loss="last", tasks=task_infos(2))
