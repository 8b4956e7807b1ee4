import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from mtlrun.analysis.command import compare_command
from mtlrun.errors import UserError

if TYPE_CHECKING:
    from conftest import WriteRun

SINGLE_TASK = "equal,architecture=single_task"


@pytest.fixture
def outputs(write_run: "WriteRun", tmp_path: Path) -> str:
    for seed in (0, 1):
        write_run(SINGLE_TASK, {"digit": {"accuracy": 0.8}}, seed=seed)
        write_run("gradnorm", {"digit": {"accuracy": 0.88 + seed / 50}}, seed=seed)
    return str(tmp_path / "outputs")


def test_the_table_is_printed(outputs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_command([outputs]) == 0
    text = capsys.readouterr().out
    assert "gradnorm" in text
    assert "0.8900* ± 0.0141" in text
    assert "+11.25* ± 1.77" in text


def test_csv_is_printed_alone_and_notes_go_to_stderr(
    write_run: "WriteRun", outputs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("mgda", {"digit": {"accuracy": 0.8}}, state="failed")
    assert compare_command([outputs, "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert out.startswith("dataset,study,method,seeds,baseline,digit/accuracy,")
    assert "mgda seed=0 (failed)" in err


def test_a_folder_gets_all_three_files(outputs: str, tmp_path: Path) -> None:
    assert compare_command([outputs, "-o", str(tmp_path / "paper")]) == 0
    written = sorted(path.name for path in (tmp_path / "paper").iterdir())
    assert written == ["comparison.csv", "comparison.md", "comparison.tex"]
    frame = pd.read_csv(tmp_path / "paper/comparison.csv")
    assert frame.loc[1, "digit/accuracy"] == pytest.approx(0.89)
    assert "\\toprule" in (tmp_path / "paper/comparison.tex").read_text()
    assert (
        "| gradnorm | 2 | **0.8900** ± 0.0141 |" in (tmp_path / "paper/comparison.md").read_text()
    )


@pytest.mark.parametrize(
    ("name", "start"),
    [("table.csv", "dataset,"), ("table.md", "## digits"), ("table.tex", "% \\usepackage")],
)
def test_the_extension_decides_the_format(
    outputs: str, tmp_path: Path, name: str, start: str
) -> None:
    assert compare_command([outputs, "-o", str(tmp_path / "new" / name)]) == 0
    assert (tmp_path / "new" / name).read_text().startswith(start)


def test_format_decides_where_the_extension_does_not(outputs: str, tmp_path: Path) -> None:
    target = tmp_path / "table.txt"
    assert compare_command([outputs, "-o", str(target), "--format", "markdown"]) == 0
    assert target.read_text().startswith("## digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "table.txt"], "the extension names no format"),
        (["-o", "table.csv", "--format", "latex"], "is for csv, and --format asks for latex"),
        (["--baseline", "nowhere"], "nowhere is not there"),
    ],
)
def test_wrong_options_say_what_is_wrong(outputs: str, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare_command([outputs, *arguments])


def test_a_place_that_cannot_be_written_is_named(outputs: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.table\.csv cannot be written"):
        compare_command([outputs, "-o", str(tmp_path / "file" / "table.csv")])


def test_only_unfinished_runs_are_an_error_that_names_them(tmp_path: Path) -> None:
    folder = tmp_path / "default/digits/equal/seed=0"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match="seed=0 is unfinished"):
        compare_command([str(tmp_path)])
    (folder / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json cannot be read"):
        compare_command([str(tmp_path)])


def test_final_figures_are_compared_where_asked(
    write_run: "WriteRun", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run("equal", {"digit": {"accuracy": 0.5}})
    result = json.loads((folder / "result.json").read_text())
    result["tasks"]["digit"]["metrics"]["accuracy"]["final"] = 0.75
    (folder / "result.json").write_text(json.dumps(result))
    compare_command([str(tmp_path), "--metrics", "final"])
    assert "0.7500" in capsys.readouterr().out


def test_neither_compare_nor_list_imports_torch() -> None:
    code = (
        "import sys, mtlrun.analysis.catalogue;"
        "heavy = {'torch', 'pandas', 'numpy', 'hydra', 'omegaconf'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "import mtlrun.analysis.command;"
        "assert not {'torch', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
