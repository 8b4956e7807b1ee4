import pytest
import torch
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.static import Static


def test_a_task_left_out_weighs_one() -> None:
    jacobian, losses = random_problem(3, 5)
    weighting = Static({"task2": 2.5, "task1": 0}, tasks=task_infos(3))
    direction = Drive(weighting, 3).step(jacobian, losses)
    torch.testing.assert_close(direction, jacobian[0] + 2.5 * jacobian[2])


def test_an_absent_task_takes_its_weight_with_it() -> None:
    jacobian, losses = random_problem(2, 5)
    weighting = Static({"task1": 7.0, "task2": 3.0}, tasks=task_infos(3))
    direction = Drive(weighting, 3).step(jacobian, losses, (0, 2))
    torch.testing.assert_close(direction, jacobian[0] + 3 * jacobian[1])


def test_a_checkpoint_does_not_bring_back_other_weights() -> None:
    assert not Static({"task0": 2.0}, tasks=task_infos(2)).state_dict()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"taks1": 1.0},
            r"weighting.weights.taks1=1.0: this run has no task .* Did you mean task1\?",
        ),
        ({"zebra": 1.0}, r"no task of that name\. Its tasks are task0, task1, task2"),
        ({"task1": -1.0}, r"weighting.weights.task1=-1.0: give a finite number, 0 or more"),
        ({"task1": float("nan")}, "task1=nan: give a finite number"),
        ({"task1": float("inf")}, "task1=inf: give a finite number"),
        ({"task1": "big"}, "task1=big: give a finite number"),
        ({"task1": True}, "task1=True: give a finite number"),
        ({"task0": 0, "task1": 0, "task2": 0}, "Give at least one task a weight above 0"),
    ],
)
def test_refusals(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Static(weights, tasks=task_infos(3))
