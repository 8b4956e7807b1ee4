import pytest
import torch
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.graddrop import GradDrop, drop_signs


def test_by_hand() -> None:
    """Purity (1 + sum g / sum |g|) / 2 is 0.75, 0.5, 1, 0 and, of nothing, 0.5."""
    jacobian = torch.tensor([[3.0, 2.0, 1.0, -1.0, 0.0], [-1.0, -2.0, 2.0, -4.0, 0.0]])
    low, high = torch.full((5,), 0.4), torch.full((5,), 0.6)
    none = torch.zeros(2)
    assert drop_signs(jacobian, low, none).tolist() == [3, 2, 3, -5, 0]
    assert drop_signs(jacobian, high, none).tolist() == [3, -2, 3, -5, 0]
    assert drop_signs(jacobian, low, torch.tensor([0.0, 0.5])).tolist() == [2.5, 1, 3, -5, 0]
    assert drop_signs(jacobian, high, torch.ones(2)).tolist() == jacobian.sum(dim=0).tolist()


def test_draws_of_zero_and_almost_one_respect_a_unanimous_sign() -> None:
    jacobian = torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    for uniform in (torch.zeros(2), torch.full((2,), 1 - 2.0**-24)):
        assert drop_signs(jacobian, uniform, torch.zeros(2)).tolist() == [3, -3]


def test_keeps_the_sum_on_average() -> None:
    """E = P * positive part + (1 - P) * negative part: for (3, -1) it is 0.75 * 3 - 0.25 * 1."""
    size = 20_000
    jacobian = torch.tensor([[3.0], [-1.0]], dtype=torch.float64).expand(2, size)
    direction = Drive(GradDrop(tasks=task_infos(2)), 2).step(jacobian, torch.ones(2))
    assert set(direction.tolist()) == {3.0, -1.0}
    assert direction.mean().item() == pytest.approx(2.0, abs=0.04)


def test_leak_of_single_tasks_and_mean() -> None:
    jacobian, losses = random_problem(3, 30)
    plain = Drive(GradDrop(tasks=task_infos(3)), 3).step(jacobian, losses)
    through = Drive(GradDrop(leak=1.0, tasks=task_infos(3)), 3).step(jacobian, losses)
    torch.testing.assert_close(through, jacobian.sum(dim=0), rtol=1e-5, atol=1e-6)
    one = Drive(GradDrop(leak={"task1": 1.0}, tasks=task_infos(3)), 3).step(jacobian, losses)
    dropped = one - plain  # what task 1 had lost, in the same draws
    assert ((dropped.abs() < 1e-6) | ((dropped - jacobian[1]).abs() < 1e-6)).all()
    mean = Drive(GradDrop(reduction="mean", tasks=task_infos(3)), 3).step(jacobian, losses)
    torch.testing.assert_close(mean, plain / 3)


def test_leak_follows_its_task_when_others_are_absent() -> None:
    jacobian, losses = random_problem(2, 30)
    weighting = GradDrop(leak={"task2": 1.0}, tasks=task_infos(3))
    direction = Drive(weighting, 3).step(jacobian, losses, (0, 2))
    alone = direction - jacobian[1]
    assert ((alone.abs() < 1e-6) | ((alone - jacobian[0]).abs() < 1e-6)).all()


def test_draws_are_those_of_the_step() -> None:
    jacobian, losses = random_problem(3, 30)
    first = [
        Drive(GradDrop(tasks=task_infos(3)), 3).step(jacobian, losses, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_heads_train_on_plain_losses() -> None:
    assert GradDrop.heads == "unweighted"


def test_wrong_settings() -> None:
    with pytest.raises(UserError, match=r"weighting.leak.task0=1.5: .* between 0 and 1"):
        GradDrop(leak=1.5, tasks=task_infos(2))
    with pytest.raises(UserError, match=r"weighting.leak.tusk0=1.0: .* Did you mean task0\?"):
        GradDrop(leak={"tusk0": 1.0}, tasks=task_infos(2))
