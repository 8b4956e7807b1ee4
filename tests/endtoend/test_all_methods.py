"""Every method through the real engine: trains on digits, and goes on after a stop bit for bit."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor

from mtlrun.config import Config, register
from mtlrun.engine import checkpoint
from mtlrun.engine.backward import StepFigures
from mtlrun.engine.step import TrainingStep
from mtlrun.run import Labels, run
from mtlrun.types import Batch

CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = sorted(path.stem for path in (CONFIGS / "weighting").glob("*.yaml"))
FILES = ("metrics.csv", "losses.csv", "conflicts.csv")
SETTINGS = ("epochs=2", "batch_size=60", "engine.log_every=2", "engine.checkpoint_minutes=0")
QUIET = ("tracking.tensorboard=false", "tracking.progress=none", "engine.threads=1")
STOPS = (4, 9)
"""Steps, counted over both attempts, that end in an interruption: in the first epoch and later."""


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single-task run, for methods that compare with one."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, "architecture=single_task")
    return folder


def train(folder: Path, *overrides: str) -> None:
    composed = OmegaConf.to_object(compose("config", overrides=[*SETTINGS, *QUIET, *overrides]))
    assert isinstance(composed, Config)
    if "baseline" in composed.weighting:
        composed.weighting["baseline"] = str(folder.parent / "alone")
    run(composed, folder, Labels({}, "method", {}), Console(file=io.StringIO()))


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_resumes(
    method: str, alone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "alone").symlink_to(alone)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, f"weighting={method}")
    result = json.loads((whole / "result.json").read_text())
    assert result["solver_failures"] == 0
    assert result["skipped_steps"] == 0

    first: dict[str, Tensor] = {}
    calls = 0
    plain = TrainingStep.__call__

    def with_stops(
        self: TrainingStep, batches: Sequence[Batch], epoch: int, step: int
    ) -> StepFigures:
        nonlocal calls
        calls += 1
        if calls == 1:
            first.update({n: p.detach().clone() for n, p in self.model.named_parameters()})
        if calls in STOPS:
            raise KeyboardInterrupt
        return plain(self, batches, epoch, step)

    monkeypatch.setattr(TrainingStep, "__call__", with_stops)
    for _ in STOPS:
        with pytest.raises(KeyboardInterrupt):
            train(stopped, f"weighting={method}")
    train(stopped, f"weighting={method}")

    for name in FILES:
        if (whole / name).exists():
            assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    last = [checkpoint.read(f / "checkpoints" / "last.pt")["model"] for f in (whole, stopped)]
    for name, before in first.items():
        assert torch.equal(last[0][name], last[1][name])
        assert not torch.equal(last[0][name], before), f"{name} never moved"
