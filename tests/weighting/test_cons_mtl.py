import pytest
import torch
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.errors import UserError
from mtlrun.weighting.cons_mtl import ConsMTL
from mtlrun.weighting.fairgrad import FairGrad
from mtlrun.weighting.solvers import SolverError


def test_shared_parameters_follow_fairgrad() -> None:
    jacobian, losses = random_problem(3, 20)
    for settings in ({}, {"alpha": 1.0}, {"multiply_by_tasks": True}):
        ours = Drive(ConsMTL(tasks=task_infos(3), **settings), 3).step(jacobian, losses)
        assert torch.equal(ours, Drive(FairGrad(**settings), 3).step(jacobian, losses))


@pytest.mark.parametrize("multiply_by_tasks", [False, True])
def test_alignment_has_fairgrads_own_weights(multiply_by_tasks: bool) -> None:
    """Orthogonal gradients of length n: n^2 x = x^(-1/2), so x = n^(-4/3)."""
    weighting = ConsMTL(
        strength=50.0,
        clip={"task1": 0.05},
        multiply_by_tasks=multiply_by_tasks,
        tasks=task_infos(3),
    )
    lengths = torch.tensor([1.0, 8.0], dtype=torch.float64)
    Drive(weighting, 3).step(torch.diag(lengths), torch.ones(2), (0, 1))
    assert weighting.alignment is not None
    assert weighting.alignment_limits is not None
    assert weighting.alignment.tolist() == pytest.approx([50.0, 50 / 16], rel=1e-6)
    assert weighting.alignment_limits.tolist() == pytest.approx([0.0, 0.05], rel=1e-6)


def test_a_solver_that_fails_leaves_no_alignment_behind() -> None:
    weighting = ConsMTL(tasks=task_infos(2))
    drive = Drive(weighting, 2)
    drive.step(*random_problem(2, 10))
    assert weighting.alignment is not None
    with pytest.raises(SolverError):
        weighting.weights(torch.full((2, 2), torch.nan, dtype=torch.float64), torch.ones(2))
    assert weighting.alignment is None


def test_what_it_asks_of_the_engine() -> None:
    assert ConsMTL.aligns_heads
    assert ConsMTL.heads == "unweighted"
    assert not FairGrad.aligns_heads


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="strength=-1: must be a number, 0 or more"):
        ConsMTL(strength=-1, tasks=task_infos(2))
    with pytest.raises(UserError, match=r"weighting.clip.task0=-0.1: give a finite number"):
        ConsMTL(clip=-0.1, tasks=task_infos(2))
    with pytest.raises(ValueError, match="alpha=0: must be a number greater than 0"):
        ConsMTL(alpha=0, tasks=task_infos(2))
