import pytest
import torch
from weighting_driver import Drive, random_problem

from mtlrun.errors import UserError
from mtlrun.weighting.base import TaskInfo
from mtlrun.weighting.inverse_size import InverseSize


def infos(*rows: int) -> list[TaskInfo]:
    return [TaskInfo(f"task{i}", "gaussian", None, count) for i, count in enumerate(rows)]


def test_it_restores_equal_shares_under_proportional_sampling() -> None:
    """Drawing task i with probability n_i / sum(n), the expected weight is the same for all."""
    rows = (30, 7, 1000, 250)
    weights = InverseSize(tasks=infos(*rows)).task_weights
    assert weights.sum().item() == pytest.approx(4, rel=1e-6)
    expected = weights * torch.tensor(rows) / sum(rows)
    torch.testing.assert_close(expected, expected[:1].expand(4))


def test_tasks_of_one_size_weigh_one() -> None:
    assert InverseSize(tasks=infos(50, 50, 50)).task_weights.tolist() == pytest.approx([1, 1, 1])


def test_an_absent_task_leaves_the_other_weights_alone() -> None:
    jacobian, losses = random_problem(2, 5)
    weighting = InverseSize(tasks=infos(100, 200, 400))
    direction = Drive(weighting, 3).step(jacobian, losses, (0, 2))
    torch.testing.assert_close(direction, (12 * jacobian[0] + 3 * jacobian[1]) / 7)


def test_a_task_without_rows_is_refused() -> None:
    with pytest.raises(UserError, match=r"there is none for task1, task2\. Leave such tasks out"):
        InverseSize(tasks=infos(10, 0, 0))


def test_a_checkpoint_does_not_bring_back_other_data() -> None:
    assert not InverseSize(tasks=infos(10, 20)).state_dict()
