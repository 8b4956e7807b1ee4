import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.auto_lambda import AutoLambda
from mtlrun.weighting.base import StepInfo


def shown(weighting: AutoLambda, now: Tensor, ahead: Tensor, rate: float = 0.1) -> Tensor:
    tasks = len(now)
    weighting.step = StepInfo(0, 0, 0, tuple(range(tasks)), rate)
    rows = torch.cat([now, ahead])
    return weighting.weights(rows @ rows.T, torch.ones(2 * tasks, dtype=torch.float64))


def test_hypergradient_by_autograd_through_the_look_ahead() -> None:
    """Losses |theta - c_i|^4 at a point that is theta - rate * lambda . g."""
    draws = torch.Generator().manual_seed(1)
    centres = torch.randn(2, 3, 6, generator=draws, dtype=torch.float64)  # [batch, task, P]
    theta = torch.randn(6, generator=draws, dtype=torch.float64)
    rate = 0.01

    def rows(at: Tensor, batch: int) -> Tensor:
        away = at - centres[batch]
        return 4 * away * away.square().sum(dim=1, keepdim=True)

    now = rows(theta, 0)
    unrolled = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)
    there = theta - rate * unrolled @ now
    meta = (there - centres[1]).square().sum(dim=1).square()[[0, 1]].sum()
    (expected,) = torch.autograd.grad(meta, unrolled)

    weighting = AutoLambda(primary_tasks=["task1", "task0"], tasks=task_infos(3))
    shown(weighting, now, rows(there.detach(), 1), rate)
    torch.testing.assert_close(weighting.adam.first / (1 - 0.9), expected)


def test_weights_grow_where_a_task_helps_and_shrink_where_it_harms() -> None:
    weighting = AutoLambda(learning_rate=0.05, primary_tasks=["task0"], tasks=task_infos(3))
    helped, unrelated = torch.eye(2, dtype=torch.float64)
    now = torch.stack([helped, -helped, unrelated])
    for _ in range(4):
        weights = shown(weighting, now, now)
    torch.testing.assert_close(weights, torch.tensor([0.3, -0.1, 0.1]).double())


def test_the_new_weights_count_in_the_step_that_they_come_from() -> None:
    weighting = AutoLambda(learning_rate=0.05, tasks=task_infos(2))
    jacobian, losses = random_problem(2, 20)
    drive = Drive(weighting, 2)
    direction = drive.step(jacobian, losses)
    torch.testing.assert_close(direction, weighting.task_weights @ jacobian)
    assert (weighting.task_weights - 0.1).abs().min() > 0.01


def test_absent_tasks() -> None:
    """They keep their weights, and nothing moves where no primary task is present."""
    jacobian, losses = random_problem(3, 20)
    weighting = AutoLambda(learning_rate=0.05, primary_tasks=["task1"], tasks=task_infos(3))
    drive = Drive(weighting, 3)
    drive.step(jacobian, losses)
    before = weighting.task_weights.clone()
    drive.step(jacobian[[1, 2]], losses[[1, 2]], (1, 2))
    assert weighting.task_weights[0] == before[0]
    assert weighting.task_weights[2] != before[2]
    state = {name: value.clone() for name, value in weighting.state_dict().items()}
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    for name, value in weighting.state_dict().items():
        assert torch.equal(value, state[name])


def test_what_it_asks_of_the_engine() -> None:
    assert AutoLambda.batches == 2
    assert AutoLambda.lookahead
    assert AutoLambda.heads == "weighted"
    weighting = AutoLambda(0.3, tasks=task_infos(3))
    weighting.step = StepInfo(0, 0, 0, (0, 2))
    assert weighting.lookahead_weights().tolist() == [0.3, 0.3]


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="initial_value=0: must be a number greater than 0"):
        AutoLambda(0, tasks=task_infos(2))
    with pytest.raises(ValueError, match="learning_rate=-1: must be a number greater than 0"):
        AutoLambda(learning_rate=-1, tasks=task_infos(2))
    with pytest.raises(ValueError, match="primary_tasks is empty"):
        AutoLambda(primary_tasks=[], tasks=task_infos(2))
    with pytest.raises(UserError, match=r"primary_tasks\.depth.*Its tasks are task0, task1"):
        AutoLambda(primary_tasks=["depth"], tasks=task_infos(2))
