import pytest
import torch
from parity_loss_dynamics import walk_famo
from torch import Tensor
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.famo import FAMO


def ready(tasks: int, **settings: object) -> FAMO:
    weighting = FAMO(**settings, tasks=task_infos(tasks))
    weighting.step = StepInfo(0, 0, 0, tuple(range(tasks)))
    return weighting


def gradient_of(weighting: FAMO, losses: Tensor) -> Tensor:
    leaves = [loss.requires_grad_() for loss in losses.clone().unbind()]
    return torch.stack(torch.autograd.grad(weighting.objective(leaves), leaves))


def test_weights_are_the_gradient_of_the_published_loss() -> None:
    weighting = ready(3, min_losses={"task1": -2})
    weighting.logits.copy_(torch.tensor([0.3, -1.0, 0.5]))
    losses = torch.tensor([0.2, -1.5, 70.0], requires_grad=True)
    shares = torch.softmax(weighting.logits, dim=0)
    gaps = losses - torch.tensor([0.0, -2.0, 0.0]) + 1e-8
    constant = (shares / gaps).sum().detach()
    (expected,) = torch.autograd.grad((gaps.log() * shares / constant).sum(), losses)
    got = gradient_of(weighting, losses.detach())
    torch.testing.assert_close(got, expected)
    assert got.sum().item() == pytest.approx(1)


def test_logits_move_as_in_the_published_update() -> None:
    """Three steps of the code: autograd through the softmax, and Adam with weight decay."""
    weighting = ready(3, gamma=0.1)
    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.025, weight_decay=0.1)
    losses = torch.tensor([1.0, 2.0, 3.0])
    for factors in ([0.9, 0.99, 0.5], [1.1, 0.9, 0.9], [0.7, 1.0, 1.0]):
        after = losses * torch.tensor(factors)
        gradient_of(weighting, losses)
        weighting.reevaluated(after)
        shares = torch.softmax(logits, dim=0)
        (logits.grad,) = torch.autograd.grad(shares, logits, losses.log() - after.log())
        optimizer.step()
        torch.testing.assert_close(weighting.logits, logits.detach())
        losses = after


def test_a_task_that_improves_most_loses_weight() -> None:
    weighting = ready(2)
    gradient_of(weighting, torch.tensor([1.0, 100.0]))
    weighting.reevaluated(torch.tensor([0.5, 99.0]))
    assert weighting.logits[0] < 0 < weighting.logits[1]


def test_the_scale_of_losses_does_not_matter() -> None:
    """Neither for the weights nor for the logits, and not for a loss of 0."""
    for losses in ([0.3, 2.0], [0.0, 2.0]):
        runs = []
        for scale in (1e-6, 1.0, 1e6):
            weighting = ready(2)
            shown = scale * torch.tensor(losses)
            weights = gradient_of(weighting, shown)
            weighting.reevaluated(0.9 * shown)
            runs.append(torch.cat([weights, weighting.logits]))
        torch.testing.assert_close(runs[0], runs[1])
        torch.testing.assert_close(runs[2], runs[1])


def test_losses_of_zero_or_below_their_bound() -> None:
    for losses in ([0.0, 0.0], [0.0, 1.0], [-3.0, 1.0], [-1.0, -2.0]):
        weighting = ready(2)
        weights = gradient_of(weighting, torch.tensor(losses))
        assert weights.isfinite().all()
        assert weights.sum().item() == pytest.approx(1)
        weighting.reevaluated(torch.tensor([1.0, -1.0]))
        assert weighting.logits.isfinite().all()


def test_losses_that_are_not_finite_afterwards_move_nothing() -> None:
    weighting = ready(2)
    gradient_of(weighting, torch.tensor([1.0, 2.0]))
    weighting.reevaluated(torch.tensor([torch.nan, torch.inf]))
    assert torch.equal(weighting.logits, torch.zeros(2))


def test_an_absent_task_keeps_its_logit() -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = FAMO(tasks=task_infos(3))
    drive = Drive(weighting, 3)
    drive.step(jacobian, losses)
    before = weighting.logits.clone()
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    assert weighting.logits[1] == before[1]
    assert weighting.logits[0] != before[0]


def test_what_it_asks_of_the_engine() -> None:
    assert FAMO.reevaluates
    assert not FAMO.linear
    assert FAMO.heads == "weighted"


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="learning_rate=0: must be a number greater than 0"):
        FAMO(0, tasks=task_infos(2))
    with pytest.raises(ValueError, match="gamma=-1: must be a number, 0 or more"):
        FAMO(gamma=-1, tasks=task_infos(2))
    with pytest.raises(UserError, match=r"min_losses\.depth.*Its tasks are task0, task1"):
        FAMO(min_losses={"depth": 0}, tasks=task_infos(2))
    with pytest.raises(UserError, match=r"min_losses\.task0=inf: give a finite number"):
        FAMO(min_losses={"task0": float("inf")}, tasks=task_infos(2))


@pytest.mark.slow
def test_the_other_walks_on_the_toy() -> None:
    """From (0, 0) without gamma rounding decides: the logits' gradients all but vanish there."""
    walk_famo([("famo gamma 0.01", 0.01, start) for start in ((-8.5, 7.5), (9.0, 9.0))], 1e-3)
    walk_famo([("famo", 0.0, (9.0, 9.0))], 1e-3)
    walk_famo([("famo", 0.0, (0.0, 0.0))], 0.04)
