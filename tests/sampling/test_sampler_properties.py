"""What holds for every sampler in configs/sampler."""

import inspect
import io
from typing import Any

import pytest
import torch
from sampling_driver import COMMON, CONFIGS, NAMES, build, configured, read_config, teach, units
from sampling_driver import usable as make
from scipy.stats import chisquare

from mtlrun.sampling.base import Sampler
from mtlrun.sampling.uniform import Uniform

DRAWS = 1500
every = pytest.mark.parametrize("name", configured())


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def drawn_names(sampler: Sampler, epoch: int, steps: range) -> list[tuple[str, ...]]:
    return [tuple(unit.name for unit in sampler.draw(epoch, step)) for step in steps]


def all_probabilities(sampler: Sampler) -> torch.Tensor:
    return torch.stack([sampler.probabilities(epoch) for epoch in range(sampler.epochs)])


def test_there_are_samplers() -> None:
    assert {"joint", "proportional", "multi_dds", "task_subset"} <= set(configured())


@every
def test_yaml_has_the_settings_of_the_class_and_its_defaults(name: str) -> None:
    cls, settings = read_config(name)
    facts = {"units", "epochs", "seed", "levels"}
    parameters = inspect.signature(cls).parameters
    assert settings == {k: p.default for k, p in parameters.items() if k not in facts}
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith(f"# {cls.__name__}: ")
    keys = {line.split(":")[0] for line in lines[1:]}
    assert keys - {"_target_", *settings} == (COMMON - {"of"} if cls.joint else COMMON)


@every
def test_units_are_drawn_as_often_as_the_probabilities_say(name: str) -> None:
    sampler = make(name)
    teach(sampler)
    for epoch in (0, sampler.epochs - 1):
        chances = sampler.probabilities(epoch)
        assert chances.dtype == torch.float64
        assert chances.shape == (len(NAMES),)
        assert float(chances.min()) >= 0
        assert float(chances.sum()) == pytest.approx(1, abs=1e-12)
    steps = drawn_names(sampler, 0, range(DRAWS))
    assert {len(step) for step in steps} == {sampler.per_step}
    assert all(step == tuple(sorted(set(step))) for step in steps)  # once each, in order
    counts = torch.tensor([sum(unit in step for step in steps) for unit in NAMES])
    expected = sampler.probabilities(0) * DRAWS * sampler.per_step
    seen = expected > 1e-9
    assert not counts[~seen].any()
    assert chisquare(counts[seen], expected[seen]).pvalue > 1e-4


@every
def test_draws_depend_on_seed_epoch_and_step_alone(name: str) -> None:
    sampler = make(name, seed=3)
    backwards = [drawn_names(sampler, 1, range(s, s + 1))[0] for s in reversed(range(40))]
    assert drawn_names(make(name, seed=3), 1, range(40)) == backwards[::-1]
    if name not in {"joint", "round_robin"}:
        assert drawn_names(make(name, seed=4), 1, range(40)) != backwards[::-1]
        assert drawn_names(sampler, 1, range(40, 80)) != backwards[::-1]


@every
def test_what_is_learnt_survives_a_file_and_learning_goes_on_from_it(name: str) -> None:
    sampler, other = make(name), make(name)
    before = all_probabilities(sampler)
    teach(sampler)
    learns = sampler.uses_evaluation or sampler.compares != "nothing"
    assert bool((all_probabilities(sampler) != before).any()) == learns
    kept = sampler.state_dict()
    saved = through_a_file(kept)
    learnt = all_probabilities(sampler)
    teach(sampler, first=3)
    other.load_state_dict(saved)
    assert torch.equal(all_probabilities(other), learnt)
    teach(other, first=3)
    assert torch.equal(all_probabilities(other), all_probabilities(sampler))
    third = make(name)
    third.load_state_dict(kept)  # later learning left what was handed out as it was
    assert torch.equal(all_probabilities(third), learnt)
    teach(third, first=3)
    assert torch.equal(all_probabilities(third), all_probabilities(sampler))


@every
def test_one_unit_alone(name: str) -> None:
    (unit,) = units([5])
    sampler = make(name, [unit], epochs=1)
    for _ in range(2):
        assert sampler.probabilities(0).tolist() == [1.0]
        assert sampler.draw(0, 7) == (unit,)
        assert sampler.per_step == sampler.fewest_tasks == 1
        teach(sampler)


@every
def test_what_it_learns_from_is_declared(name: str) -> None:
    sampler = make(name)
    assert (sampler.refresh_every > 0) == (sampler.compares != "nothing")
    assert sampler.several == (sampler.per_step > 1)
    assert sampler.fewest_tasks == sampler.per_step


