"""What every weighting must survive. Methods are found through ``configs/weighting``."""

import copy
import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from weighting_driver import (
    CONFIGS,
    Drive,
    build,
    configured,
    evaluation,
    random_problem,
    read_config,
    task_infos,
    written,
)

from mtlrun.weighting.base import Claim, GramianWeighting, JacobianWeighting, LossWeighting

METHODS = configured()
RUNTIME_FACTS = {"tasks", "layers", "channels"}
every_method = pytest.mark.parametrize("name", METHODS)

Problem = tuple[Tensor, Tensor]


def families() -> dict[str, Problem]:
    """Gradients [T, P] and losses [T] of every awkward kind."""
    jacobian, losses = random_problem(3, 20)
    one, one_loss = random_problem(1, 20)
    two = torch.tensor([1.0, 2.0], dtype=torch.float64)
    zero_row = jacobian.clone()
    zero_row[1] = 0
    scales = torch.tensor([1e-4, 1.0, 1e4], dtype=torch.float64)
    return {
        "typical": (jacobian, losses),
        "one task": (one, one_loss),
        "a zero gradient": (zero_row, losses),
        "all gradients zero": (torch.zeros_like(jacobian), losses),
        "equal gradients": (one.repeat(3, 1), one_loss.repeat(3)),
        "parallel gradients": (scales[:, None] * one, losses),
        "opposed gradients": (torch.cat([one, -one]), two),
        "opposed, of different length": (torch.cat([one, -3 * one]), two),
        "more tasks than parameters": random_problem(5, 2),
        "small losses": (1e-6 * jacobian, 1e-6 * losses),
        "large losses": (1e6 * jacobian, 1e6 * losses),
        "losses of different scale": (scales[:, None] * jacobian, scales * losses),
        "forty tasks": random_problem(40, 60),
    }


def assert_finite(drive: Drive, direction: Tensor) -> None:
    assert direction.isfinite().all()
    for parameter in drive.weighting.parameters():
        assert parameter.isfinite().all()


def assert_parallel(direction: Tensor, gradient: Tensor) -> None:
    """``direction`` is ``gradient`` times a positive number."""
    cosine = torch.nn.functional.cosine_similarity(direction, gradient, dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-5)


def train(drive: Drive, problem: Problem, epochs: range, steps: int = 3) -> list[Tensor]:
    """Some epochs in which each loss falls at its own rate."""
    jacobian, losses = problem
    rates = torch.linspace(0.5, 0.95, len(losses), dtype=torch.float64)
    directions = []
    for epoch in epochs:
        drive.weighting.start_epoch([losses * rates**past for past in range(epoch)])
        for step in range(steps):
            now = losses * rates ** (epoch + step / steps)
            directions.append(drive.step(jacobian * (1 + step / 7), now, epoch=epoch))
        drive.weighting.after_evaluation(evaluation(now.tolist()))
    return directions


def test_there_are_methods() -> None:
    assert len(METHODS) >= 8


def test_every_file_has_its_yaml_and_every_yaml_its_file() -> None:
    assert configured() == written()


@every_method
def test_yaml_mirrors_its_class(name: str) -> None:
    cls, given_settings = read_config(name)
    assert cls.__module__ == f"mtlrun.weighting.{name}"
    assert issubclass(cls, LossWeighting | GramianWeighting | JacobianWeighting)
    assert cls.heads in ("weighted", "unweighted")
    parameters = dict(inspect.signature(cls).parameters)
    assert set(given_settings) == set(parameters) - RUNTIME_FACTS
    defaults = {key: parameters[key].default for key in given_settings}
    for key, value in given_settings.items():
        assert value == defaults[key], key


@every_method
def test_yaml_explains_itself(name: str) -> None:
    first, *rest = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ")
    assert "Needs" in first
    assert not any(line.startswith("_target_") and "#" in line for line in rest)
    for line in rest:
        if line.strip() and not line.startswith(("_target_", "#")):
            assert "#" in line, f"{name}.yaml: a setting without a comment: {line}"


@every_method
@pytest.mark.parametrize("family", families())
def test_stays_finite(name: str, family: str) -> None:
    problem = families()[family]
    drive = Drive(build(name, len(problem[1])), len(problem[1]))
    for direction in train(drive, problem, range(4)):
        assert_finite(drive, direction)


@every_method
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_stays_finite_on_anything(name: str, data: st.DataObject) -> None:
    tasks = data.draw(st.integers(1, 5))
    size = data.draw(st.integers(1, 6))
    element = st.floats(-1e3, 1e3, width=32)
    jacobian = data.draw(arrays.arrays("float64", (tasks, size), elements=element))
    losses = data.draw(arrays.arrays("float64", tasks, elements=st.floats(1e-4, 1e4)))
    drive = Drive(build(name, tasks), tasks)
    for _ in range(3):
        direction = drive.step(torch.from_numpy(jacobian), torch.from_numpy(losses))
        assert_finite(drive, direction)


@every_method
@pytest.mark.parametrize("family", ["one task", "equal gradients"])
def test_follows_the_gradient_on_which_all_agree(name: str, family: str) -> None:
    jacobian, losses = families()[family]
    drive = Drive(build(name, len(losses)), len(losses))
    for direction in train(drive, (jacobian, losses), range(3)):
        assert_parallel(direction, jacobian[0])


@every_method
def test_survives_a_task_that_is_absent(name: str) -> None:
    jacobian, losses = random_problem(3, 20)
    drive = Drive(build(name, 3), 3)
    for present in [(0, 2), (0, 1, 2), (1,), (0, 2), (0, 1, 2)]:
        chosen = list(present)
        assert_finite(drive, drive.step(jacobian[chosen], losses[chosen], present))


