import pytest
import torch
from parity_stochastic import batches_of, gramian_method, show
from weighting_driver import task_infos

from mtlrun.weighting.modo import MoDo


def test_only_products_across_batches_count() -> None:
    """Two batches whose gradients have nothing in common leave the weights equal."""
    rows = torch.eye(6, dtype=torch.float64).numpy()
    method = gramian_method("modo", 3, gamma=1.0)
    weights = show(method, [rows[:3] * [[1.0], [5.0], [9.0]], rows[3:]], 0)
    assert weights.tolist() == pytest.approx([1 / 6] * 6)


def test_the_order_of_the_product_is_that_of_the_papers() -> None:
    """G_1 G_2' lambda with G_1 = (1, 0), G_2 = (2, 1): (1.5, 0), so the first task loses."""
    first = torch.tensor([[1.0], [0.0]]).double().numpy()
    second = torch.tensor([[2.0], [1.0]]).double().numpy()
    method = gramian_method("modo", 2, gamma=0.1, rho=0.0, reduction="sum")
    weights = show(method, [first, second], 0)
    assert weights.tolist() == pytest.approx([0.425, 0.575] * 2)


def test_beside_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.MoDoWeighting(gamma=0.2, rho=0.1)
    method = gramian_method("modo", 4, gamma=0.2, rho=0.1, reduction="sum")
    for step in range(5):
        first, second = batches_of(4, 2, step)
        expected = theirs(torch.from_numpy(first @ second.T))
        got = show(method, [first, second], step)
        torch.testing.assert_close(got, expected.repeat(2), rtol=0, atol=1e-9)


def test_what_it_asks_of_the_engine() -> None:
    assert MoDo.batches == 2
    assert MoDo.heads == "unweighted"


def test_wrong_settings() -> None:
    for name in ("gamma", "rho"):
        with pytest.raises(ValueError, match=f"{name}=-1: must be a number, 0 or more"):
            MoDo(**{name: -1}, tasks=task_infos(2))
    with pytest.raises(ValueError, match="reduction='max': choose one of sum, mean"):
        MoDo(reduction="max", tasks=task_infos(2))
