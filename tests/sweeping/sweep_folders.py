"""Run folders written by hand, and launchers that only write such folders."""

import csv
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

Figures = Mapping[str, Mapping[str, float]]
"""For each task its metrics; those called rmse are better when lower."""


def write_status(folder: Path, state: str, epoch: int = 0, **facts: Any) -> None:
    status = {
        "state": state,
        "epoch": epoch,
        "epochs": 5,
        "seconds_left": None,
        "reason": "",
        "process": os.getpid(),
        "host": socket.gethostname(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".status.json.tmp"
    temporary.write_text(json.dumps({**status, **facts}))
    temporary.replace(folder / "status.json")


def write_run(
    folder: Path,
    epochs: Sequence[Figures],
    selected: int | Mapping[str, int] = 1,
    test: Figures | None = None,
    select_on: str = "validation",
) -> None:
    """A finished run with the figures of its validation split, epoch by epoch, and of the test."""
    test = test or epochs[-1]
    tasks = {
        task: {
            "headline": next(iter(metrics)),
            "metrics": {
                name: {"higher_is_better": name != "rmse", "test": test[task][name]}
                for name in metrics
            },
        }
        for task, metrics in epochs[0].items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "split", "task", "metric", "value"])
        for epoch, figures in enumerate(epochs, start=1):
            for task, metrics in figures.items():
                for name, value in metrics.items():
                    writer.writerow([epoch, 10 * epoch, "val", task, name, value])
                    writer.writerow([epoch, 10 * epoch, "train", task, name, 99])
        for task, metrics in test.items():
            for name, value in metrics.items():
                writer.writerow([1, 10, "test", task, name, value])
    result = {"tasks": tasks, "selected_epoch": selected, "select_on": select_on}
    write_status(folder, "finished", 5)
    (folder / "result.json").write_text(json.dumps(result))


def done() -> JobReturn:
    return JobReturn(status=JobStatus.COMPLETED)


def failed(error: Exception) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=error)


class FakeLauncher:
    """Does with a launch what a test says.

    Args:
        launches: for each launch in turn a function of its jobs' overrides, which gives back what
            Hydra's launchers do, or raises. The last one is for all that follow.
    """

    def __init__(self, *launches: Callable[[list[str]], Sequence[Any]]) -> None:
        self.launches = list(launches)
        self.asked: list[list[str]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        assert all(overrides[-1] == "hydra.mode=MULTIRUN" for overrides in job_overrides)
        jobs = [" ".join(overrides[:-1]) for overrides in job_overrides]
        self.asked.append(jobs)
        function = self.launches.pop(0) if len(self.launches) > 1 else self.launches[0]
        return function(jobs)
