"""Samplers whose chances are known beforehand."""

import json
import math

import pytest
import torch
from sampling_driver import NAMES, ROOT, ROWS, build, close, units

PALS = json.loads((ROOT / "tests" / "reference" / "sampling_pals.json").read_text())
REAL = torch.tensor(ROWS, dtype=torch.float64)


def test_round_robin_takes_turns_over_epochs() -> None:
    sampler = build("round_robin")
    order = [sampler.draw(epoch, step)[0].name for epoch, step in ((0, 0), (0, 1), (1, 2), (7, 9))]
    assert order == ["task0", "task1", "task2", "task1"]


def test_uniform_knows_no_size() -> None:
    assert build("uniform").probabilities(0).tolist() == [0.25] * 4


def test_temperatures() -> None:
    close(build("temperature").probabilities(3), REAL**0.2 / (REAL**0.2).sum())
    close(build("temperature", temperature=1).probabilities(0), REAL / REAL.sum())
    assert build("temperature", temperature=math.inf).probabilities(0).tolist() == [0.25] * 4
    assert torch.equal(
        build("temperature", temperature=1).probabilities(0),
        build("proportional").probabilities(0),
    )
    root = build("temperature", units(PALS["rows"]), temperature=2).probabilities(0)
    close(root, PALS["square_root"], 1e-9)


@pytest.mark.parametrize("epoch", [0, 12, 24])
def test_annealed_as_published(epoch: int) -> None:
    """To the nine printed digits."""
    sampler = build("annealed", units(PALS["rows"]), epochs=PALS["epochs"])
    printed = PALS["annealed"][str(epoch)]["p"]
    found = sampler.probabilities(epoch).tolist()
    assert [f"{a:.9g}" for a in found] == [f"{b:.9g}" for b in printed]


def test_annealed_at_the_edges() -> None:
    once = build("annealed", epochs=1).probabilities(0)
    close(once, REAL / REAL.sum())
    close(build("annealed", epochs=2, final=0).probabilities(1), [0.25] * 4)
    close(build("annealed", epochs=3, final=1).probabilities(1), REAL / REAL.sum())


def test_a_subset_is_in_order_and_every_pair_is_as_likely() -> None:
    sampler = build("task_subset")
    pairs = [tuple(unit.name for unit in sampler.draw(0, step)) for step in range(3000)]
    kinds = {pair: pairs.count(pair) for pair in set(pairs)}
    assert set(kinds) == {(a, b) for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]}
    # 500 expected of each, with a deviation of 20
    assert 420 < min(kinds.values()) <= max(kinds.values()) < 580
    assert sampler.per_step == sampler.fewest_tasks == 2


def test_a_subset_of_all_is_joint() -> None:
    every, joint = build("task_subset", tasks_per_step=4), build("joint")
    assert every.draw(0, 3) == joint.draw(0, 3) == joint.units
    assert every.per_step == joint.per_step
