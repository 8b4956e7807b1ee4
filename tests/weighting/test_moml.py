import numpy as np
import pytest
import torch
from parity_stochastic import batches_of, gramian_method, show
from torch import Tensor
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.moml import MOML


def weights_after(rows: Tensor, after: Tensor, steps: int = 1, **changes: object) -> list[float]:
    method = gramian_method("moml", len(rows), learning_rate=0.01, **changes)
    for step in range(steps):
        weights = show(method, [rows.numpy(), after.numpy()], step, rate=0.1)
    return weights.tolist()


def test_a_task_that_helps_both_gains() -> None:
    """The first task's step lowers both losses of the second batch, the second's neither."""
    rows = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    after = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    for normalisation in ("l2", "none"):
        first, second = weights_after(rows, after, 10, normalisation=normalisation)
        assert first == pytest.approx(1 / (1 + np.exp(-0.2)), abs=1e-3)
        assert first + second == pytest.approx(1)


def test_tasks_that_want_opposite_weights_leave_them() -> None:
    """Each task lowers its own loss only: both hypergradients have length 1, against each other."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    assert weights_after(rows, rows, 10) == pytest.approx([0.5, 0.5], abs=1e-9)


def test_scales_of_losses_do_not_matter() -> None:
    rows, after = (torch.from_numpy(batch) for batch in batches_of(3, 2, 5))
    expected = weights_after(rows, after, 3)
    for scale in (1e-6, 1e6):
        assert weights_after(scale * rows, scale * after, 3) == pytest.approx(expected, abs=1e-6)


def test_equal_gradients_leave_the_weights() -> None:
    row, _ = random_problem(1, 20)
    assert weights_after(row.repeat(3, 1), row.repeat(3, 1), 5) == [1 / 3] * 3


def test_looks_ahead_with_the_weights_that_it_has() -> None:
    method = gramian_method("moml", 3)
    method.logits.copy_(torch.tensor([0.0, 1.0, 2.0]))
    method.begin_step(StepInfo(0, 0, 0, (0, 2)))
    expected = torch.tensor([0.0, 2.0], dtype=torch.float64).softmax(dim=0)
    torch.testing.assert_close(method.lookahead_weights(), expected)


def test_absent_tasks_keep_their_logit() -> None:
    jacobian, losses = random_problem(3, 20, 1)
    method = MOML(tasks=task_infos(3))
    drive = Drive(method, 3)
    while method.logits[1] == 0:
        jacobian = jacobian + random_problem(3, 20, drive.number)[0]
        drive.step(jacobian, losses)
        assert drive.number < 20
    before = method.logits.clone()
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    assert method.logits[1] == before[1]


def test_what_it_asks_of_the_engine() -> None:
    assert MOML.heads == "weighted"
    assert MOML.lookahead
    assert MOML.batches == 2
    assert not list(MOML(tasks=task_infos(2)).parameters())


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="normalisation='l1': choose one of l2, none"):
        MOML(normalisation="l1", tasks=task_infos(2))
    with pytest.raises(ValueError, match="learning_rate=0: must be"):
        MOML(learning_rate=0, tasks=task_infos(2))
