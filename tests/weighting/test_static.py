import pytest
import torch
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.static import Static, simplex_points


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


def test_points_of_two_tasks_are_evenly_spaced() -> None:
    expected = torch.tensor([[0.5, 1.5], [1.0, 1.0], [1.5, 0.5]])
    torch.testing.assert_close(simplex_points(2, 3), expected)


@pytest.mark.parametrize("tasks", [3, 5])
def test_points_of_more_tasks_spread_over_the_simplex(tasks: int) -> None:
    points = simplex_points(tasks, 4000).double()
    torch.testing.assert_close(points[0], torch.ones(tasks).double())
    assert (points > 0).all()
    torch.testing.assert_close(points.sum(1), torch.full((4000,), float(tasks)).double())
    # as of the uniform distribution on the simplex: each share is Beta(1, T - 1) distributed
    beyond = (points / tasks > 0.5).double().mean(0)
    torch.testing.assert_close(
        beyond, torch.full_like(beyond, 0.5 ** (tasks - 1)), atol=5e-3, rtol=0
    )
    spread = torch.full((tasks,), (tasks - 1) / (tasks + 1)).double()
    torch.testing.assert_close(points.var(0), spread, atol=0.02, rtol=0)


def test_a_point_is_its_weights() -> None:
    weighting = Static(point=2, points=3, tasks=task_infos(2))
    jacobian, losses = random_problem(2, 5)
    direction = Drive(weighting, 2).step(jacobian, losses)
    torch.testing.assert_close(direction, 1.5 * jacobian[0] + 0.5 * jacobian[1])
    with pytest.raises(UserError, match="both say what the weights are"):
        Static({"task0": 2.0}, point=0, tasks=task_infos(2))
    with pytest.raises(ValueError, match="point=3: use a number from 0 to 2"):
        Static(point=3, points=3, tasks=task_infos(2))
