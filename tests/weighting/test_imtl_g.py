import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, build, random_problem

from mtlrun.weighting.imtl_g import IMTLG, impartial_weights
from mtlrun.weighting.solvers import SolverError


def weights_of(jacobian: Tensor) -> Tensor:
    return impartial_weights(jacobian @ jacobian.T)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("tasks", [2, 3, 8, 40])
def test_projections_are_equal_and_weights_sum_to_one(tasks: int) -> None:
    for seed in range(3):
        jacobian, _ = random_problem(tasks, 60, seed)
        jacobian *= torch.logspace(-2, 2, tasks, dtype=torch.float64)[:, None]
        weights = weights_of(jacobian)
        assert weights.sum().item() == pytest.approx(1)
        projections = (jacobian / jacobian.norm(dim=1, keepdim=True)) @ (weights @ jacobian)
        torch.testing.assert_close(projections, projections.mean().expand(tasks), rtol=1e-8, atol=0)


def test_two_tasks_weigh_by_the_others_norm() -> None:
    for seed in range(5):
        jacobian, _ = random_problem(2, 4, seed)
        norms = jacobian.norm(dim=1)
        torch.testing.assert_close(weights_of(jacobian), norms.flip(0) / norms.sum())


def test_the_papers_closed_form() -> None:
    for seed in range(5):
        jacobian, _ = random_problem(5, 20, seed)
        units = jacobian / jacobian.norm(dim=1, keepdim=True)
        across = (units[0] - units[1:]).T
        rest = jacobian[0] @ across @ torch.linalg.inv((jacobian[0] - jacobian[1:]) @ across)
        expected = torch.cat([1 - rest.sum()[None], rest])
        torch.testing.assert_close(weights_of(jacobian), expected)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_parallel_gradients(factor: float) -> None:
    """Weights 1 / |g|, scaled to the sum 1; the length is the harmonic mean of the lengths."""
    jacobian = factor * rows([3.0, 4.0], [6.0, 8.0], [1.5, 2.0])
    expected = torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64) / 7
    torch.testing.assert_close(weights_of(jacobian), expected)


def test_opposed_gradients_give_no_direction() -> None:
    jacobian = rows([1.0, 2.0], [-3.0, -6.0])
    weights = weights_of(jacobian)
    torch.testing.assert_close(weights, torch.tensor([0.75, 0.25]).double())
    assert (weights @ jacobian).abs().max() < 1e-12
    star = rows([1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)])  # unit vectors sum to 0
    assert (weights_of(star) @ star).abs().max() < 1e-12


def test_dependent_gradients_take_least_squares() -> None:
    jacobian, _ = random_problem(5, 2)
    direction = weights_of(jacobian) @ jacobian
    units = jacobian / jacobian.norm(dim=1, keepdim=True)
    nearest = torch.linalg.lstsq(units, torch.ones(5, 1, dtype=torch.float64)).solution[:, 0]
    cosine = torch.nn.functional.cosine_similarity(direction, nearest, dim=0)
    assert abs(cosine.item()) == pytest.approx(1)


def test_a_zero_gradient_is_left_out() -> None:
    jacobian, _ = random_problem(3, 20)
    jacobian[1] = 0
    weights = weights_of(jacobian)
    assert weights[1] == 0
    torch.testing.assert_close(weights[[0, 2]], weights_of(jacobian[[0, 2]]))


def test_the_line_is_free_of_scale_but_its_sign_is_not() -> None:
    """As documented: with correlated gradients the sum of the weights may turn d round."""
    jacobian = rows([1.0, 0.0, 0.1], [0.0, 1.0, 0.1], [1.0, 1.0, 0.0])
    plain = weights_of(jacobian) @ jacobian
    jacobian[2] /= 1000
    turned = weights_of(jacobian) @ jacobian
    cosine = torch.nn.functional.cosine_similarity(plain, turned, dim=0)
    assert cosine.item() == pytest.approx(-1)
    assert (jacobian @ turned < 0).all()


def test_no_weights_of_sum_one() -> None:
    with pytest.raises(SolverError, match="no weights of sum 1"):
        weights_of(rows([1.0], [-0.5], [1.0]))


def test_what_it_asks_of_the_engine() -> None:
    assert IMTLG.heads == "unweighted"
    assert IMTLG.place == "parameters"


def test_beside_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for tasks in (2, 3, 8):
        jacobian, losses = random_problem(tasks, 20, tasks)
        ours = Drive(build("imtl_g", tasks), tasks).step(jacobian, losses)
        torch.testing.assert_close(ours, aggregation.IMTLG()(jacobian))
