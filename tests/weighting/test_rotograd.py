import pytest
import torch
from torch.nn import functional as F
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.types import StepInfo
from mtlrun.weighting.rotograd import RotoGrad


def rotograd(tasks: int, channels: int = 2, **settings: object) -> RotoGrad:
    return RotoGrad(tasks=task_infos(tasks), channels=channels, **settings)


def test_lengths_by_hand() -> None:
    """At first alpha = 1/2 each and C = (3 + 4) / 2; then (6, 4) makes alpha = (2/3, 1/3)."""
    drive = Drive(rotograd(2), 2)
    units = torch.eye(2, dtype=torch.float64)
    for lengths, common in (((3.0, 4.0), 3.5), ((6.0, 4.0), 16 / 3)):
        direction = drive.step(torch.tensor(lengths).double()[:, None] * units, torch.ones(2))
        assert direction.tolist() == pytest.approx([common, common], rel=1e-6)
        assert drive.weighting.task_weights is not None
        expected = [common / length for length in lengths]
        assert drive.weighting.task_weights.tolist() == pytest.approx(expected, rel=1e-6)


def test_lengths_of_the_burn_in_step_are_the_initial_ones() -> None:
    weighting = rotograd(2, burn_in=2)
    drive = Drive(weighting, 2)
    jacobian, losses = random_problem(2, 10)
    norms = jacobian.norm(dim=1)
    seen = []
    for factor in (1.0, 2.0, 3.0, 4.0):
        drive.step(factor * jacobian, losses)
        seen.append(weighting.initial_lengths / norms)
    expected = torch.tensor([[1.0, 1, 3, 3]]).T.expand(4, 2).double()
    torch.testing.assert_close(torch.stack(seen), expected, rtol=1e-6, atol=0)


def test_a_first_gradient_of_zero_is_passed_over() -> None:
    weighting = rotograd(2)
    drive = Drive(weighting, 2)
    jacobian, losses = random_problem(2, 10)
    zero = jacobian.clone()
    zero[1] = 0
    torch.testing.assert_close(drive.step(zero, losses), jacobian[0], rtol=1e-6, atol=0)
    assert weighting.initial_lengths.isnan().tolist() == [False, True]
    drive.step(jacobian, losses)
    torch.testing.assert_close(weighting.initial_lengths, jacobian.norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("channels", [2, 5])
def test_rotations_make_gradients_agree(channels: int) -> None:
    """Heads whose losses have fixed gradients a_i on their rotated features: dL_i/dz = R_i' a_i."""
    draws = torch.Generator().manual_seed(1)
    fixed = torch.randn(2, 8, channels, generator=draws)
    turn = torch.randn(channels, channels, generator=draws)
    skew = turn - turn.T
    fixed[1] = fixed[0] @ torch.matrix_exp(3.5 * skew / skew.norm()) + 0.1 * fixed[1]
    weighting = rotograd(2, channels, learning_rate=0.05)
    rotations = torch.stack([a.get_buffer("matrix") for a in weighting.adapters().values()])
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    cosines = []
    for step in range(150):
        gradients = (fixed @ rotations).flatten(1)
        cosines.append(F.cosine_similarity(gradients[0], gradients[1], dim=0).item())
        weighting.begin_step(StepInfo(0, 0, step, (0, 1)))
        weighting.representation = torch.zeros(8, channels)
        with torch.no_grad():
            weighting.direction(gradients, torch.ones(2))
        optimizer.step()
        weighting.after_step()
        rotations = torch.stack([a.get_buffer("matrix") for a in weighting.adapters().values()])
    assert cosines[0] < 0.3
    assert cosines[-1] > 0.95


def test_absent_tasks_keep_their_rotation() -> None:
    weighting = rotograd(3)
    drive = Drive(weighting, 3)
    jacobian, losses = random_problem(3, 20)
    for _ in range(3):
        drive.step(jacobian, losses)
    before = weighting.angles.detach().clone()
    drive.step(jacobian[[0, 2]], losses[[0, 2]], (0, 2))
    assert torch.equal(weighting.angles[1], before[1])
    assert not torch.equal(weighting.angles[[0, 2]], before[[0, 2]])
    assert weighting.steps.tolist() == [4, 3, 4]


def test_wrong_settings() -> None:
    for size, channels in ((1, 4), (5, 4), (None, 1)):
        with pytest.raises(ValueError, match=r"size=.: must be 2 or more, and at most ., the chan"):
            rotograd(2, channels, size=size)
    for burn_in in (-1, 2.5):
        with pytest.raises(ValueError, match=f"burn_in={burn_in}: must be a whole number of 0 or"):
            rotograd(2, burn_in=burn_in)


def test_a_gradient_of_next_to_nothing_counts_as_none() -> None:
    """Its inverse length, 7e36, times C would leave float32."""
    drive = Drive(rotograd(2), 2)
    jacobian = torch.tensor([[103.0], [1.5e-37]], dtype=torch.float64)
    direction = drive.step(jacobian, torch.ones(2))
    assert direction.tolist() == pytest.approx([51.5], rel=1e-6)
