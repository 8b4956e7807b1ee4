"""Parts of a user's own, in a folder of the user's own: the examples that the README prints."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtlrun.cli import run_command

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".yaml"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the examples in it; their modules are forgotten afterwards."""
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in ("my_data", "my_backbone", "my_weighting"):
        sys.modules.pop(name, None)


def run(folder: Path, *arguments: str) -> dict:
    """The result of a run in the folder."""
    assert run_command([*arguments, "tracking.tensorboard=false"]) == 0
    (path,) = folder.glob("outputs/default/*/*/seed=0/result.json")
    return json.loads(path.read_text())


def test_a_dataset_with_missing_labels(folder: Path) -> None:
    result = run(folder, "--config-dir", "my_configs", "dataset=moons")
    tasks = result["tasks"]
    assert tasks["moon"]["metrics"]["accuracy"]["test"] > 0.93
    assert tasks["distance"]["metrics"]["r2"]["test"] > 0.9
    assert tasks["moon"]["train_rows"] == 1000
    assert tasks["distance"]["train_rows"] == 500


def test_a_backbone(folder: Path) -> None:
    result = run(folder, "--config-dir", "my_configs", "backbone=residual_mlp", "epochs=3")
    assert result["backbone"] == "residual_mlp"
    linears = 64 * 64 + 64 + 2 * 2 * (64 * 64 + 64)
    assert result["parameters"]["shared"] == linears
    assert result["tasks"]["digit"]["metrics"]["accuracy"]["test"] > 0.7


def test_a_weighting_of_losses(folder: Path) -> None:
    result = run(folder, "weighting._target_=my_weighting.GeometricMean", "epochs=3")
    weights = [task["weight"] for task in result["tasks"].values()]
    losses = [task["loss"]["initial"] for task in result["tasks"].values()]
    assert (
        len({round(weight, 6) for weight in weights}) == 3
    )  # of the geometric mean: not all equal
    assert all(loss > 0 for loss in losses)


def test_a_weighting_of_gradients(folder: Path) -> None:
    run(folder, "weighting._target_=my_weighting.UnitGradients", "epochs=1", "engine.log_every=1")
    (path,) = folder.glob("outputs/default/*/*/seed=0/losses.csv")
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    assert len(rows) > 50
    for row in rows:
        assert float(row[5]) * float(row[6]) == pytest.approx(1, rel=1e-6)  # weight x gradient norm


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_readme_prints_the_example(path: Path) -> None:
    readme = (HERE.parent / "README.md").read_text()
    blocks = re.findall(r"```(?:python|yaml)\n(.*?)```", readme, flags=re.DOTALL)
    assert path.read_text() in blocks, f"README.md does not print {path.name} as it is"


@pytest.mark.parametrize(
    ("group", "title"),
    [
        ("architecture", "Architectures"),
        ("weighting", "Weightings"),
        ("dataset", "Datasets"),
        ("sampler", "Samplers"),
    ],
)
def test_the_readme_names_every_choice(group: str, title: str) -> None:
    readme = (HERE.parent / "README.md").read_text()
    section = readme.split(f"\n## {title}")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")]
    configs = (HERE.parent / "configs" / group).glob("*.yaml")
    for name in sorted(path.stem for path in configs):
        assert any(f"`{name}`" in line for line in table), name


def test_the_readme_names_every_backbone() -> None:
    readme = (HERE.parent / "README.md").read_text()
    for path in (HERE.parent / "configs" / "backbone").glob("*.yaml"):
        assert f"`{path.stem}`" in readme, path.stem
