"""AdaShare's policies that another run found."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from architecture_cases import ONE_STREAM, inputs_of
from skippable import build, with_policy

TASKS = ("a", "b", "c")


def write_run(folder: Path, tables: Mapping[int, Sequence[Sequence[float]]]) -> Path:
    """A run's structure.csv with a policy for each epoch."""
    with (folder / "structure.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "name", "row", "column", "value"])
        for epoch, table in tables.items():
            for task, row in zip(TASKS, table, strict=True):
                for block, value in zip(("2.1", "2.2", "3"), row, strict=True):
                    writer.writerow([epoch, 9, "adashare/policy", task, block, value])
    return folder


def test_a_policy_of_another_run_is_trained_from_the_first_step(tmp_path: Path) -> None:
    tables = {9: [[0, 0, 0]] * 3, 10: [[0.9, 0.2, 0.5], [0.8, 0.1, 0.3], [0.1, 0.4, 0.2]]}
    architecture = build(policy=str(write_run(tmp_path, tables)))
    architecture.start_step(0, 1)
    inputs = inputs_of(ONE_STREAM)
    found = architecture(inputs, TASKS)
    for task, keep in (("a", [1, 0, 1]), ("b", [1, 0, 0]), ("c", [0, 0, 0])):
        expected = with_policy(architecture, inputs["images"], keep)
        torch.testing.assert_close(found[task], expected)
    first, (one, two), last = architecture.backbone.stages  # type: ignore[misc]
    shared = [*first.parameters(), *one.parameters()]
    assert list(map(id, architecture.shared_parameters())) == list(map(id, shared))
    own = architecture.task_parameters("a")
    assert list(map(id, own)) == list(map(id, last.parameters()))
    assert architecture.task_parameters("b") == []
    assert not any(parameter.requires_grad for parameter in two.parameters())
    assert architecture.last_shared_layer() == []
    assert (architecture.terms, architecture.learning_rates()) == ({}, [])
    assert architecture.only() is None
    fresh = build(policy=str(tmp_path))
    fresh.load_state_dict(architecture.state_dict())
    expected, found = architecture.eval()(inputs, TASKS), fresh.eval()(inputs, TASKS)
    assert all(torch.equal(found[task], expected[task]) for task in TASKS)


def test_a_policy_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        build(policy=str(tmp_path))
    run = write_run(tmp_path, {10: [[1, 0, 1]] * 3})
    with pytest.raises(ValueError, match=r"blocks 2\.1, 2\.2, 3, and this run"):
        build(backbone="mlp", policy=str(run))
    with pytest.raises(ValueError, match="leave out warmup_epochs"):
        build(policy=str(run), warmup_epochs=1)
    (run / "structure.csv").write_text("epoch,step,name,row,column,value\n")
    with pytest.raises(ValueError, match="holds no table adashare/policy"):
        build(policy=str(run))
    (run / "structure.csv").write_text("epoch,name\nlast,adashare/policy\n")
    with pytest.raises(ValueError, match="is damaged"):
        build(policy=str(run))
