"""What the measurement of affinity writes, and that it can go on from anywhere."""

from typing import Any

import pytest
import torch
from engine_toys import NAMES, mlp_model, toy_batch
from test_affinity import make, watched

from mtlrun.weighting.equal import Equal


class Written:
    """Takes what the watcher writes."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.pictures: list[Any] = []

    def affinity(self, rows: list[Any]) -> None:
        self.rows += rows

    def heatmap(self, *arguments: Any) -> None:
        self.pictures.append(arguments)


def test_epoch_means_and_a_state_that_is_read_back_at_any_time() -> None:
    written: list[Written] = []
    for stops in ((), (2, 3)):
        model, tasks = mlp_model()
        step = make(model, tasks, Equal(), None)
        watcher, found = watched(step), Written()
        for number in range(6):
            present = ("a", "b") if number < 4 else NAMES
            step([toy_batch(number, present=present)], 0, number)
            if number in stops:  # a checkpoint, and a new process
                state = watcher.state_dict()
                step.watchers.clear()
                watcher = watched(step)
                watcher.load_state_dict(state)
            if number == 3:
                watcher.log(found, number + 1, 1)  # type: ignore[arg-type]  # a stand-in
        watcher.log(found, 6, 1)  # type: ignore[arg-type]
        watcher.close_epoch(found, 6, 1)  # type: ignore[arg-type]
        watcher.close_epoch(found, 6, 2)  # type: ignore[arg-type]
        written.append(found)
    whole, stopped = written
    assert stopped.rows == whole.rows
    assert [row["step"] for row in whole.rows] == [n for n in (1, 2, 3, 4) for _ in range(4)] + [
        n for n in (5, 6) for _ in range(9)
    ]
    ((tag, rows, columns, means, at),) = whole.pictures  # none for an epoch without measurements
    assert (tag, rows, columns, at) == ("train/affinity/tag", NAMES, NAMES, 6)
    assert torch.equal(stopped.pictures[0][3], means)
    for source, a in enumerate(NAMES):
        for target, b in enumerate(NAMES):
            values = [r["value"] for r in whole.rows if (r["source"], r["target"]) == (a, b)]
            assert means[source, target] == pytest.approx(sum(values) / len(values), rel=1e-12)
