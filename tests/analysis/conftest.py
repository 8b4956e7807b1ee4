"""Run folders as a finished run leaves them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

Metrics = Mapping[str, Mapping[str, float | None]]
WriteRun = Callable[..., Path]

HIGHER = ("accuracy", "r2", "mIoU", "PixAcc", "w11.25", "w22.5", "w30")


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Write a run folder below ``tmp_path / "outputs"`` and give it back."""

    def write(
        method: str,
        metrics: Metrics,
        *,
        seed: int = 0,
        dataset: str = "digits",
        study: str = "default",
        seconds: float | None = 10.0,
        config: Mapping[str, Any] | None = None,
        root: Path = tmp_path / "outputs",
        **result: Any,
    ) -> Path:
        folder = root / study / dataset / method / f"seed={seed}"
        folder.mkdir(parents=True)
        single_task = "single_task" in method
        facts = {
            "format": 1,
            "mtlrun": "0.1.0",
            "state": "finished",
            "study": study,
            "dataset": dataset,
            "method": method,
            "weighting": "equal" if single_task else method.split(",")[0],
            "architecture": "single_task" if single_task else "hps",
            "seed": seed,
            "select_on": "validation",
            "epochs": 30,
            "tasks": {
                task: {"metrics": figures(task_metrics)} for task, task_metrics in metrics.items()
            },
            "seconds": seconds,
            "device": "cpu",
            "threads": 1,
        } | result
        settings = {
            "epochs": facts["epochs"],
            "select_on": facts["select_on"],
            "batch_size": 64,
            "dataset": {
                "_target_": "mtlrun.data.digits.Digits",
                "root": str(root),
                "fraction": 0.1,
            },
            "backbone": {"hidden": [128, 128]},
            "optimizer": {"lr": 0.001},
        }
        for key, value in (config or {}).items():
            section, _, name = key.partition(".")
            settings[section] = {**settings[section], name: value} if name else value
        (folder / "result.json").write_text(json.dumps(facts))
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        return folder

    return write


def figures(metrics: Mapping[str, float | None]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "higher_is_better": name in HIGHER,
            "optimum": 1.0 if name in HIGHER else 0.0,
            "test": value,
            "final": value,
            "best": value,
            "best_epoch": 1,
        }
        for name, value in metrics.items()
    }
