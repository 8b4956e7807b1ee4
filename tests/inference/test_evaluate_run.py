"""``mtlrun evaluate``: figures of a stored run, and what is said where it does not fit."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from omegaconf import OmegaConf

from mtlrun import __version__
from mtlrun.engine import checkpoint
from mtlrun.errors import UserError
from mtlrun.inference import trained
from mtlrun.inference.evaluate import evaluate_command
from mtlrun.inference.stored import read_run
from mtlrun.inference.trained import rebuild

if TYPE_CHECKING:
    from conftest import Train

SINGLE = ("architecture=single_task", "epochs=5", "optimizer.lr=0.06")


def refused(*arguments: str | Path) -> str:
    with pytest.raises(UserError) as error:
        evaluate_command([str(argument) for argument in arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


def change(folder: Path, settings: dict[str, object]) -> None:
    """Write a run's configuration anew, with settings by dotted key."""
    config = OmegaConf.load(folder / "config.yaml")
    for key, value in settings.items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, folder / "config.yaml")


@pytest.mark.parametrize("overrides", [(), SINGLE], ids=["hps", "single_task"])
def test_test_figures_are_those_of_the_run(
    train: "Train", tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    folder, file = train(*overrides), tmp_path / "figures.json"
    assert evaluate_command([str(folder), "-o", str(file)]) == 0
    result, found = json.loads((folder / "result.json").read_text()), json.loads(file.read_text())
    assert list(found["tasks"]) == ["digit", "parity", "ink"]
    for task, facts in result["tasks"].items():
        for metric, figures in facts["metrics"].items():
            assert found["tasks"][task][metric]["value"] == figures["test"]
    assert found["epoch"] == result["selected_epoch"]
    if overrides:
        assert len(set(found["epoch"].values())) > 1  # each network from its own best epoch
        epochs = trained._epoch({"epoch": [3, 1, 2]}, rebuild(read_run(folder)).model)
        assert epochs == {"digit": 3, "parity": 1, "ink": 2}


def test_other_splits_and_the_last_epoch(
    train: "Train", capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*SINGLE)
    result = json.loads((folder / "result.json").read_text())
    for which, key in (("last", "final"), ("best", "best")):
        arguments = [str(folder), "--split", "val", "--checkpoint", which, "--format", "csv"]
        assert evaluate_command(arguments) == 0
        rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        assert {row["checkpoint"] for row in rows} == {which}
        found = {(row["task"], row["metric"]): float(row["value"]) for row in rows}
        assert found["digit", "accuracy"] == result["tasks"]["digit"]["metrics"]["accuracy"][key]
    evaluate_command([str(folder)])
    assert "These are the figures in result.json." in capsys.readouterr().out
    capsys.readouterr()
    evaluate_command([str(folder), "--set", "dataset.seed=1"])  # other rows
    said = capsys.readouterr()
    assert re.search(r"\d+ of these figures differ from result.json", said.out)
    assert said.err.startswith("dataset.seed may give other rows, classes, means or units than")


def test_a_run_that_selected_on_test_has_no_validation_rows(train: "Train") -> None:
    folder = train("select_on=test")
    assert "this run has test, train." in refused(folder, "--split", "val")


def test_a_rotated_network_is_put_together_with_its_rotations(train: "Train") -> None:
    folder = train("weighting=rotograd", "epochs=1")
    result = json.loads((folder / "result.json").read_text())
    figures = rebuild(read_run(folder)).evaluate("test")
    assert figures["digit"]["accuracy"] == result["tasks"]["digit"]["metrics"]["accuracy"]["test"]


def test_paths_are_found_from_where_the_run_is(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"dataset.root": "data/pictures", "dataset.prepared": "cache/there"}
    change(copied, {**settings, "model.init_from": "outputs/gone", "engine.device": "cuda:9"})
    # Digits has no files; what is found does not hang on the dataset
    monkeypatch.setattr("mtlrun.build.check_settings", lambda config: None)
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.delenv("MTLRUN_DATA", raising=False)
    assert read_run(copied).config.dataset["root"] == "data/pictures"  # nowhere
    assert read_run(copied).config.model.init_from is None  # is not needed any more
    assert read_run(copied, device="cpu").config.engine.device == "cpu"
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    found = read_run(copied)  # beside the folder of the run
    assert found.config.dataset["root"] == str(tmp_path / "data" / "pictures")
    assert found.remarks[0].startswith("dataset.root=data/pictures is not here; read from /")
    if not torch.cuda.is_available():
        assert found.remarks[1:] == ["engine.device=cuda:9 is not here: this is on the CPU."]
    (tmp_path / "data" / "pictures").rmdir()
    (tmp_path / "elsewhere" / "pictures").mkdir(parents=True)
    monkeypatch.setenv("MTLRUN_DATA", str(tmp_path / "elsewhere"))
    assert read_run(copied).config.dataset["root"] == str(tmp_path / "elsewhere" / "pictures")
    given = read_run(copied, data="1e3")
    assert given.config.dataset["root"] == "1e3"


def test_weights_that_the_network_started_from_are_not_looked_for(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtlrun.build.check_settings", lambda config: None)
    change(copied, {"backbone.weights": "gone.pth"})
    assert read_run(copied).config.backbone["weights"] is None


def test_settings_are_given_anew_or_refused(train: "Train") -> None:
    folder = train()
    assert rebuild(read_run(folder, ["engine.evaluation_batch_size=7"])).batch_size == 7
    assert "dataset.rot: Digits has no such setting" in refused(folder, "--set", "dataset.rot=1")
    said = refused(folder, "--set", "optimizer.lr=0.06")
    assert said.startswith("--set optimizer.lr: of a trained network that cannot be changed")
    assert "write KEY=VALUE" in refused(folder, "--set", "dataset.root")
    assert "reads no files of its own" in refused(folder, "--data", "here")
    assert "end the name in .csv or .json" in refused(folder, "-o", "figures.txt")
    assert "is a file of the run itself" in refused(folder, "-o", str(folder / "result.json"))
    assert not read_run(folder, ["engine.threads=1"]).remarks
    assert "torch sees" in refused(folder, "--device", "cuda:99")


@pytest.mark.parametrize("patience", [None, 4])
def test_runs_from_before_there_was_stopping_are_read(
    patience: int | None, copied: Path, tmp_path: Path
) -> None:
    config = OmegaConf.load(copied / "config.yaml")
    OmegaConf.update(config, "engine.patience", patience, force_add=True)
    for later in ("stopping", "distill"):
        config.pop(later)
    OmegaConf.save(config, copied / "config.yaml")
    assert evaluate_command([str(copied), "-o", str(tmp_path / "figures.json")]) == 0
    known = json.loads((copied / "result.json").read_text())["tasks"]["digit"]["metrics"]
    found = json.loads((tmp_path / "figures.json").read_text())["tasks"]["digit"]
    assert found["accuracy"]["value"] == known["accuracy"]["test"]


def test_what_is_no_finished_run_is_named(copied: Path, tmp_path: Path) -> None:
    assert "there is no such folder" in refused(tmp_path / "nowhere")
    assert f"one of them is wanted. Name it: '{copied}'." in refused(tmp_path)
    shutil.rmtree(copied / "checkpoints")
    assert "has no checkpoints (checkpoints/best.pt is missing)" in refused(copied)
    (copied / "checkpoints").mkdir()
    (copied / "checkpoints" / "best.pt").write_bytes(b"nothing")
    assert "is damaged or is no checkpoint" in refused(copied)
    assert "It has another one: --checkpoint best." in refused(copied, "--checkpoint", "last")
    for content in ("[]", '{"tasks": {}}'):
        (copied / "result.json").write_text(content)
        assert "result.json holds no result of a run" in refused(copied)
    (copied / "result.json").unlink()
    assert "holds no finished run" in refused(copied)
    (copied / "config.yaml").unlink()
    assert "is no folder of a run" in refused(copied)


def test_a_run_of_another_version_is_refused_with_both_versions(copied: Path) -> None:
    path, result = copied / "config.yaml", copied / "result.json"
    facts = {**json.loads(result.read_text()), "mtlrun": "0.0.3", "git_commit": "0123456789ab"}
    result.write_text(json.dumps(facts))
    both = f"was made by mtlrun 0.0.3 (commit 01234567), and this is mtlrun {__version__}"
    config = path.read_text()

    def said(key: str, value: object) -> str:
        path.write_text(config)
        change(copied, {key: value})
        message = refused(copied)
        assert both in message
        return message

    assert "the setting warmup, which there is not" in said("warmup", 3)
    assert "the setting engine.warmup, which there is not" in said("engine.warmup", 3)
    assert "backbone.wide: MLP has no such setting" in said("backbone.wide", 3)
    assert "Value 'often'" in said("epochs", "often")
    assert "there is no such class" in said("weighting._target_", "mtlrun.weighting.old.Old")
    assert re.search(r"is \[128, 64\] there and \[16, 64\] here", said("backbone.hidden", [16]))

    path.write_text(config)
    best = copied / "checkpoints" / "best.pt"
    state = torch.load(best, weights_only=True)
    state["model"]["heads.9.weight"] = state["model"].pop("heads.2.layers.0.weight")
    del state["format"]
    checkpoint.write(best, state)
    assert "heads.2.layers.0.weight is new; heads.9.weight is gone" in refused(copied)
