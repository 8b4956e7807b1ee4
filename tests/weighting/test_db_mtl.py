import pytest
import torch
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.db_mtl import DBMTL


def test_all_gradients_become_as_long_as_the_longest() -> None:
    jacobian, losses = random_problem(3, 20)
    drive = Drive(DBMTL(beta=0.0, tasks=task_infos(3)), 3)
    rows = jacobian / losses[:, None]
    lengths = rows.norm(dim=1)
    expected = lengths.max() * (rows / lengths[:, None]).sum(dim=0)
    torch.testing.assert_close(drive.step(jacobian, losses), expected)


def test_heads_train_on_log_losses() -> None:
    assert DBMTL.heads == "weighted"
    jacobian, losses = random_problem(3, 20)
    drive = Drive(DBMTL(tasks=task_infos(3)), 3)
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    torch.testing.assert_close(drive.weighting.head_weights, 1 / losses[[0, 2]])


def test_losses_have_no_scale() -> None:
    jacobian, losses = random_problem(3, 20)
    scales = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    plain = Drive(DBMTL(tasks=task_infos(3)), 3)
    scaled = Drive(DBMTL(tasks=task_infos(3)), 3)
    for step in range(3):
        now = losses * 0.9**step
        expected = plain.step(jacobian, now)
        got = scaled.step(scales[:, None] * jacobian, scales * now)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def first_rates(decay: float) -> list[float]:
    weighting = DBMTL(beta=0.8, decay=decay, tasks=task_infos(2))
    drive = Drive(weighting, 2)
    rates = []
    for _ in range(4):
        drive.step(*random_problem(2, 5))
        rates.append(weighting.tracking(torch.ones(2, dtype=torch.float64))[1][0].item())
    return rates


def test_decay() -> None:
    assert first_rates(0.0) == pytest.approx([0.2] * 4)
    assert first_rates(0.5) == pytest.approx([1 - 0.8 / k**0.5 for k in range(1, 5)])


@pytest.mark.parametrize("loss", [0.0, 1e-9, -1.0])
def test_a_solved_task_sits_the_step_out(loss: float) -> None:
    jacobian, losses = random_problem(3, 20)
    drive = Drive(DBMTL(tasks=task_infos(3)), 3)
    drive.step(jacobian, losses)
    assert drive.tracked is not None
    average = drive.tracked[1].clone()
    now = losses.clone()
    now[1] = loss
    got = drive.step(jacobian, now)
    assert torch.equal(drive.tracked[1], average)
    assert drive.weighting.head_weights[1] == 0
    lengths = drive.tracked[[0, 2]].norm(dim=1)
    torch.testing.assert_close(got, (lengths.max() / lengths) @ drive.tracked[[0, 2]])


def test_negative_losses_are_refused_after_the_epoch() -> None:
    weighting = DBMTL(tasks=task_infos(2))
    weighting.start_epoch([])
    weighting.start_epoch([torch.tensor([0.5, torch.nan], dtype=torch.float64)])
    with pytest.raises(UserError, match=r"task1 -0\.5"):
        weighting.start_epoch([torch.tensor([0.5, -0.5], dtype=torch.float64)])


def test_wrong_settings() -> None:
    for beta in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"beta=.*: must be 0 or more and less than 1"):
            DBMTL(beta=beta, tasks=task_infos(2))
    with pytest.raises(ValueError, match="decay=-1: must be a number, 0 or more"):
        DBMTL(decay=-1, tasks=task_infos(2))
