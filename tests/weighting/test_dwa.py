import pytest
import torch
from torch import Tensor
from weighting_driver import task_infos

from mtlrun.weighting.dwa import DWA

NAN = float("nan")


def weights_after(*mean_losses: list[float], temperature: float = 2.0) -> Tensor:
    weighting = DWA(temperature, tasks=task_infos(len(mean_losses[0])))
    weighting.start_epoch([torch.tensor(mean, dtype=torch.float64) for mean in mean_losses])
    return weighting.task_weights


def test_only_the_last_two_epochs_count() -> None:
    last_two = weights_after([2.0, 4.0], [1.0, 3.0])
    assert torch.equal(weights_after([9.0, 1.0], [2.0, 4.0], [1.0, 3.0]), last_two)
    assert last_two.sum().item() == pytest.approx(2)
    assert last_two[1] > last_two[0]  # the one that falls more slowly


def test_first_two_epochs_weigh_equally() -> None:
    assert weights_after([2.0, 4.0]).tolist() == [1.0, 1.0]
    weighting = DWA(tasks=task_infos(2))
    weighting.start_epoch([])
    assert weighting.task_weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("before", "last"), [([NAN, 1, 2], [3, 1, 2]), ([3, 1, 2], [NAN, 1, 2]), ([0, 1, 2], [1, 1, 2])]
)
def test_without_a_ratio_a_task_stands_still(before: list[float], last: list[float]) -> None:
    assert weights_after(before, last).tolist() == pytest.approx([1, 1, 1])


def test_a_larger_temperature_evens_weights_out() -> None:
    even = weights_after([2.0, 4.0], [1.0, 4.0], temperature=100.0)
    assert even.tolist() == pytest.approx([1, 1], abs=0.01)
    with pytest.raises(ValueError, match="temperature=0: must be a number greater than 0"):
        DWA(0, tasks=task_infos(2))
