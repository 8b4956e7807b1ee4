import numpy as np
import pytest
import torch
from torch import Tensor
from weighting_driver import LAYERS, Drive, build, random_problem, task_infos

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.gradvac import GradVac, vaccinate
from mtlrun.weighting.pcgrad import project


def by_the_book(jacobian: Tensor, targets: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
    """The published loop on explicit gradients, one meeting after the other."""
    turned, cosines = jacobian.clone(), torch.full_like(targets, torch.nan)
    for i, order in enumerate(orders.tolist()):
        for j in order:
            if j == i:
                continue
            g, other, target = turned[i], jacobian[j], targets[i, j]
            cosine = g @ other / (g.norm() * other.norm())
            cosines[i, j] = cosine
            if cosine < target:
                root = (1 - target**2).sqrt()
                amount = target * (1 - cosine**2).sqrt() - cosine * root
                turned[i] = g + g.norm() * amount / (other.norm() * root) * other
    return turned, cosines


@pytest.mark.parametrize("tasks", [1, 2, 3, 8, 40])
def test_side_by_side_is_one_after_the_other(tasks: int) -> None:
    draws = torch.Generator().manual_seed(tasks)
    jacobians = [random_problem(tasks, 12, seed)[0] for seed in range(3)]  # three layers
    targets = 1.8 * torch.rand(3, tasks, tasks, generator=draws, dtype=torch.float64) - 0.9
    orders = torch.rand(3, tasks, tasks, generator=draws).argsort(dim=2)
    gramian = torch.stack([jacobian @ jacobian.T for jacobian in jacobians])
    coefficients, cosines, _ = vaccinate(gramian.numpy(), targets.numpy(), orders.numpy())
    for layer, jacobian in enumerate(jacobians):
        expected, met = by_the_book(jacobian, targets[layer], orders[layer])
        torch.testing.assert_close(torch.from_numpy(coefficients[layer]) @ jacobian, expected)
        torch.testing.assert_close(torch.from_numpy(cosines[layer]), met, equal_nan=True)


def test_a_turned_pair_has_its_target_as_cosine() -> None:
    jacobian, _ = random_problem(2, 10, 1)
    targets = np.full((1, 2, 2), 0.7)
    coefficients, _, turned = vaccinate(
        (jacobian @ jacobian.T).numpy()[None], targets, np.array([[[0, 1], [0, 1]]])
    )
    first = torch.from_numpy(coefficients[0]) @ jacobian
    assert turned[0].tolist() == [[False, True], [True, False]]
    for own in (0, 1):
        got = torch.nn.functional.cosine_similarity(first[own], jacobian[1 - own], dim=0)
        assert got.item() == pytest.approx(0.7)


def test_targets_of_zero_give_pcgrad() -> None:
    jacobian, _ = random_problem(6, 8)
    gramian = (jacobian @ jacobian.T).numpy()
    orders = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).argsort(dim=1).numpy()
    coefficients, _, _ = vaccinate(gramian[None], np.zeros((1, 6, 6)), orders[None])
    np.testing.assert_allclose(coefficients[0], project(gramian, orders), atol=1e-12)


def test_every_targets_average_moves_in_every_step() -> None:
    """Two tasks that agree are never turned, and yet their target rises to their cosine."""
    jacobian = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    weighting = GradVac(beta=0.1, tasks=task_infos(2), layers=1)
    drive = Drive(weighting, 2)
    for step in range(3):
        got = drive.step(jacobian, torch.ones(2).double())
        torch.testing.assert_close(got, jacobian.sum(dim=0))
        expected = 0.6 * (1 - 0.9 ** (step + 1))
        assert weighting.targets[0, 0, 1].item() == pytest.approx(expected)
        assert weighting.targets[0, 1, 0].item() == pytest.approx(expected)


