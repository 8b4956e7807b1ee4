from typing import Any

import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.base import StepInfo
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


# -- on activations -------------------------------------------------------------------------------


def on_activations(
    features: Tensor, gradients: Tensor, seed: int = 0, **settings: Any
) -> tuple[Tensor, GradDrop]:
    """One step on features [N, ...] and gradients [T, N, ...]."""
    weighting = GradDrop(of="activations", tasks=task_infos(len(gradients)), **settings)
    weighting.begin_step(StepInfo(seed, 0, 0, tuple(range(len(gradients)))))
    weighting.representation = features
    direction = weighting.direction(gradients.flatten(1), torch.ones(len(gradients)))
    return direction.view(features.shape), weighting


def test_activations_by_hand() -> None:
    """Features (1, -2), (3, 0). Signed sums over the rows, for each task:

    1 + 1 = 2 and -2 - 2 = -4 in the first feature, P = 1/3; in the second -5 and 1, since a row
    whose feature is 0 has no sign, P = 1/6. A task whose sum has the other sign loses all rows; the
    second task is kept where it has U >= 1/3 and U < 1/6.
    """
    features = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    gradients = torch.tensor([[[1.0, 5.0], [1.0, 7.0]], [[-2.0, -1.0], [-2.0, 9.0]]])
    keeps = {
        (True, True): [[-2.0, -1.0], [-2.0, 9.0]],
        (True, False): [[-2.0, 5.0], [-2.0, 7.0]],
        (False, True): [[1.0, -1.0], [1.0, 9.0]],
        (False, False): [[1.0, 5.0], [1.0, 7.0]],
    }
    seen = torch.zeros(2)
    for seed in range(300):
        direction, _ = on_activations(features, gradients, seed, keep_norm=False)
        second = (direction[0, 0] == -2, direction[0, 1] == -1)
        assert direction.tolist() == keeps[bool(second[0]), bool(second[1])]
        seen += torch.stack(second)
    assert (seen / 300).tolist() == pytest.approx([2 / 3, 1 / 6], abs=0.08)


def test_activations_agree_with_the_official_layer() -> None:
    """Its masks written out: on maps, a leak for one task, brought to the length of the sum."""
    draws = torch.Generator().manual_seed(2)
    features = torch.randn(4, 3, 2, 5, generator=draws).relu()
    gradients = torch.randn(3, *features.shape, generator=draws)
    direction, weighting = on_activations(features, gradients, leak={"task1": 0.25})
    summed = (gradients * features.sign()).sum(dim=1)  # [T, C, H, W]
    centred = summed.sum(dim=0) / (2 * summed.abs().sum(dim=0)).clamp(min=1e-30)
    uniform = weighting._uniform(summed[0].flatten()).view(summed[0].shape)
    chosen = torch.where(centred + 0.5 > uniform, 0.5, -0.5)
    masks = (summed.sign() * chosen >= 0).float()
    leaks = torch.tensor([0.0, 0.25, 0.0]).view(3, 1, 1, 1)
    total = (gradients * (leaks + (1 - leaks) * masks)[:, None]).sum(dim=0)
    expected = total * gradients.sum(dim=0).norm() / total.norm()
    assert 0.2 < masks.mean() < 0.8
    assert (summed == 0).any()  # where no row of the batch has the feature
    torch.testing.assert_close(direction, expected, rtol=1e-5, atol=1e-6)


def test_the_length_is_kept_on_parameters_too_if_asked_for() -> None:
    jacobian, losses = random_problem(3, 30)
    total = jacobian.sum(dim=0).norm().item()
    for reduction, length in (("sum", total), ("mean", total / 3)):
        weighting = GradDrop(keep_norm=True, reduction=reduction, tasks=task_infos(3))
        direction = Drive(weighting, 3).step(jacobian, losses)
        assert direction.norm().item() == pytest.approx(length, rel=1e-5)
    plain = Drive(GradDrop(tasks=task_infos(3)), 3).step(jacobian, losses)
    assert plain.norm().item() != pytest.approx(total, rel=1e-2)


def test_activations_without_gradients_or_features() -> None:
    zeros = torch.zeros(4, 3)
    ones = torch.ones(2, 4, 3)
    assert torch.equal(on_activations(zeros, ones)[0], ones.sum(dim=0))
    assert torch.equal(on_activations(ones[0], 0 * ones)[0], zeros)


def test_where_gradients_are_taken() -> None:
    assert GradDrop(tasks=task_infos(2)).place == "parameters"
    weighting = GradDrop(of="activations", tasks=task_infos(2))
    assert weighting.place == "representation"
    assert weighting.sees_representation
    with pytest.raises(ValueError, match="of='weights': choose one of parameters, activations"):
        GradDrop(of="weights", tasks=task_infos(2))