@every_method
def test_survives_a_task_without_labels_in_an_epoch(name: str) -> None:
    jacobian, losses = random_problem(3, 20)
    absent = losses.clone()
    absent[1] = torch.nan
    drive = Drive(build(name, 3), 3)
    history: list[Tensor] = []
    for epoch, mean in enumerate([losses, absent, losses, absent, absent]):
        drive.weighting.start_epoch(history)
        present = [i for i in range(3) if mean.isfinite()[i]]
        direction = drive.step(jacobian[present], losses[present], present, epoch=epoch)
        assert_finite(drive, direction)
        history.append(mean)


@every_method
def test_state_survives_a_checkpoint(name: str) -> None:
    problem = random_problem(4, 20)
    drive = Drive(build(name, 4), 4)
    train(drive, problem, range(3))
    state = copy.deepcopy(drive.state_dict())
    expected = train(drive, problem, range(3, 5))
    resumed = Drive(build(name, 4), 4)
    resumed.load_state_dict(state)
    for got, wanted in zip(train(resumed, problem, range(3, 5)), expected, strict=True):
        assert torch.equal(got, wanted)


@every_method
def test_state_survives_a_checkpoint_within_an_epoch(name: str) -> None:
    problem = random_problem(4, 20)
    drive = Drive(build(name, 4), 4)
    train(drive, problem, range(3))
    state = copy.deepcopy(drive.state_dict())
    resumed = Drive(build(name, 4), 4)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.step(*problem, epoch=2), drive.step(*problem, epoch=2))


@every_method
def test_draws_do_not_depend_on_global_generators(name: str) -> None:
    problem = random_problem(4, 20)
    runs = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            runs.append(train(Drive(build(name, 4), 4), problem, range(3)))
            assert torch.equal(torch.get_rng_state(), before)
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def draws_at_random(name: str, problem: Problem) -> bool:
    """Whether the direction depends on the seed, or on the step's number alone."""
    first, second = Drive(build(name, 4), 4), Drive(build(name, 4), 4)
    second.number = 1
    return any(
        not torch.equal(first.step(*problem, seed=0), second.step(*problem, seed=1))
        for _ in range(5)
    )


@every_method
def test_the_order_of_tasks_does_not_matter(name: str) -> None:
    problem = random_problem(4, 20)
    if draws_at_random(name, problem):
        pytest.skip("draws at random")
    if read_config(name)[0].order_matters:
        pytest.skip("the order of tasks is part of the method")
    order = [2, 0, 3, 1]
    infos = task_infos(4)
    plain = Drive(build(name, infos), 4)
    moved = Drive(build(name, [infos[i] for i in order]), 4)
    jacobian, losses = problem
    for factor in (1.0, 0.5, 0.9):
        now = losses * factor ** torch.arange(1, 5)
        expected = plain.step(jacobian, now)
        got = moved.step(jacobian[order], now[order])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def claiming(claim: Claim) -> pytest.MarkDecorator:
    """The methods that promise something, see :data:`mtlrun.weighting.base.Claim`."""
    names = [name for name in METHODS if claim in read_config(name)[0].claims]
    return pytest.mark.parametrize("name", names)


def first_direction(name: str, problem: Problem) -> Tensor:
    return Drive(build(name, len(problem[1])), len(problem[1])).step(*problem)


@claiming("non_conflicting")
@pytest.mark.parametrize("tasks", [2, 3, 8, 40])
def test_claim_no_loss_rises(name: str, tasks: int) -> None:
    for seed in range(3):
        jacobian, losses = random_problem(tasks, 60, seed)
        direction = first_direction(name, (jacobian, losses))
        assert direction.norm() > 0
        products = jacobian @ direction
        assert products.min() >= -1e-6 * jacobian.norm(dim=1).max() * direction.norm()


@claiming("stationary")
@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_claim_stays_at_a_stationary_point(name: str, tasks: int) -> None:
    """One gradient is minus a positive combination of the others."""
    for seed in range(3):
        jacobian, losses = random_problem(tasks, 20, seed)
        shares = torch.linspace(0.2, 0.8, tasks - 1, dtype=torch.float64)
        jacobian[-1] = -shares @ jacobian[:-1]
        assert first_direction(name, (jacobian, losses)).norm() < 1e-4 * jacobian.norm()


@claiming("homogeneous")
@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6])
def test_claim_scales_with_the_losses(name: str, factor: float) -> None:
    jacobian, losses = random_problem(3, 20)
    expected = first_direction(name, (jacobian, losses))
    got = first_direction(name, (factor * jacobian, factor * losses))
    torch.testing.assert_close(got / factor, expected, rtol=1e-5, atol=1e-6)


@claiming("invariant")
@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6])
def test_claim_does_not_depend_on_the_scale_of_losses(name: str, factor: float) -> None:
    jacobian, losses = random_problem(3, 20)
    expected = first_direction(name, (jacobian, losses))
    got = first_direction(name, (factor * jacobian, factor * losses))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@claiming("impartial")
def test_claim_does_not_depend_on_the_scale_of_each_loss(name: str) -> None:
    jacobian, losses = random_problem(3, 20)
    scales = torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64)
    expected = first_direction(name, (jacobian, losses))
    got = first_direction(name, (scales[:, None] * jacobian, scales * losses))
    assert_parallel(got, expected)


@every_method
def test_its_own_parameters_move(name: str) -> None:
    problem = random_problem(4, 20)
    drive = Drive(build(name, 4), 4)
    before = [parameter.detach().clone() for parameter in drive.weighting.parameters()]
    train(drive, problem, range(2))
    for old, parameter in zip(before, drive.weighting.parameters(), strict=True):
        assert not torch.equal(old, parameter)