def test_an_absent_task_keeps_its_targets() -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = GradVac(tasks=task_infos(3), layers=1)
    drive = Drive(weighting, 3)
    drive.step(jacobian, losses)
    before = weighting.targets.clone()
    drive.step(-2 * jacobian[[0, 2]] ** 2, losses[[0, 2]], (0, 2))
    moved = weighting.targets != before
    assert moved[0].tolist() == [[False, False, True], [False, False, False], [True, False, False]]


def test_each_layer_is_turned_by_itself() -> None:
    jacobian, losses = random_problem(2, 20)
    weighting = GradVac(granularity="layer", tasks=task_infos(2), layers=LAYERS)
    assert weighting.per_layer
    got = Drive(weighting, 2).step(jacobian, losses)
    alone = [
        Drive(build("gradvac", 2), 2).step(part, losses)
        for part in jacobian.tensor_split(LAYERS, dim=1)
    ]
    torch.testing.assert_close(got, torch.cat(alone))
    cosines = [
        torch.nn.functional.cosine_similarity(*part, dim=0)
        for part in jacobian.tensor_split(LAYERS, dim=1)
    ]
    torch.testing.assert_close(weighting.targets[:, 0, 1], 0.01 * torch.stack(cosines))


def test_pairs_without_a_cosine_are_passed_over() -> None:
    """A gradient of 0; and a third that meets one that its opposite has cancelled."""
    one = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    weighting = GradVac(tasks=task_infos(2), layers=1)
    got = Drive(weighting, 2).step(torch.stack([one, 0 * one]), torch.ones(2).double())
    torch.testing.assert_close(got, one)
    assert not weighting.targets.any()
    jacobian = torch.stack([one, -3 * one, torch.eye(3).double()[0]])
    _, cosines, _ = vaccinate(
        (jacobian @ jacobian.T).numpy()[None],
        np.zeros((1, 3, 3)),
        np.array([[[0, 1, 2], [1, 0, 2], [2, 0, 1]]]),
    )
    assert np.isnan(cosines[0]).tolist() == [
        [True, False, True],
        [False, True, True],
        [False, False, True],
    ]


def test_targets_of_one_do_not_divide_by_zero() -> None:
    jacobian, losses = random_problem(2, 20)
    weighting = GradVac(beta=1.0, tasks=task_infos(2), layers=1)
    drive = Drive(weighting, 2)
    drive.step(jacobian[[0, 0]], losses)
    assert drive.step(jacobian, losses).isfinite().all()


def test_draws_differ_from_step_to_step_and_layer_to_layer() -> None:
    jacobian, losses = random_problem(4, 3, 1)
    gramian = jacobian @ jacobian.T
    weighting = GradVac(granularity="layer", tasks=task_infos(4), layers=12)
    weighting.step = StepInfo(0, 0, 0, (0, 1, 2, 3))
    weights = weighting.weights(gramian.expand(12, 4, 4).contiguous(), losses)
    assert len(weights.unique(dim=0)) > 1
    weighting.step = StepInfo(0, 0, 1, (0, 1, 2, 3))
    weighting.targets.zero_()
    assert not torch.equal(weighting.weights(gramian.expand(12, 4, 4), losses), weights)


def test_beside_torchjd() -> None:
    """For two tasks the order does not matter; its targets move as the paper's do."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    if not hasattr(aggregation, "GradVac"):
        pytest.skip("this torchjd has no GradVac")
    for beta in (0.01, 0.5):
        theirs = aggregation.GradVac(beta=beta, eps=0.0)
        drive = Drive(build("gradvac", 2, beta=beta), 2)
        for seed in range(6):
            jacobian, losses = random_problem(2, 10, seed)
            torch.testing.assert_close(drive.step(jacobian, losses), theirs(jacobian))


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match=r"beta=0: must be above 0"):
        GradVac(0, tasks=task_infos(2), layers=1)
    with pytest.raises(ValueError, match="granularity='model': choose one of whole, layer"):
        GradVac(granularity="model", tasks=task_infos(2), layers=1)
