import math

import pytest
import torch
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.types import Evaluation
from mtlrun.weighting.fairgrad import FairGrad
from mtlrun.weighting.pivrg import PIVRG


def evaluated(*changes: float, **settings: float) -> PIVRG:
    """After an evaluation that found these changes, in percent, positive where better."""
    weighting = PIVRG(tasks=task_infos(len(changes)), **settings)
    names = [info.name for info in task_infos(len(changes))]
    weighting.after_evaluation(Evaluation({}, {}, dict(zip(names, changes, strict=True))))
    return weighting


def test_starts_as_fairgrad() -> None:
    jacobian, losses = random_problem(3, 20)
    expected = Drive(FairGrad(2.0), 3).step(jacobian, losses)
    torch.testing.assert_close(
        Drive(PIVRG(tasks=task_infos(3)), 3).step(jacobian, losses), expected
    )
    same = Drive(evaluated(-4.0, -4.0, -4.0), 3).step(jacobian, losses)
    torch.testing.assert_close(same, expected)


def test_the_equation() -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = evaluated(-5.0, 3.0, -12.0)
    direction = Drive(weighting, 3).step(jacobian, losses)
    weights = torch.linalg.lstsq(jacobian.T, direction).solution
    torch.testing.assert_close(jacobian @ direction, (weighting.omega / weights).sqrt())


def test_worse_tasks_get_more_say_within_the_bound() -> None:
    omega = evaluated(10.0, -30.0, 0.0).omega
    assert omega[1] > omega[2] > omega[0]
    assert omega.sum().item() == pytest.approx(3)
    assert (omega[1] / omega[0]).item() == pytest.approx(2)
    tight = evaluated(1e5, -1e5, bound=1.5).omega
    assert (tight[1] / tight[0]).item() == pytest.approx(1.5)


def test_small_differences_are_left_small() -> None:
    """Below the bound the temperature is its least value."""
    omega = evaluated(1.0, -1.0, min_temperature=10.0).omega
    assert (omega[1] / omega[0]).item() == pytest.approx(math.exp(0.2))


def test_a_change_that_cannot_be_measured_stays_what_it_was() -> None:
    weighting = evaluated(1.0, -1.0)
    before = weighting.omega.clone()
    weighting.after_evaluation(Evaluation({}, {}, {}))
    assert torch.equal(weighting.omega, before)
    weighting.after_evaluation(Evaluation({}, {}, {"task0": math.nan, "task1": 3.0}))
    assert weighting.scores.tolist() == [-1.0, -3.0]


def test_a_task_that_is_absent_keeps_its_say() -> None:
    jacobian, losses = random_problem(3, 20)
    weighting = evaluated(-5.0, 3.0, -12.0)
    direction = Drive(weighting, 3).step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    weights = torch.linalg.lstsq(jacobian[[0, 2]].T, direction).solution
    expected = (weighting.omega[[0, 2]] / weights).sqrt()
    torch.testing.assert_close(jacobian[[0, 2]] @ direction, expected)


def test_scores_are_in_the_checkpoint() -> None:
    weighting = evaluated(-5.0, 3.0)
    resumed = PIVRG(tasks=task_infos(2))
    resumed.load_state_dict(weighting.state_dict())
    assert torch.equal(resumed.omega, weighting.omega)
    assert torch.equal(resumed.scores, weighting.scores)


def test_multiplying_counts_the_tasks_of_the_step() -> None:
    jacobian, losses = random_problem(2, 5)
    plain = Drive(evaluated(-5.0, 3.0, -12.0), 3).step(jacobian, losses, (0, 2))
    changed = evaluated(-5.0, 3.0, -12.0, multiply_by_tasks=True)
    torch.testing.assert_close(Drive(changed, 3).step(jacobian, losses, (0, 2)), 2 * plain)


def test_names_its_baseline_and_looks_at_evaluations() -> None:
    weighting = PIVRG("outputs/single", tasks=task_infos(2))
    assert weighting.baseline == "outputs/single"
    assert weighting.needs_baseline
    assert weighting.uses_evaluation
    assert weighting.heads == "unweighted"


def test_wrong_settings() -> None:
    for bound in (1.0, 0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="must be a number greater than 1"):
            PIVRG(bound=bound, tasks=task_infos(2))
    with pytest.raises(ValueError, match=r"min_temperature=0\.0: must be a number greater than 0"):
        PIVRG(min_temperature=0.0, tasks=task_infos(2))
