"""Runs with teachers, through the real engine: stopped and resumed, kept answers or asked ones."""

import csv
from pathlib import Path

import pytest
from in_process import assert_same_run, train, train_with_stops

from mtlrun.engine import checkpoint

FEATURES = ("distill.temperature=2", "distill.features=0.5")
BAM = ("distill.weight=1", "distill.anneal=true")
ASKED = "distill.cache_gb=0"
CASES = [
    ("weighting=equal", *FEATURES),
    ("weighting=pcgrad", *FEATURES, *BAM, ASKED),
    # which compares gradients beside the steps
    ("sampler=multi_dds", "sampler.refresh_every=6", "distill.tasks=[digit]", *FEATURES),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, composing: None) -> Path:
    """The teacher: a network a task."""
    folder = tmp_path_factory.mktemp("teacher")
    train(folder, "architecture=single_task", "epochs=1")
    return folder


def losses_of(folder: Path) -> list[float]:
    with (folder / "losses.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("settings", CASES, ids=lambda settings: settings[0])
def test_goes_on_bit_for_bit(
    settings: tuple[str, ...], alone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = (*settings, "epochs=1", f"distill.teachers=['{alone}']")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, *given)
    first = train_with_stops(stopped, monkeypatch, *given)
    assert_same_run(whole, stopped, first)
    states = [checkpoint.read(f / "checkpoints" / "last.pt") for f in (whole, stopped)]
    assert str(states[0]["distillation"]) == str(states[1]["distillation"])
    adaptors = [name for name in states[0]["distillation"] if name.startswith("adaptors")]
    assert len(adaptors) == (1 if settings == CASES[2] else 3)
    best = checkpoint.read(whole / "checkpoints" / "best.pt")["model"]
    assert best  # which is the network alone: for its use there is no teacher and no adaptor
    assert not [name for name in best if "adaptor" in name]
    if settings == CASES[0]:
        assert_asked_ones_teach_the_same(whole, tmp_path / "asked", *given)


def assert_asked_ones_teach_the_same(kept: Path, asked: Path, *given: str) -> None:
    """Whether answers are kept or asked for again changes losses by rounding alone."""
    train(asked, *given, ASKED)
    assert "teachers say of 1,294 training rows is kept: " in (kept / "run.log").read_text()
    assert "is kept" not in (asked / "run.log").read_text()
    assert losses_of(kept) == pytest.approx(losses_of(asked), rel=1e-4)
    assert len(losses_of(kept)) > 20
