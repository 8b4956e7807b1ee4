import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, build, random_problem

from mtlrun.weighting.config import ConFIG


def direction(jacobian: Tensor, length: str = "projection") -> Tensor:
    tasks = len(jacobian)
    return Drive(build("config", tasks, length=length), tasks).step(
        jacobian, torch.ones(tasks).double()
    )


def by_the_book(jacobian: Tensor) -> Tensor:
    units = (jacobian / jacobian.norm(dim=1, keepdim=True)).nan_to_num(0)
    x = torch.linalg.pinv(units, rtol=1e-6) @ torch.ones(len(jacobian), dtype=torch.float64)
    x = x / x.norm()
    return (jacobian @ x).sum() * x


@pytest.mark.parametrize(("tasks", "size"), [(1, 5), (2, 5), (3, 20), (40, 60), (5, 2), (9, 4)])
def test_is_the_published_formula_with_the_pseudo_inverse(tasks: int, size: int) -> None:
    for seed in range(3):
        jacobian, _ = random_problem(tasks, size, seed)
        torch.testing.assert_close(direction(jacobian), by_the_book(jacobian))


def test_cosines_are_equal_and_positive() -> None:
    jacobian, _ = random_problem(6, 20)
    jacobian *= torch.logspace(-3, 3, 6, dtype=torch.float64)[:, None]
    cosines = torch.nn.functional.cosine_similarity(jacobian, direction(jacobian)[None])
    torch.testing.assert_close(cosines, cosines.mean().expand(6))
    assert cosines.min() > 0


def test_two_tasks_bisect() -> None:
    jacobian, _ = random_problem(2, 5)
    bisector = (jacobian / jacobian.norm(dim=1, keepdim=True)).sum(dim=0)
    bisector /= bisector.norm()
    torch.testing.assert_close(direction(jacobian), (jacobian @ bisector).sum() * bisector)


def test_dependent_gradients_never_conflict_with_the_sum() -> None:
    for seed in range(20):
        jacobian, _ = random_problem(6, 2, seed)
        assert jacobian.sum(dim=0) @ direction(jacobian) >= 0


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_singular_gradients(factor: float) -> None:
    one, _ = random_problem(1, 20)
    parallel = factor * torch.cat([one, 2 * one, 5 * one])
    torch.testing.assert_close(direction(parallel), 8 * factor * one[0])
    assert not direction(factor * torch.cat([one, -3 * one])).any()
    zero = torch.cat([factor * one, 0 * one])
    torch.testing.assert_close(direction(zero), factor * one[0])
    assert not direction(0 * zero).any()


def test_lengths() -> None:
    """With every norm counted as m, the length is m times the sum of the cosines."""
    jacobian = torch.tensor([[2.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
    expected = {"min": 2, "max": 8, "harmonic": 3.2, "arithmetic": 5, "geometric": 4}
    for length, norm in expected.items():
        torch.testing.assert_close(direction(jacobian, length), torch.tensor([norm, norm]).double())
        padded = torch.cat([jacobian, torch.zeros(1, 2).double()])
        torch.testing.assert_close(direction(padded, length), direction(jacobian, length))
    torch.testing.assert_close(direction(jacobian), torch.tensor([5.0, 5.0]).double())


def test_beside_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for tasks in (2, 3, 8):
        jacobian, _ = random_problem(tasks, 20, tasks)
        torch.testing.assert_close(direction(jacobian), aggregation.ConFIG()(jacobian))


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="length='sum': choose one of projection, min, max"):
        ConFIG("sum")
