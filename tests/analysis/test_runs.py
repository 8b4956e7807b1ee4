import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mtlrun.analysis.runs import Run, UnfinishedRun, beside, find_runs, read_run
from mtlrun.errors import UserError

if TYPE_CHECKING:
    from conftest import WriteRun

DIGITS = {"digit": {"accuracy": 0.9}, "ink": {"r2": 0.8, "mse": None}}


def test_a_finished_run_is_read(write_run: "WriteRun") -> None:
    folder = write_run("gradnorm", DIGITS, seed=3, study="paper", seconds=12.5)
    run = read_run(folder)
    assert isinstance(run, Run)
    assert (run.study, run.dataset, run.method, run.seed) == ("paper", "digits", "gradnorm", 3)
    assert run.seconds == 12.5
    assert not run.single_task
    assert list(run.metrics) == ["digit", "ink"]
    assert run.metrics["digit"]["accuracy"].test == 0.9
    assert run.metrics["digit"]["accuracy"].higher_is_better
    assert not run.metrics["ink"]["mse"].higher_is_better
    assert math.isnan(run.metrics["ink"]["mse"].test)


def test_settings_are_flattened_without_where_the_data_lies(write_run: "WriteRun") -> None:
    run = read_run(write_run("equal", DIGITS))
    assert isinstance(run, Run)
    assert run.has_config
    assert run.settings["epochs"] == "30"
    assert run.settings["batch_size"] == "64"
    assert run.settings["tasks"] == "digit, ink"
    assert run.settings["dataset.fraction"] == "0.1"
    assert run.settings["backbone.hidden"] == "[128, 128]"
    assert "dataset.root" not in run.settings


def test_a_run_without_config_keeps_what_its_result_says(write_run: "WriteRun") -> None:
    folder = write_run("equal", DIGITS, epochs=7)
    (folder / "config.yaml").unlink()
    run = read_run(folder)
    assert isinstance(run, Run)
    assert not run.has_config
    assert run.settings["epochs"] == "7"


def test_numbers_that_are_none_are_missing(write_run: "WriteRun") -> None:
    folder = write_run("equal", {"ink": {"r2": float("nan"), "mse": float("inf")}}, seconds=None)
    run = read_run(folder)
    assert isinstance(run, Run)
    assert math.isnan(run.metrics["ink"]["r2"].test)
    assert math.isnan(run.metrics["ink"]["mse"].test)
    assert math.isnan(run.seconds)


def test_folders_without_a_final_result_are_unfinished(
    write_run: "WriteRun", tmp_path: Path
) -> None:
    write_run("equal", DIGITS)
    write_run("mgda", DIGITS, state="failed")
    (tmp_path / "outputs/default/digits/dwa/seed=1/checkpoints").mkdir(parents=True)
    found = find_runs([tmp_path / "outputs"])
    assert [run.method for run in found.finished] == ["equal"]
    assert [(run.name, run.state, run.dataset) for run in found.unfinished] == [
        ("dwa seed=1", "unfinished", "digits"),
        ("mgda seed=0", "failed", "digits"),
    ]
    assert isinstance(read_run(tmp_path / "outputs/default/digits/dwa/seed=1"), UnfinishedRun)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"state": "failed", "reason": "loss of digit is NaN\nat step 3"}, "failed: loss of digit"),
        ({"state": "interrupted", "epoch": 3, "epochs": 10}, "(interrupted)"),
        ({"state": "running", "process": 0, "host": "elsewhere"}, "(interrupted)"),  # killed
        ({"state": "finished"}, "(unfinished)"),
        ("damaged", "(unfinished)"),
    ],
)
def test_a_status_says_why_a_run_is_unfinished(tmp_path: Path, status: object, text: str) -> None:
    folder = tmp_path / "default/digits/dwa/seed=1"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps(status))
    (run,) = find_runs([tmp_path]).unfinished
    assert text in run.text
    assert "\n" not in run.text
    assert run.text.startswith("dwa seed=1 (")


def test_overlapping_folders_give_each_run_once(write_run: "WriteRun", tmp_path: Path) -> None:
    one = write_run("equal", DIGITS, seed=0)
    write_run("equal", DIGITS, seed=1)
    found = find_runs([one, tmp_path / "outputs", tmp_path / "outputs/default/digits/equal"])
    assert sorted(run.seed for run in found.finished) == [0, 1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format": 1, "st', "Unterminated string"),
        ("[]", "it holds no JSON object"),
        ('{"format": 2, "state": "finished"}', "it has format 2, this mtlrun reads format 1"),
        ('{"format": 1, "state": "finished", "epochs": 1}', "it lacks 'tasks'"),
        ('{"format": 1, "state": "finished", "tasks": {"a": {"metrics": 3}}}', "no attribute"),
        ("\udc80".encode("utf-8", "surrogateescape"), "can't decode"),
        ("[" * 100_000, "recursion"),
        (
            '{"format": 1, "state": "finished", "tasks": {"a": {"metrics": {"b": {'
            f'"higher_is_better": true, "test": 1{"0" * 400}' + "}}}}}",
            "too large",
        ),
    ],
)
def test_a_damaged_result_is_named_and_the_others_are_read(
    write_run: "WriteRun", tmp_path: Path, text: str | bytes, reason: str
) -> None:
    write_run("equal", DIGITS)
    damaged = write_run("mgda", DIGITS) / "result.json"
    damaged.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = find_runs([tmp_path / "outputs"])
    assert [run.method for run in found.finished] == ["equal"]
    assert len(found.unreadable) == 1
    assert str(damaged) in found.unreadable[0]
    assert reason in found.unreadable[0]


def test_a_number_that_is_text_is_damage(write_run: "WriteRun", tmp_path: Path) -> None:
    folder = write_run("equal", DIGITS)
    result = json.loads((folder / "result.json").read_text())
    result["tasks"]["digit"]["metrics"]["accuracy"]["test"] = "0.9"
    (folder / "result.json").write_text(json.dumps(result))
    assert "'0.9' is not a number" in find_runs([tmp_path]).unreadable[0]


def test_a_whole_number_that_is_infinite_is_damage(write_run: "WriteRun", tmp_path: Path) -> None:
    path = write_run("equal", DIGITS) / "result.json"
    path.write_text(path.read_text().replace('"epochs": 30', '"epochs": 1e999'))
    assert "infinity" in find_runs([tmp_path]).unreadable[0]


def test_missing_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not there"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"No runs below .*seed=<n>"):
        find_runs([tmp_path])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file"):
        find_runs([tmp_path / "file"])


def test_beside_are_the_runs_of_the_same_dataset(write_run: "WriteRun") -> None:
    folder = write_run("mgda", DIGITS)
    write_run("equal", DIGITS)
    write_run("equal", DIGITS, dataset="nyuv2")
    write_run("equal", DIGITS, study="other")
    run = read_run(folder)
    assert isinstance(run, Run)
    neighbours = beside([run])
    assert [(r.study, r.dataset, r.method) for r in neighbours] == [
        ("default", "digits", "equal"),
        ("default", "digits", "mgda"),
    ]
