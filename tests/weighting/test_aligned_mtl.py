import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, build, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.aligned_mtl import SCALES, AlignedMTL


def aligned(jacobian: Tensor, **settings: object) -> Tensor:
    tasks = len(jacobian)
    return Drive(build("aligned_mtl", tasks, **settings), tasks).step(
        jacobian, torch.ones(tasks).double()
    )


@pytest.mark.parametrize("tasks", [1, 2, 3, 8, 40])
def test_is_the_smallest_singular_value_times_the_polar_factor(tasks: int) -> None:
    jacobian, _ = random_problem(tasks, 60)
    left, values, right = torch.linalg.svd(jacobian, full_matrices=False)
    torch.testing.assert_close(aligned(jacobian), values.min() * (left @ right).sum(dim=0))


@pytest.mark.parametrize("scale", SCALES)
def test_gradients_become_orthogonal_and_equally_long(scale: str) -> None:
    jacobian, _ = random_problem(4, 20)
    names = [task.name for task in task_infos(4)]
    rows = torch.stack(
        [
            aligned(
                jacobian, scale=scale, preferences={other: float(other == name) for other in names}
            )
            for name in names
        ]
    )
    values = torch.linalg.svdvals(jacobian)
    length = {"min": values[3], "median": values[2], "rmse": values.square().mean().sqrt()}[scale]
    torch.testing.assert_close(rows @ rows.T, length**2 * torch.eye(4).double(), atol=1e-9, rtol=0)


def test_preferences_add_up_the_aligned_gradients() -> None:
    jacobian, losses = random_problem(3, 20)
    parts = [
        aligned(jacobian, preferences={f"task{j}": float(i == j) for j in range(3)})
        for i in range(3)
    ]
    got = aligned(jacobian, preferences={"task0": 2.0, "task2": 0.5})
    torch.testing.assert_close(got, 2 * parts[0] + parts[1] + 0.5 * parts[2])
    drive = Drive(build("aligned_mtl", 3, preferences={"task0": 2.0, "task2": 0.5}), 3)
    without = drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    left, values, right = torch.linalg.svd(jacobian[[0, 2]], full_matrices=False)
    expected = values.min() * torch.tensor([2.0, 0.5]).double() @ left @ right
    torch.testing.assert_close(without, expected)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_dependent_gradients_keep_the_directions_that_there_are(factor: float) -> None:
    one, _ = random_problem(1, 20)
    torch.testing.assert_close(aligned(factor * one.repeat(3, 1)), 3 * factor * one[0])
    zero = torch.cat([factor * one, 0 * one])
    torch.testing.assert_close(aligned(zero), factor * one[0])


def test_tolerance_decides_whether_a_small_gradient_slows_the_others_down() -> None:
    jacobian = torch.diag(torch.tensor([1.0, 1e-4], dtype=torch.float64))
    torch.testing.assert_close(aligned(jacobian), torch.tensor([1.0, 0.0]).double())
    small = aligned(jacobian, tolerance=0.0)
    torch.testing.assert_close(small, torch.tensor([1e-4, 1e-4]).double())


def test_beside_torchjd() -> None:
    """It averages over tasks, and its tolerance is that of the type."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    for tasks in (2, 3, 8):
        jacobian, _ = random_problem(tasks, 20, tasks)
        torch.testing.assert_close(
            aligned(jacobian, tolerance=1e-15), tasks * aggregation.AlignedMTL()(jacobian)
        )


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="scale='max': choose one of min, median, rmse"):
        AlignedMTL("max", tasks=task_infos(2))
    with pytest.raises(ValueError, match=r"tolerance=1\.0: must be 0 or more and below 1"):
        AlignedMTL(tolerance=1.0, tasks=task_infos(2))
    with pytest.raises(UserError, match=r"weighting\.preferences\.depth=1"):
        AlignedMTL(preferences={"depth": 1.0}, tasks=task_infos(2))
    with pytest.raises(UserError, match="gives every task the preference 0"):
        AlignedMTL(preferences={"task0": 0.0, "task1": 0.0}, tasks=task_infos(2))
