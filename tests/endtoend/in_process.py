"""Runs in this process that are interrupted and go on: they must leave what a whole run leaves."""

import io
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from mtlrun.config import Config
from mtlrun.engine import checkpoint
from mtlrun.engine.backward import StepFigures
from mtlrun.engine.step import TrainingStep
from mtlrun.result import Labels
from mtlrun.run import run
from mtlrun.tracking.tables import COLUMNS
from mtlrun.types import Batch

FILES = tuple(COLUMNS)
SETTINGS = ("epochs=2", "batch_size=60", "engine.log_every=2")
QUIET = ("tracking.tensorboard=false", "tracking.progress=none", "engine.threads=1")
STOPS = (4, 9)
"""Steps, counted over both attempts, that end in an interruption: in the first epoch and later."""


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """Composed once, however often the run is repeated: that takes as long as to train it."""
    return compose("config", overrides=[*SETTINGS, *QUIET, *overrides])


def train(
    folder: Path,
    *overrides: str,
    dataset: dict[str, object] | None = None,
    every_step: bool = False,
) -> None:
    """A run of these settings, in ``folder``; with a checkpoint every step, or every epoch."""
    composed = OmegaConf.to_object(_composed(overrides))
    assert isinstance(composed, Config)
    if "baseline" in composed.weighting:
        composed.weighting["baseline"] = str(folder.parent / "alone")
    composed.dataset = dataset or composed.dataset
    if every_step:
        composed.engine.checkpoint_minutes = 0
    run(composed, folder, Labels({}, "method", {}), Console(file=io.StringIO()))


def train_with_stops(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *overrides: str,
    stops: Sequence[int] = STOPS,
    dataset: dict[str, object] | None = None,
) -> dict[str, Tensor]:
    """Likewise, interrupted and repeated until it is through; gives its initial parameters."""
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
        if calls in stops:
            raise KeyboardInterrupt
        return plain(self, batches, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", with_stops)
        for _ in stops:
            with suppress(KeyboardInterrupt):
                train(folder, *overrides, dataset=dataset, every_step=True)
                raise AssertionError("it was to be interrupted")
        train(folder, *overrides, dataset=dataset)
    return first


def assert_same_figures(whole: Path, stopped: Path) -> None:
    """Files byte for byte, parameters and buffers bit for bit."""
    for name in FILES:
        assert (whole / name).exists() == (stopped / name).exists()
        if (whole / name).exists():
            assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    states = [checkpoint.read(folder / "checkpoints" / "last.pt") for folder in (whole, stopped)]
    for part in ("sampler", "loader"):
        assert str(states[0][part]) == str(states[1][part])
    for name, value in states[0]["model"].items():
        assert torch.equal(states[1]["model"][name], value), name


def assert_same_run(whole: Path, stopped: Path, first: dict[str, Tensor]) -> None:
    """Likewise, and every one of the parameters has moved."""
    assert_same_figures(whole, stopped)
    state = checkpoint.read(whole / "checkpoints" / "last.pt")["model"]
    for name, before in first.items():
        assert not torch.equal(state[name], before), f"{name} never moved"
