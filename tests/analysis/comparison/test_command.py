import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from mtlrun.analysis.comparison.command import compare_command
from mtlrun.errors import UserError

if TYPE_CHECKING:
    from conftest import WriteRun

SINGLE_TASK = "equal,architecture=single_task"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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


def test_a_folder_gets_a_file_of_each_format(outputs: str, tmp_path: Path) -> None:
    assert compare_command([outputs, "-o", str(tmp_path / "paper")]) == 0
    written = sorted(path.name for path in (tmp_path / "paper").iterdir())
    assert written == [f"comparison.{end}" for end in ("csv", "json", "md", "tex")]
    frame = pd.read_csv(tmp_path / "paper/comparison.csv")
    assert frame.loc[1, "digit/accuracy"] == pytest.approx(0.89)
    assert "\\toprule" in (tmp_path / "paper/comparison.tex").read_text()
    assert (
        "| gradnorm | 2 | **0.8900** ± 0.0141 |" in (tmp_path / "paper/comparison.md").read_text()
    )


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("table.csv", "dataset,"),
        ("table.md", "## digits"),
        ("table.tex", "% \\usepackage"),
        ("table.json", "{"),
    ],
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
        (["--metrics", "final,best"], "final,best: give one of test, final, best"),
        (["--metrics", "acuracy"], "no run has such a metric. Did you mean digit/accuracy"),
        (["--sort", "speed"], r"no such column\. .*delta_m/over_metrics.*seconds"),
        (["--reference", "gradnrm"], "no such row. Did you mean gradnorm"),
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


def test_json_is_the_whole_report(
    write_run: "WriteRun", outputs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("dwa", {"digit": {"accuracy": None}})
    compare_command([outputs, "--format", "json"])
    report = json.loads(capsys.readouterr().out)
    (table,) = report["tables"]
    rows = {row["label"]: row for row in table["rows"]}
    gradnorm = rows["gradnorm"]
    assert gradnorm["figures"]["digit/accuracy"]["mean"] == pytest.approx(0.89)
    assert gradnorm["figures"]["digit/accuracy"]["low"] is None
    assert rows["dwa"]["figures"]["digit/accuracy"]["mean"] is None
    assert gradnorm["differs"] == {"weighting": "gradnorm", "architecture": "hps"}
    assert gradnorm["transfer"][0]["change"] == pytest.approx(11.25)
    assert gradnorm["transfer"][0]["verdict"] == "unclear"
    assert gradnorm["test"]["against"] == table["reference"] == SINGLE_TASK
    assert [Path(run["folder"]).name for run in gradnorm["runs"]] == ["seed=0", "seed=1"]
    assert table["answer"][0].startswith("On digits, gradnorm has a delta_m")
    assert table["protocol"]["epochs"] == "30"
    assert report["ranking"] is None


def test_an_interval_takes_the_place_of_the_deviation(
    outputs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_command([outputs, "--format", "markdown", "--spread", "t"])
    # 0.89 -+ t(0.975, 1) * 0.01, and +11.25 % -+ t(0.975, 1) * 1.25
    text = capsys.readouterr().out
    assert "**0.8900** [0.7629, 1.0171]" in text
    assert "**+11.25** [-4.63, +27.13]" in text
    assert "+11.25 % [-4.63, +27.13] against single-task training" in text


def test_the_bootstrap_stays_within_the_seeds(
    outputs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_command([outputs, "--format", "csv", "--spread", "bootstrap"])
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    ends = ["digit/accuracy/low", "digit/accuracy/high", "delta_m/over_metrics/high"]
    assert list(frame.loc[1, ends]) == pytest.approx([0.88, 0.9, 12.5])


def test_chosen_metrics_are_shown_and_delta_m_is_over_all(
    write_run: "WriteRun", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"digit": {"accuracy": 0.8, "f1": 0.5}, "ink": {"r2": 0.5, "mse": 1.0}}
    write_run(SINGLE_TASK, figures)
    write_run("equal", figures | {"ink": {"r2": 0.7, "mse": 1.0}})
    arguments = [str(tmp_path / "outputs"), "--format", "csv", "--metrics"]
    compare_command([*arguments, "best,accuracy,ink/m*"])
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    metrics = [name for name in frame.columns if "/" in name and not name.endswith("/sd")]
    assert metrics[:3] == ["digit/accuracy", "ink/mse", "delta_m/over_metrics"]
    assert frame["delta_m/over_metrics"][1] == pytest.approx(10)


@pytest.mark.parametrize(
    ("column", "first"),
    [
        ("accuracy", "gradnorm"),
        ("digit/accuracy", "gradnorm"),
        ("Over tasks", "gradnorm"),
        ("seconds", "mgda"),
        ("mean rank", "gradnorm"),
        ("method", SINGLE_TASK),
        ("seeds", SINGLE_TASK),
        (None, SINGLE_TASK),
    ],
)
def test_rows_are_sorted_by_any_column(
    write_run: "WriteRun",
    outputs: str,
    capsys: pytest.CaptureFixture[str],
    column: str | None,
    first: str,
) -> None:
    write_run("mgda", {"digit": {"accuracy": 0.7}}, seconds=1)
    sort = [] if column is None else ["--sort", column]
    compare_command([outputs, "--format", "csv", *sort])
    assert pd.read_csv(io.StringIO(capsys.readouterr().out))["method"][0] == first


def test_a_name_of_several_columns_is_refused(write_run: "WriteRun", tmp_path: Path) -> None:
    write_run("equal", {"digit": {"accuracy": 0.8}, "parity": {"accuracy": 0.9}})
    with pytest.raises(UserError, match="several columns: digit/accuracy, parity/accuracy"):
        compare_command([str(tmp_path / "outputs"), "--sort", "accuracy"])


def test_the_cache_can_be_left_alone(outputs: str, tmp_path: Path) -> None:
    compare_command([outputs, "--no-cache"])
    assert not (tmp_path / "cache").exists()
    compare_command([outputs])
    assert (tmp_path / "cache" / "mtlrun" / "runs").is_dir()


def test_neither_compare_nor_list_imports_torch() -> None:
    code = (
        "import sys, mtlrun.analysis.catalogue;"
        "heavy = {'torch', 'pandas', 'numpy', 'hydra', 'omegaconf'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "import mtlrun.analysis.comparison.command;"
        "assert not {'torch', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
