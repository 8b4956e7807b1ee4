"""Affinity measured in whole runs: it finds who is related, and training does not notice."""

import csv
from pathlib import Path
from statistics import fmean

import pytest
from in_process import assert_same_run, train, train_with_stops
from planted_digits import CHANCE, PAIRS, PlantedDigits

from mtlrun.analysis.settings import read_effective
from mtlrun.errors import UserError

Pairs = dict[tuple[str, str], float]

PLANTED: dict[str, object] = {
    "_target_": f"{PlantedDigits.__module__}.PlantedDigits",
    "tasks": {
        task: {"_target_": "mtlrun.tasks.classification.Classification"}
        for task in (*PAIRS[0], *PAIRS[1], CHANCE)
    },
}


def affinities(folder: Path) -> Pairs:
    """The means over a run."""
    found: dict[tuple[str, str], list[float]] = {}
    with (folder / "affinity.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault((row["source"], row["target"]), []).append(float(row["value"]))
    return {pair: fmean(values) for pair, values in found.items()}


def best_source(found: Pairs, target: str) -> str:
    """The other task whose steps help most."""
    others = {source: value for (source, to), value in found.items() if to == target != source}
    return max(others, key=lambda source: others[source])


@pytest.mark.parametrize("seed", range(5))
def test_planted_pairs_are_found(seed: int, tmp_path: Path, composing: None) -> None:
    settings = ("engine.affinity=tag", "engine.affinity_every=2", "epochs=3", f"seed={seed}")
    train(tmp_path, *settings, "engine.checkpoint_minutes=10", dataset=PLANTED)
    found = affinities(tmp_path)
    assert len(found) == 25
    for one, other in PAIRS:
        assert best_source(found, one) == other
        assert best_source(found, other) == one


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [("engine.affinity=tag sampler=task_subset", 4), ("engine.affinity=cosine weighting=mgda", 9)],
)
def test_resumes_and_leaves_the_run_as_it_is(
    settings: str, pairs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, composing: None
) -> None:
    sizes = ("engine.affinity_every=2", "engine.log_every=3", "epochs=1", "batch_size=120")
    chosen = [*settings.split(), *sizes]
    whole, stopped, without = (tmp_path / name for name in ("whole", "stopped", "without"))
    train(whole, *chosen)
    first = train_with_stops(stopped, monkeypatch, *chosen, stops=(4, 8))
    assert_same_run(whole, stopped, first)
    rows = (whole / "affinity.csv").read_text().splitlines()
    steps = [int(row.split(",")[0]) for row in rows[1:]]
    assert len(steps) > 4 * pairs
    assert steps == [step for step in range(1, steps[-1] + 1, 2) for _ in range(pairs)]
    quick = "engine.checkpoint_minutes=10"
    train(without, *(setting for setting in chosen if "affinity" not in setting), quick)
    assert not (without / "affinity.csv").exists()
    for name in ("metrics.csv", "losses.csv", "conflicts.csv"):
        assert (without / name).read_bytes() == (whole / name).read_bytes()
    effective = [read_effective(folder / "config.yaml") for folder in (whole, without)]
    assert effective[0] == effective[1] is not None  # a comparison counts them as one method


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("architecture=single_task", "architecture=.* shares no parameters that are trained"),
        ("tasks=[digit]", "this run has one task"),
        ("sampler=uniform sampler.of=tasks", "gives steps with one task alone"),
        ("engine.affinity=cosine gradients.memory_gb=1e-6", "more than gradients.memory_gb=1e-06"),
        ("engine.accumulate=2 gradients.memory_gb=1e-6", "with engine.accumulate=1, which forms"),
        ("model.freeze=[architecture]", "shares no parameters that are trained"),
    ],
)
def test_what_makes_no_sense_is_refused(
    settings: str, message: str, tmp_path: Path, composing: None
) -> None:
    with pytest.raises(UserError, match=f"^engine.affinity=.*{message}"):
        train(tmp_path, "engine.affinity=tag", *settings.split())
    assert not (tmp_path / "affinity.csv").exists()