class Unsound(Uniform):
    """Chances of 0.5 and what is left, for two units."""

    rest = 0.0

    def probabilities(self, epoch: int) -> torch.Tensor:
        return torch.tensor([0.5, self.rest], dtype=torch.float64)


@pytest.mark.parametrize("rest", [0.4, -0.5, float("nan"), float("inf")])
def test_chances_that_are_none_are_refused(rest: float) -> None:
    sampler = Unsound(units=units([5, 5]))
    sampler.rest = rest
    with pytest.raises(ValueError, match="Unsound: the probabilities of epoch 2 are"):
        sampler.draw(2, 0)


def test_what_is_learnt_counts_from_the_refresh_on() -> None:
    sampler = Unsound(units=units([5, 5]))
    sampler.refresh_every, chances = 3, [0.0, 1.0]
    sampler.probabilities = lambda _: torch.tensor(chances, dtype=torch.float64)
    found = []
    for step in range(6):
        found += drawn_names(sampler, 0, range(step, step + 1))
        if (step + 1) % 3 == 0:
            chances.reverse()
    assert found == [("task1",)] * 3 + [("task0",)] * 3


def test_units_without_a_chance_are_not_drawn() -> None:
    sampler = Unsound(units=units([5, 5, 5]))
    for place in range(3):
        chances = torch.zeros(3, dtype=torch.float64)
        chances[place] = 1
        sampler.probabilities = lambda _, found=chances: found
        assert {sampler.draw(place, step) for step in range(50)} == {(sampler.units[place],)}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("temperature", {"temperature": 0}, "temperature=0: must be above 0"),
        ("temperature", {"temperature": float("nan")}, "temperature=nan: must be above 0"),
        ("annealed", {"final": 1.5}, "final=1.5: must be between 0 and 1"),
        ("dynamic_temperature", {"mode": "up"}, "choose one of ramp, performance"),
        ("dynamic_temperature", {"initial_temperature": 0}, "initial_temperature=0: must be"),
        ("dynamic_temperature", {"initial_temperature": 6}, "final_temperature=5.0: must be at"),
        ("dynamic_temperature", {"ramp_epochs": 0}, "ramp_epochs=0: must be a whole number"),
        (
            "dynamic_temperature",
            {"mode": "performance", "ramp_epochs": 3},
            "ramp_epochs=3 is of mode=ramp",
        ),
        ("active", {}, "give either targets"),
        ("active", {"targets": dict.fromkeys(NAMES, 1.0), "baseline": "x"}, "give either targets"),
        ("active", {"targets": {"task0": 1.0}}, "targets has no level for task1, task2, task3"),
        ("active", {"targets": {"tusk0": 1.0}}, "no task of this run. Did you mean task"),
        ("active", {"targets": dict.fromkeys(NAMES, 0.0)}, "the level of task0 is 0.0"),
        ("active", {"baseline": "x"}, "baseline=x has no level for task0"),
        ("similarity", {}, "give either primary"),
        ("similarity", {"primary": "task0", "similarities": {"task0": 1}}, "give either primary"),
        ("similarity", {"primary": "tusk0"}, "primary=tusk0: there is none of that name. Did you"),
        ("similarity", {"primary": "task0", "momentum": 1.0}, "momentum=1.0: must be at least 0"),
        ("similarity", {"primary": "task0", "sharpness": -1}, "sharpness=-1: must be a number"),
        ("similarity", {"primary": "task0", "refresh_every": 0}, "refresh_every=0: must be"),
        ("similarity", {"similarities": {"task0": 1}}, "similarities has none for task1, task2"),
        ("similarity", {"similarities": {"tusk0": 1}}, "similarities names tusk0. Did you mean"),
        (
            "similarity",
            {"similarities": dict.fromkeys(NAMES, float("nan"))},
            "task0 has nan; use a finite number",
        ),
        (
            "similarity",
            {"similarities": dict.fromkeys(NAMES, 1), "momentum": 0.5},
            "momentum=0.5 is of similarities that are measured",
        ),
        ("multi_dds", {"inner_steps": 0}, "inner_steps=0: must be a whole number"),
        ("multi_dds", {"refresh_every": 0}, "refresh_every=0: must be a whole number"),
        ("multi_dds", {"learning_rate": 0}, "learning_rate=0: must be a number greater than 0"),
        ("multi_dds", {"initial_temperature": -1}, "initial_temperature=-1: must be above 0"),
        ("task_subset", {"tasks_per_step": 5}, "there are 4 to draw from"),
        ("task_subset", {"tasks_per_step": 0}, "tasks_per_step=0: must be a whole number"),
    ],
)
def test_wrong_settings_say_what_to_use(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        build(name, **changes)
