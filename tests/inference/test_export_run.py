"""``mtlrun export``: one file that gives the network's predictions, for any number of rows."""

import json
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from mtlrun.errors import UserError
from mtlrun.inference import export as exporting
from mtlrun.inference.export import export_command
from mtlrun.inference.formats import FORMATS, METADATA, captured
from mtlrun.inference.stored import read_run
from mtlrun.inference.trained import TrainedRun, rebuild

if TYPE_CHECKING:
    from conftest import Train


def wanted(run: TrainedRun, *inputs: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return run.model(dict(zip(run.dataset.streams, inputs, strict=True)), run.model.tasks)


def described(path: Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(METADATA)]
        return json.loads(archive.read(name))


def test_an_archive_of_torch(
    train: "Train", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = train(), tmp_path / "digits.pt2"
    assert export_command([str(folder), "--format", "torch_export", "-o", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["digit", "parity", "ink"]
    assert [file.name for file in tmp_path.iterdir()] == ["digits.pt2"]
    run = rebuild(read_run(folder))
    loaded = torch.export.load(path).module()
    for rows in (1, 2, 33):
        inputs = torch.rand(rows, 1, 8, 8)
        found = loaded(inputs)
        for task, prediction in wanted(run, inputs).items():
            torch.testing.assert_close(found[task], prediction)
    said = described(path)
    assert said["inputs"]["inputs"]["shape"] == ["batch", 1, 8, 8]
    assert said["inputs"]["inputs"]["normalisation"]["mean"] == [0.0]
    assert said["outputs"]["parity"]["class_names"] == ["even", "odd"]
    assert said["outputs"]["ink"]["shape"] == ["batch", 1]
    assert said["epoch"] == run.epoch


def test_an_input_is_never_called_as_a_task(train: "Train", tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(
        "x,inputs,a/b (%)\n" + "".join(f"{n * 7 % 11},{n % 5},{n % 3}.5\n" for n in range(60))
    )
    folder = train(
        "dataset=table",
        f"dataset.path={tmp_path / 'table.csv'}",
        "dataset.tasks=[inputs,'a/b (%)']",
        "epochs=1",
    )
    path = tmp_path / "model.pt2"
    export_command([str(folder), "--format", "torch_export", "-o", str(path)])
    said = described(path)
    assert list(said["inputs"]) == ["inputs_"]
    assert list(said["outputs"]) == ["inputs", "a/b (%)"]


def test_batches_of_one_size(train: "Train", tmp_path: Path) -> None:
    path = tmp_path / "digits.pt2"
    export_command([str(train()), "--format", "torch_export", "--batch", "3", "-o", str(path)])
    assert described(path)["outputs"]["digit"]["shape"] == [3, 10]
    loaded = torch.export.load(path).module()
    assert loaded(torch.rand(3, 1, 8, 8))["digit"].shape == (3, 10)
    with pytest.raises(AssertionError):
        loaded(torch.rand(4, 1, 8, 8))


def test_onnx_runs_elsewhere_with_streams_of_any_length(
    train: "Train", texts: tuple[str, ...], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder, path = train(*texts), tmp_path / "reviews.onnx"
    assert export_command([str(folder), "--format", "onnx", "-o", str(path)]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["reviews.onnx"]
    run = rebuild(read_run(folder))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["inputs_movie", "inputs_yelp"]
    assert [each.name for each in session.get_outputs()] == ["movie", "yelp"]
    assert session.get_inputs()[0].shape == ["batch_movie", "length_movie"]
    for sizes in ((1, 2), (5, 4)):
        inputs = [torch.randint(1, 20, sizes), torch.randint(1, 20, (3, 3))]
        given = {f"inputs_{s}": x.numpy() for s, x in zip(("movie", "yelp"), inputs, strict=True)}
        found = session.run(["movie", "yelp"], given)
        for prediction, right in zip(found, wanted(run, *inputs).values(), strict=True):
            np.testing.assert_allclose(prediction, right.numpy(), rtol=1e-4, atol=1e-5)
    held = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    said = json.loads(held[METADATA])
    assert said["inputs"]["inputs_movie"]["shape"] == ["batch", "length"]
    assert said["outputs"]["movie"]["class_names"] == ["negative", "positive"]


def test_a_file_that_gives_something_else_is_removed(
    train: "Train", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "digits.pt2"
    path.write_bytes(b"of before")
    run = FORMATS["torch_export"].run
    monkeypatch.setattr(
        type(FORMATS["torch_export"]),
        "run",
        lambda self, *given: {task: each * 1.001 for task, each in run(*given).items()},
    )
    with pytest.raises(UserError, match="gives other predictions than the network: digit differs"):
        export_command([str(train()), "--format", "torch_export", "-o", str(path)])
    assert path.read_bytes() == b"of before"
    assert len(list(tmp_path.iterdir())) == 1
    nan = torch.tensor([torch.nan])
    with pytest.raises(UserError, match="differs by nan"):
        exporting._check({"t": exporting._difference(nan, torch.ones(1))}, path)


class DataDecides(nn.Module):
    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        return {"t": inputs[0] if inputs[0].sum() > 0 else -inputs[0]}


def test_what_cannot_be_exported_is_refused(train: "Train", tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"torch\.export could not follow its forward pass"):
        captured(DataDecides(), (torch.ones(3, 2),), [{}])
    with pytest.raises(UserError, match=r"--format onnx ends in \.onnx"):
        export_command([str(train()), "--format", "onnx", "-o", str(tmp_path / "model.pt2")])
    assert not list(tmp_path.iterdir())


def test_without_the_packages_onnx_says_what_to_install(
    train: "Train", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    path = tmp_path / "model.onnx"
    with pytest.raises(UserError, match=r"pip install 'mtlrun\[export\]'"):
        export_command([str(train()), "--format", "onnx", "-o", str(path)])
    assert not list(tmp_path.iterdir())


class CountsRows(nn.Module):
    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        return {"t": inputs[0].sum(0) / len(inputs[0])}


def test_code_that_counts_rows_is_exported_for_any_number() -> None:
    program = captured(CountsRows(), (torch.ones(3, 2),), [{0: Dim.DYNAMIC}])
    rows = torch.rand(7, 2)
    torch.testing.assert_close(program.module()(rows)["t"], rows.mean(0))
