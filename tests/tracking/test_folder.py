import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mtlrun.errors import UserError
from mtlrun.tracking import folder as run_folder
from mtlrun.tracking.files import write_json, write_text

CONFIG: dict[str, Any] = {
    "seed": 0,
    "study": "default",
    "epochs": 10,
    "tasks": None,
    "optimizer": {"lr": 1e-5, "betas": [0.9, 0.999], "fused": True, "eps": 1.0e-8},
    "weighting": {"weights": {}, "name": "1e-3", "note": "yes", "path": "a: b # c"},
    "engine": {"workers": 0, "clip_norm": None},
}
FREE = ("study", "engine.workers", "tracking")


def changed(**changes: Any) -> dict[str, Any]:
    """CONFIG with some leaves changed, named with __ for the dot."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        *path, last = key.split("__")
        place = config
        for part in path:
            place = place[part]
        place[last] = value
    return config


# -- whose folder it is ---------------------------------------------------------------------------


def test_the_configuration_comes_back_and_is_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    run_folder.claim(folder, CONFIG, FREE)
    written = (folder / "config.yaml").read_text()
    run_folder.claim(folder, changed(), FREE)
    assert (folder / "config.yaml").read_text() == written


def test_settings_without_effect_may_differ(tmp_path: Path) -> None:
    run_folder.claim(tmp_path, CONFIG, FREE)
    run_folder.claim(tmp_path, changed(study="x", engine__workers=4), FREE)
    run_folder.claim(tmp_path, {**changed(), "tracking": {"images": 2}}, FREE)


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        (changed(epochs=20), "epochs is 10 there and 20 here"),
        (changed(optimizer__lr=2e-5), "optimizer.lr is 1e-05 there and 2e-05 here"),
        (changed(tasks=["a"]), "tasks is None there and ['a'] here"),
        (changed(engine__clip_norm=1.0), "engine.clip_norm is None there and 1.0 here"),
        (changed(optimizer__betas=[0.9, 0.99]), "optimizer.betas is [0.9, 0.999] there and "),
        (changed(optimizer__amsgrad=False), "optimizer.amsgrad is absent there and False here"),
        (changed(weighting__weights={"a": 2}), "weighting.weights is {} there and absent here"),
        (changed(weighting__name=1e-3), "weighting.name is 1e-3 there and 0.001 here"),
        (
            changed(seed=1, epochs=3),
            "epochs is 10 there and 3 here; seed is 0 there and 1 here. Nothing was changed there.",
        ),
    ],
)
def test_a_run_with_other_settings_is_shown_and_left_alone(
    config: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    run_folder.claim(tmp_path, CONFIG, FREE)
    written = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match=re.escape(difference)) as caught:
        run_folder.claim(tmp_path, config, FREE)
    assert str(caught.value).startswith(f"{tmp_path} holds a run with other settings: ")
    assert "study=NAME" in str(caught.value)
    assert (tmp_path / "config.yaml").read_text() == written
    with pytest.raises(UserError, match="other settings"):  # and the other way round
        run_folder.claim(tmp_path, config, FREE)


def test_a_name_that_begins_like_a_free_one_is_not_free(tmp_path: Path) -> None:
    run_folder.claim(tmp_path, {"engine": {"workers": 1, "workers_more": 1}}, FREE)
    with pytest.raises(UserError, match=r"engine\.workers_more is 1 there and 2 here\. "):
        run_folder.claim(tmp_path, {"engine": {"workers": 5, "workers_more": 2}}, FREE)


def test_a_run_from_before_there_was_a_setting_had_its_default(tmp_path: Path) -> None:
    old = {"engine": {"patience": None, "workers": 0}}
    new = {"engine": {"workers": 0, "affinity": "none"}, "stopping": {"_target_": None}}
    defaults = {"engine": {"affinity": "none"}, "stopping": {}}
    run_folder.claim(tmp_path, old, FREE)
    run_folder.claim(tmp_path, new, FREE, defaults)
    new["engine"]["affinity"] = "tag"
    with pytest.raises(UserError, match=r"engine\.affinity is absent there and tag here"):
        run_folder.claim(tmp_path, new, FREE, defaults)


def test_flatten() -> None:
    leaves = run_folder.flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1, {"f": 2}]})
    assert leaves == {"a.b.c": 1, "a.d": {}, "e": [1, {"f": 2}]}


# -- whether it is finished -----------------------------------------------------------------------


def test_a_finished_run_gives_its_result(tmp_path: Path) -> None:
    assert run_folder.finished(tmp_path) is None
    write_json(tmp_path / "result.json", {"best": float("nan"), "tasks": {"a": (1, 2.5)}})
    assert run_folder.finished(tmp_path) == {"best": None, "tasks": {"a": [1, 2.5]}}


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"best": ')
    with pytest.raises(
        UserError, match=r"result\.json is damaged .*Delete it to run this run again"
    ):
        run_folder.finished(tmp_path)


def test_files_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "result.json"
    write_json(path, {"value": 1})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_text(path, "x" * 1000)
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(path.parent.iterdir()) == [path]


# -- one process at a time ------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from mtlrun.tracking.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_process_stays_out(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held_by_another(folder) as process:
        message = rf"{folder} is in use: process {process.pid} on \S+ is running this very run\."
        with pytest.raises(UserError, match=message):
            _enter(folder)
        process.kill()  # a lock does not outlive its process
        process.wait()
        _enter(folder)
    _enter(folder)


def test_the_lock_is_given_back(tmp_path: Path) -> None:
    with run_folder.locked(tmp_path), held_by_another(tmp_path / "another"):
        pass
    with held_by_another(tmp_path):
        pass


def _enter(folder: Path) -> None:
    with run_folder.locked(folder):
        pass
