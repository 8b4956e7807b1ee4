"""Every method through the real engine: trains on digits, and goes on after a stop bit for bit."""

import json
from pathlib import Path

import pytest
from in_process import assert_same_run, train, train_with_stops

CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = sorted(path.stem for path in (CONFIGS / "weighting").glob("*.yaml"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, composing: None) -> Path:
    """A single-task run, for methods that compare with one."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, "architecture=single_task")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_resumes(
    method: str, alone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, composing: None
) -> None:
    (tmp_path / "alone").symlink_to(alone)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, f"weighting={method}")
    result = json.loads((whole / "result.json").read_text())
    assert result["solver_failures"] == 0
    assert result["skipped_steps"] == 0
    first = train_with_stops(stopped, monkeypatch, f"weighting={method}")
    assert_same_run(whole, stopped, first)
