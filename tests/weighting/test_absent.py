"""What methods that train a number for each task keep for tasks that are absent from a step."""

import pytest
from weighting_driver import Drive, build, random_problem


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("uncertainty", "log_scale"),
        ("imtl_l", "log_weight"),
        ("imtl", "log_scale"),
        ("ldc_mtl", "logits"),
    ],
)
def test_momentum_does_not_move_what_an_absent_task_has_learned(name: str, parameter: str) -> None:
    jacobian, losses = random_problem(3, 20)
    drive = Drive(build(name, 3), 3)
    learned = drive.weighting.get_parameter(parameter)
    for _ in range(3):
        drive.step(jacobian, 5 * losses)
    before = learned.detach().clone()
    drive.step(jacobian[[0, 2]], 5 * losses[[0, 2]], (0, 2))
    assert (learned != before).tolist() == [True, False, True]
    drive.step(jacobian, 5 * losses)
    assert learned[1] != before[1]
