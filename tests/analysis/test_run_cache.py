"""Reading thousands of runs: settings by sections, and the cache."""

import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mtlrun.analysis import cache, runs
from mtlrun.analysis.runs import Run, find_runs
from mtlrun.analysis.settings import effective_settings

if TYPE_CHECKING:
    from conftest import WriteRun

DIGITS = {"digit": {"accuracy": 0.9}, "ink": {"r2": 0.8, "mse": None}}

CONFIG = """\
seed: 3
epochs: 4
tasks:
- digit
- ink
dataset:
  _target_: x.Digits
  size: [60, 80]
  root: /data
  prepared: null
backbone:
  hidden:
  - 64
  note: "two
    lines"
engine:
  threads: 4
  clip_norm: 1.0
"""


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mtlrun" / "runs"


@pytest.fixture
def outputs(write_run: "WriteRun", tmp_path: Path) -> Path:
    for seed in (0, 1):
        write_run("equal", DIGITS, seed=seed, changed={"a": [1, 2]})
    write_run("mgda", DIGITS, seconds=None)
    return tmp_path / "outputs"


def facts(run: Run) -> dict[str, str]:
    return {field.name: repr(getattr(run, field.name)) for field in fields(Run)}


def refuse(*args: Any, **options: Any) -> None:
    raise AssertionError("a run folder was read")


def test_a_configuration_is_the_same_by_sections_and_as_a_whole() -> None:
    expected = {
        "epochs": "4",
        "dataset._target_": "x.Digits",
        "dataset.size": "[60, 80]",
        "backbone.hidden": "[64]",
        "backbone.note": "two lines",
        "engine.clip_norm": "1.0",
    }
    assert effective_settings(CONFIG) == expected
    as_a_whole = yaml.safe_dump(yaml.safe_load(CONFIG), default_flow_style=True)
    assert effective_settings(as_a_whole) == expected


def test_anchors_reach_beyond_sections() -> None:
    text = "backbone: &b\n  hidden: 64\nheads: *b\n"
    assert effective_settings(text) == {"backbone.hidden": "64", "heads.hidden": "64"}


DAMAGED = ["", "- a\n- b\n", "a: [1\nb: 2\n", "a: 'x\n", "a: &a {b: *a}\n", "a: " + "[" * 9999]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_configuration_is_none(text: str) -> None:
    assert effective_settings(text) is None


def test_a_cached_run_is_the_run(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = find_runs([outputs], cached=True).finished
    monkeypatch.setattr(runs, "read_run", refuse)
    cached = find_runs([outputs], cached=True).finished
    assert [facts(run) for run in cached] == [facts(run) for run in read]
    assert [run.seed for run in cached] == [0, 1, 0]


def test_what_changed_is_read_again(outputs: Path, write_run: "WriteRun") -> None:
    find_runs([outputs], cached=True)
    path = outputs / "default/digits/mgda/seed=0/result.json"
    path.write_text(path.read_text().replace("0.9", "0.95"))
    shutil.rmtree(outputs / "default/digits/equal/seed=1")
    write_run("dwa", DIGITS)
    found = find_runs([outputs], cached=True).finished
    accuracies = {run.method: run.metrics["digit"]["accuracy"].test for run in found}
    assert accuracies == {"dwa": 0.9, "equal": 0.9, "mgda": 0.95}
    config = outputs / "default/digits/mgda/seed=0/config.yaml"
    config.write_text(config.read_text().replace("0.001", "0.0001"))
    changed = find_runs([outputs], cached=True).finished[-1]
    assert changed.settings["optimizer.lr"] == "0.0001"


def test_another_file_of_the_same_time_and_size_is_read(outputs: Path, tmp_path: Path) -> None:
    find_runs([outputs], cached=True)
    path = outputs / "default/digits/mgda/seed=0/result.json"
    before = path.stat()
    path.with_name("copy").write_text(path.read_text().replace("0.9", "0.8"))
    os.utime(path.with_name("copy"), ns=(before.st_atime_ns, before.st_mtime_ns))
    path.with_name("copy").replace(path)  # as rsync does
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    changed = find_runs([outputs], cached=True).finished[-1]
    assert changed.metrics["digit"]["accuracy"].test == 0.8


def test_a_folder_that_takes_the_place_of_another_is_read(outputs: Path) -> None:
    find_runs([outputs], cached=True)
    one, other = (outputs / "default/digits/equal" / f"seed={seed}" for seed in (0, 1))
    one.rename(one.with_name("aside"))
    other.rename(one)
    one.with_name("aside").rename(other)
    assert [run.seed for run in find_runs([outputs], cached=True).finished] == [1, 0, 0]


def test_runs_that_are_gone_leave_the_cache(outputs: Path, cache_folder: Path) -> None:
    find_runs([outputs], cached=True)
    shutil.rmtree(outputs / "default/digits/equal")
    find_runs([outputs], cached=True)
    (file,) = cache_folder.iterdir()
    assert list(json.loads(file.read_text())["runs"]) == ["default/digits/mgda/seed=0"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 0}', "\x00", "cut", "types"])
def test_a_damaged_cache_is_ignored(outputs: Path, cache_folder: Path, damage: str) -> None:
    first = find_runs([outputs], cached=True).finished
    (file,) = cache_folder.iterdir()
    text = file.read_text()
    if damage == "cut":
        damage = text[: len(text) // 2]
    elif damage == "types":
        kept = json.loads(text)
        kept["shared"] = kept["shared"][:1]
        for name, (stamps, _) in list(kept["runs"].items())[:1]:
            kept["runs"][name] = [stamps, {"metrics": 3}]
        damage = json.dumps(kept)
    file.write_text(damage)
    again = find_runs([outputs], cached=True).finished
    assert [facts(run) for run in again] == [facts(run) for run in first]
    assert json.loads(file.read_text()) == json.loads(text)  # and it is written anew


def test_a_cache_that_cannot_be_written_is_none(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(find_runs([outputs], cached=True).finished) == 3


def test_nothing_is_kept_unless_asked(outputs: Path, cache_folder: Path) -> None:
    find_runs([outputs])
    assert not cache_folder.exists()


def test_another_version_reads_the_runs(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    find_runs([outputs], cached=True)
    (file,) = cache_folder.iterdir()
    before = file.read_text()
    monkeypatch.setattr(cache, "FORMAT", [2])
    find_runs([outputs], cached=True)
    assert json.loads(file.read_text())["format"] == [2]
    assert json.loads(before)["format"] != [2]
