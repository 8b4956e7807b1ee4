"""Tables and labelled images of the user's own, from the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtlrun.cli import run_command

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the examples in it."""
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, name: str, *arguments: str) -> dict:
    assert run_command([*arguments, f"outputs={name}", "tracking.tensorboard=false"]) == 0
    (path,) = folder.glob(f"{name}/default/*/*/seed=0/result.json")
    return json.loads(path.read_text())


def figures(result: dict) -> dict[str, dict[str, float]]:
    return {
        name: {metric: found["test"] for metric, found in task["metrics"].items()}
        for name, task in result["tasks"].items()
    }


def test_a_table_from_the_command_line_and_from_yaml(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = run(folder, "own", "--config-dir", "my_configs", "dataset=my_table")
    said = capsys.readouterr().out
    assert "Read houses.csv: 200 rows. Inputs: 3 numeric (area, rooms, built), 2 cat" in said
    assert "Targets: price (regression), sold (binary, 41.5 % yes, 29 missing)." in said
    assert figures(own)["price"]["r2"] > 0.9
    assert figures(own)["sold"]["auc"] > 0.9
    assert own["tasks"]["sold"]["train_rows"] < own["tasks"]["price"]["train_rows"] == 144

    typed = ("dataset=table", "dataset.path=houses.csv", "epochs=2")
    listed = run(folder, "listed", *typed, "dataset.tasks=[price,sold]")
    mapped = run(folder, "mapped", *typed, "dataset.tasks={price: regression, sold: auto}")
    assert figures(listed) == figures(mapped)


def test_a_task_of_each_city(folder: Path) -> None:
    result = run(
        folder,
        "cities",
        "dataset=table",
        "dataset.path=houses.csv",
        "dataset.tasks=[price]",
        "dataset.ignore=[sold]",
        "dataset.task_column=city",
        "backbone=mlp",
        "dataset.categories=onehot",
    )
    assert sorted(result["tasks"]) == [
        f"price {city}" for city in ("Bergen", "Oslo", "Tromso", "Voss")
    ]
    assert sum(task["train_rows"] for task in result["tasks"].values()) == pytest.approx(144, abs=2)
    assert figures(result)["price Oslo"]["r2"] > 0.8


def test_labelled_images(folder: Path) -> None:
    draws = np.random.default_rng(0)
    lines = ["file,bright,level"]
    for number in range(160):
        level = int(draws.integers(40, 216))
        pixels = np.clip(draws.normal(level, 10, (8, 8)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{'yes' if level > 127 else 'no'},{level}")
    (folder / "labels.csv").write_text("\n".join(lines))
    result = run(
        folder,
        "images",
        "dataset=images",
        "dataset.root=.",
        "dataset.tasks=[bright,level]",
        "dataset.size=[8,8]",
        "dataset.augment=false",
        "backbone=mlp",
        "epochs=10",
        "batch_size=16",
    )
    assert figures(result)["bright"]["auc"] > 0.95
    assert figures(result)["level"]["r2"] > 0.9


def test_a_table_without_tasks_says_what_there_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["dataset=table", "dataset.path=houses.csv"]) == 1
    said = capsys.readouterr().err
    assert "names no tasks. Name them and their kinds, for example dataset.tasks={" in said
    assert "The columns here are area, rooms, city, built, garden, price, sold." in said
