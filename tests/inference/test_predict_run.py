"""``mtlrun predict``: from files to answers, and back to the figures of the run."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from mtlrun.build.components import located
from mtlrun.data.base import Dataset
from mtlrun.errors import UserError
from mtlrun.inference.files import find_inputs
from mtlrun.inference.predict import ENCODING, asked_names, predict_command
from mtlrun.inference.stored import read_run
from mtlrun.inference.trained import rebuild

if TYPE_CHECKING:
    from conftest import Train

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
DENSE = (
    "dataset=nyuv2",
    "dataset.validation=0.4",
    "dataset.size=[16,16]",
    "backbone=segnet",
    "backbone.widths=[4,6]",
)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def pictures(train: "Train", tmp_path: Path) -> Path:
    """The test rows of a run of digits as image files in two folders."""
    source = rebuild(read_run(train())).dataset.splits["test"]["digits"]
    pixels = (source.rows(torch.arange(len(source)))[0] * 255).round().to(torch.uint8)
    for number, row in enumerate(pixels):
        folder = tmp_path / "pictures" / ("even", "odd")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row[0].numpy()).save(folder / f"{number:03}.png")
    return tmp_path / "pictures"


def test_answers_for_the_test_rows_have_the_figures_of_the_run(
    train: "Train", pictures: Path, tmp_path: Path
) -> None:
    folder, out = train(), tmp_path / "out" / "answers.csv"
    assert predict_command([str(folder), "--input", str(pictures), "-o", str(out)]) == 0
    rows = rows_of(out)
    run = rebuild(read_run(folder))
    _, targets = run.dataset.splits["test"]["digits"].rows(torch.arange(len(rows)))
    order = [int(Path(row["input"]).stem) for row in rows]
    assert sorted(order) == list(range(len(run.dataset.splits["test"]["digits"])))
    figures = {
        task: {name: values["test"] for name, values in facts["metrics"].items()}
        for task, facts in json.loads((folder / "result.json").read_text())["tasks"].items()
    }
    digits = torch.tensor([int(row["digit"]) for row in rows])
    accuracy = (digits == targets["digit"][order]).double().mean().item()
    assert accuracy == pytest.approx(figures["digit"]["accuracy"], abs=1e-12)
    parity = torch.tensor([row["parity"] == "odd" for row in rows])
    accuracy = (parity == targets["parity"][order].bool()).double().mean().item()
    assert accuracy == pytest.approx(figures["parity"]["accuracy"], abs=1e-12)
    ink = np.array([float(row["ink"]) for row in rows])
    error = np.sqrt(np.mean((ink - targets["ink"][order].numpy()) ** 2))
    assert error == pytest.approx(figures["ink"]["rmse"], rel=1e-5)
    names = [f"digit/p({number})" for number in range(10)]
    shares = np.array([[float(row[name]) for name in names] for row in rows])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    assert [str(number) for number in shares.argmax(1)] == [row["digit"] for row in rows]


def test_bad_files_are_named_and_the_others_written(
    train: "Train", pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "even" / "cut.png").write_bytes((pictures / "even" / "000.png").read_bytes()[:60])
    (pictures / "notes.md").write_text("no image")
    (pictures / ".hidden.png").write_text("no image")
    out = tmp_path / "out"
    arguments = [str(train()), "--input", str(pictures / "even"), str(pictures / "odd" / "001.png")]
    assert predict_command([*arguments, "-o", str(out), "--task", "ink,parity"]) == 1
    rows = rows_of(out / "predictions.csv")
    assert len(rows) == len(list((pictures / "even").iterdir()))
    assert list(rows[0]) == ["input", "parity", "parity/p(even)", "parity/p(odd)", "ink"]
    said = capsys.readouterr().err
    assert f"1 of {len(rows) + 1} files could not be read" in said
    assert "cut.png is damaged or is no image" in said
    files, remarks = find_inputs([pictures], "images")
    assert remarks == [f"Left out of {pictures}: notes.md."]
    assert all(file.stem == str(file.path.relative_to(pictures).with_suffix("")) for file in files)

    only_bad = [str(train()), "--input", str(pictures / "even" / "cut.png")]
    assert predict_command([*only_bad, "-o", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()


def test_names_of_what_is_made_are_told_apart(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/1.jpg", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files, _ = find_inputs([tmp_path], "images")
    assert [file.stem for file in files] == ["a/1.jpg", "a/1.png", "b/1"]
    with pytest.raises(UserError, match="would have the same name"):
        find_inputs([tmp_path / "a" / "1.png", tmp_path / "b" / "1.png"], "images")
    both = [tmp_path / "a" / "1.png", tmp_path / "b" / "1.png"]
    assert [f.path for f in find_inputs(both, "images", apart=False)[0]] == both
    with pytest.raises(UserError, match=r"the folder holds no tables \(\.csv"):
        find_inputs([tmp_path], "tables")
    with pytest.raises(UserError, match="there is no such file or folder"):
        find_inputs([tmp_path / "c"], "images")


def test_what_is_written_is_never_an_input(
    train: "Train", pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("1.png", "made/2.png", "more/made/3.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    files, remarks = find_inputs([tmp_path / "in"], "images", [tmp_path / "in" / "made"])
    assert [file.stem for file in files] == ["1", "more/made/3"]
    assert remarks == [f"Left out of {tmp_path / 'in'}: made/2.png."]
    files, _ = find_inputs([tmp_path / "in" / "made"], "images", [tmp_path / "in"])
    assert [file.stem for file in files] == ["2"]  # the output is around it
    with pytest.raises(UserError, match=r"1\.png is an input, and the output"):
        find_inputs([tmp_path / "in" / "1.png"], "images", [tmp_path / "in" / "1.png"])
    folder = train()
    with pytest.raises(UserError, match=r"metrics\.csv is a file of the run itself"):
        predict_command([str(folder), "--input", str(pictures), "-o", str(folder / "metrics.csv")])


def test_what_cannot_be_predicted_is_refused(
    train: "Train", pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str) -> str:
        with pytest.raises(UserError) as error:
            predict_command([str(train()), "--input", str(pictures), *arguments])
        return str(error.value)

    out = ("-o", str(tmp_path / "out"))
    assert said(*out, "--task", "digits").startswith("--task digits: this run has no such task.")
    assert asked_names(["ink,parity", "a,b"], ["ink", "a,b"]) == ["ink", "parity", "a,b"]
    assert "--column goes with texts" in said(*out, "--column", "text")
    (tmp_path / "out").touch()
    assert "name a folder to write to" in said(*out)
    monkeypatch.setattr("mtlrun.data.digits.Digits.new_inputs", None)
    assert "has no way from new files to inputs of dataset=digits. It has one for celeba" in said(
        *out
    )


def test_all_datasets_that_read_new_inputs_are_named() -> None:
    for path in CONFIGS.glob("*.yaml"):
        found = located(OmegaConf.load(path).dataset, path.stem)
        reads = path.stem.removesuffix("_education") in (*ENCODING, "images", "table")
        assert (getattr(found, "new_inputs", None) is not None) == reads, path.stem
        if reads:
            assert found.encode is not Dataset.encode  # type: ignore[attr-defined]


def test_maps_are_written_beside_the_table(train: "Train", nyuv2: Path, tmp_path: Path) -> None:
    folder = train(*DENSE, f"dataset.root={nyuv2}", f"dataset.prepared={nyuv2}/made", "epochs=1")
    out = tmp_path / "out"
    images = nyuv2 / "image"
    assert predict_command([str(folder), "--input", str(images), "-o", str(out)]) == 0
    rows = rows_of(out / "predictions.csv")
    assert [Path(row["input"]).name for row in rows] == [f"000{n}.jpg" for n in range(1, 6)]
    assert rows[0]["depth"] == "0001_depth.npy"
    run = rebuild(read_run(folder))
    inputs, _ = run.dataset.splits["test"]["nyuv2"].rows(torch.arange(2))
    with torch.no_grad():
        inputs, _ = run.dataset.transform("nyuv2", inputs, {}, None)
        wanted = run.model({"nyuv2": inputs}, run.model.tasks)
    for number, row in enumerate(rows[:2]):
        depth = np.load(out / row["depth"])
        np.testing.assert_allclose(depth, wanted["depth"][number, 0].numpy(), atol=1e-5)
        classes = np.asarray(Image.open(out / row["segmentation"]))
        assert (classes == wanted["segmentation"][number].argmax(0).numpy()).mean() > 0.99
    assert len(list(out.iterdir())) == 1 + 5 * 4
    with pytest.raises(UserError, match="segmentation gives pictures"):
        predict_command([str(folder), "--input", str(images), "-o", str(tmp_path / "a.csv")])
    with pytest.raises(UserError, match="is a folder of inputs, and pictures are written"):
        predict_command([str(folder), "--input", str(images), "-o", str(images)])
    taken = [images / "0001.jpg", tmp_path / "0001_segmentation.png"]
    (tmp_path / "0001_segmentation.png").write_bytes(taken[0].read_bytes())
    arguments = [str(folder), "--input", *map(str, taken), "-o", str(tmp_path)]
    with pytest.raises(UserError, match=r"0001_segmentation\.png is an input, and an output"):
        predict_command(arguments)
    assert taken[1].read_bytes() == taken[0].read_bytes()


def test_rows_of_several_streams(train: "Train", texts: tuple[str, ...], tmp_path: Path) -> None:
    folder = train(*texts)
    new, out = tmp_path / "new.txt", tmp_path / "out.csv"
    new.write_text("good good film\nbad bad food\n")
    arguments = [str(folder), "--input", str(new), "-o", str(out)]
    with pytest.raises(UserError, match="come from 2 streams: say which tasks"):
        predict_command(arguments)
    assert predict_command([*arguments, "--task", "movie", "--task", "yelp"]) == 0
    rows = rows_of(out)
    assert [row["row"] for row in rows] == ["1", "2"]
    assert [row["movie"] for row in rows] == ["positive", "negative"]
    assert [row["yelp"] for row in rows] == ["positive", "negative"]
