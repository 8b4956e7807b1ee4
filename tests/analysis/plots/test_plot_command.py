import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mtlrun.analysis.plots import lines
from mtlrun.analysis.plots.command import KINDS, plot_command
from mtlrun.analysis.plots.style import PAGE, to_bytes
from mtlrun.errors import UserError

SINGLE_TASK = "equal,architecture=single_task"

WriteCurves = Callable[..., Path]


def both(digit: float, ink: float) -> dict[str, dict[str, float]]:
    return {"digit": {"accuracy": digit}, "ink": {"rmse": ink}}


@pytest.fixture
def outputs(write: WriteCurves, tmp_path: Path) -> str:
    cosines = {("digit", "ink"): (0.5, 0, -0.5, -1)}
    for seed in range(2):
        shift = seed / 100
        write(SINGLE_TASK, both(0.8 + shift, 0.5), seed=seed)
        write("equal", both(0.82 + shift, 0.55), seed=seed)
        write(
            "mgda",
            both(0.85 + shift, 0.6),
            weights=(1, 2, 3, 4),
            cosines=cosines,
            seed=seed,
            seconds=30.0,
        )
    return str(tmp_path / "outputs")


def test_every_kind_is_written(
    outputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures"
    assert plot_command([outputs, "-o", str(figures), "--format", "png", "--no-cache"]) == 0
    assert {path.name for path in figures.iterdir()} == {
        f"digits_{kind}.{ending}" for kind in KINDS for ending in ("png", "txt")
    }
    assert f"Written to {figures}/digits_pareto.png" in capsys.readouterr().out
    assert "3 methods" not in (figures / "digits_transfer.txt").read_text()
    with Image.open(figures / "digits_weights.png") as image:
        assert image.size[0] == PAGE * 300


def test_formats_are_what_publishers_take(write: WriteCurves, subject: Any) -> None:
    write("equal")
    write("mgda,weighting.name=$x$_y")
    pdf, again = (to_bytes(lines.loss_ratios(subject()).figure, "pdf") for _ in range(2))
    assert pdf == again
    assert pdf.startswith(b"%PDF-")
    assert b"/CIDFontType2" in pdf  # TrueType
    assert b"/Type3" not in pdf


def test_what_lacks_data_is_named(
    write: WriteCurves, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("equal")
    target = str(tmp_path / "figures")
    call = [str(tmp_path / "outputs"), "-o", target, "--no-cache", "--format", "png"]
    assert plot_command(call) == 0
    out = capsys.readouterr().out
    assert "Not drawn: weights of digits: all weights stay what they were" in out
    assert "Not drawn: conflict of digits: no run has cosines" in out
    with pytest.raises(UserError, match="Not drawn: conflict of digits: no run has cosines"):
        plot_command([*call, "--kind", "conflict,loss_ratios"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "paretto"], "--kind paretto: there is none. Did you mean pareto?"),
        (["--format", "eps"], "--format eps: there is none"),
        (["--task", "digitt"], "--task digitt: no run has it. Did you mean digit?"),
        (["--methods", "mgdaa"], "--methods mgdaa: no method has that name. Did you mean mgda?"),
        (["--smooth", "-3"], "--smooth -3: give a number of steps"),
    ],
)
def test_slips_are_explained(
    outputs: str, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        plot_command([outputs, "-o", str(tmp_path), "--no-cache", *options])
    assert message in str(error.value)


def test_methods_can_be_chosen(outputs: str, tmp_path: Path) -> None:
    target = ["-o", str(tmp_path), "--kind", "weights", "--format", "svg", "--no-cache"]
    for given in (["mg*"], ["mgda,single_task"]):
        plot_command([outputs, *target, "--methods", *given])
        svg = (tmp_path / "digits_weights.svg").read_text()
        assert svg.startswith("<?xml")
        assert "<!-- mgda -->" in svg
        assert "<!-- equal -->" not in svg


def test_matplotlib_is_asked_for_where_it_is_missing(
    outputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'mtlrun\[plots\]'"):
        plot_command([outputs, "-o", str(tmp_path)])


def test_the_command_imports_neither_matplotlib_nor_torch() -> None:
    code = (
        "import sys, mtlrun.analysis.plots.command;"
        "assert not {'torch', 'matplotlib', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
