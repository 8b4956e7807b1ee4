"""The experiments of papers: each trains on a few real rows, with its own network and settings."""

import gzip
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mtlrun.cli import run_command
from mtlrun.config import changed_settings, choices_of, method_name, register
from mtlrun.data.files import read_idx

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = ("epochs=1", "engine.threads=1", "tracking.tensorboard=false", "tracking.progress=none")


def nyuv2(shared: Path, folder: Path) -> None:
    """Four frames to train on, two to test on."""
    source = shared / "nyuv2_160x120"
    for split, count in (("train", 4), ("test", 2)):
        numbers = (source / f"{split}.txt").read_text().split()[:count]
        (folder / f"{split}.txt").write_text("\n".join(numbers) + "\n")
        for number in numbers:
            for path in source.glob(f"*/{number}.*"):
                target = folder / path.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                shutil.copy(path, target)


def mnist(shared: Path, folder: Path) -> None:
    """64 images to train on, 32 to test on."""
    for path in (shared / "mnist").glob("*ubyte*"):
        dimensions = 3 if "images" in path.name else 1
        rows = read_idx(path, dimensions)[: 64 if path.name.startswith("train") else 32].numpy()
        sizes = np.array(rows.shape, dtype=">u4").tobytes()
        content = bytes([0, 0, 8, dimensions]) + sizes + rows.astype(np.uint8).tobytes()
        (folder / path.name.removesuffix(".gz")).write_bytes(content)


def census_income(shared: Path, folder: Path) -> None:
    """Every thousandth person, to train on and to test on."""
    (path,) = (shared / "census_income").glob("census-income.test*")
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as file:
        lines = file.readlines()[::1000]
    for name in ("census-income.data", "census-income.test"):
        (folder / name).write_text("".join(lines))


def fdu_mtl(shared: Path, folder: Path) -> None:
    """Sixteen short reviews of each domain, eight to test on."""
    for path in (shared / "fdu_mtl").glob("*.task.*.gz"):
        with gzip.open(path, "rt", encoding="latin-1") as file:
            lines = [line[:200].rstrip("\n") for line in file][: 16 if "train" in path.name else 8]
        text = "".join(f"{line}\n" for line in lines)
        (folder / path.name.removesuffix(".gz")).write_text(text, encoding="latin-1")


def trained(folder: Path, *arguments: str) -> dict[str, Any]:
    """The result of a run on the files in ``folder``."""
    root = [f"dataset.root={folder}", f"outputs={folder}/outputs"]
    assert run_command([*TINY, *root, *arguments]) == 0
    (path,) = folder.glob("outputs/default/*/*/seed=0/result.json")
    result: dict[str, Any] = json.loads(path.read_text())
    return result


@pytest.fixture
def few(shared_data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a few rows of a dataset's files, and gives their folder."""

    def write(files: Callable[[Path, Path], None]) -> Path:
        files(shared_data, tmp_path)
        return tmp_path

    return write


Few = Callable[[Callable[[Path, Path], None]], Path]


PROTOCOLS: dict[str, dict[str, object]] = {
    "nyuv2_mtan": {
        "epochs": 200,
        "batch_size": 2,
        "dataset.size": [288, 384],
        "dataset.classes": 13,
        "dataset.augment": True,
        "backbone.widths": [64, 128, 256, 512, 512],
        "optimizer.lr": 1e-4,
        "scheduler.step_size": 100,
        "scheduler.gamma": 0.5,
        "select_on": "test",
    },
    "nyuv2_resnet50": {
        "epochs": 200,
        "batch_size": 8,
        "dataset.size": [288, 384],
        "dataset.augment": False,
        "heads.rates": [12, 24, 36],
        "optimizer.lr": 1e-4,
        "optimizer.weight_decay": 1e-5,
        "scheduler.step_size": 100,
        "select_on": "test",
    },
    "multimnist": {"epochs": 100, "batch_size": 256, "dataset.size": [28, 28], "dataset.offset": 6},
    "census_mmoe": {"epochs": 100, "batch_size": 32, "backbone.hidden": [4], "heads.hidden": [8]},
    "fdu_mtl": {"batch_size": 16, "backbone.embedding": 200, "optimizer.lr": 0.01},
}
"""What the papers or their published code say; see the files of the experiments for which."""


def test_published_numbers_win_over_recipes_and_the_command_line_over_them() -> None:
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for name, numbers in PROTOCOLS.items():
            config = compose("config", overrides=[f"experiment={name}"])
            assert {key: OmegaConf.select(config, key) for key in numbers} == numbers
            given = [f"experiment={name}", "epochs=3", "optimizer.lr=0.5"]
            typed = compose("config", overrides=given)
            assert (typed.epochs, typed.optimizer.lr) == (3, 0.5)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("experiment=nyuv2_mtan epochs=200", "equal,experiment=nyuv2_mtan"),
        (
            "optimizer.lr=0.5 architecture=hps weighting=nash_mtl experiment=nyuv2_mtan",
            "nash_mtl,experiment=nyuv2_mtan,architecture=hps,optimizer.lr=0.5",
        ),
        ("experiment=gradnorm_toy", "gradnorm,experiment=gradnorm_toy"),
        (
            "experiment=census_mmoe dataset=census_income_education batch_size=8",
            "equal,experiment=census_mmoe,batch_size=8",
        ),
    ],
)
def test_what_an_experiment_sets_is_not_in_the_name_of_the_run(overrides: str, name: str) -> None:
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):

        def composed(given: Sequence[str]) -> DictConfig:
            return compose("config", overrides=list(given), return_hydra_config=True)

        config = composed(overrides.split())
        groups, changed = changed_settings(config, config.hydra, composed)
    assert method_name(choices_of(config.hydra)["weighting"], groups, changed) == name


@pytest.mark.data
def test_nyuv2_with_segnet_and_mtan(few: Few) -> None:
    narrow = ("dataset.size=[32,32]", "backbone.widths=[8,8,8,8,8]", "heads.hidden=8")
    result = trained(few(nyuv2), "+experiment=nyuv2_mtan", *narrow)
    assert (result["architecture"], result["backbone"]) == ("mtan", "segnet")
    assert result["select_on"] == "test"
    assert {task: facts["train_rows"] for task, facts in result["tasks"].items()} == {
        "segmentation": 4,
        "depth": 4,
        "normals": 4,
    }
    assert result["steps"] == 2  # of two frames


@pytest.mark.data
def test_nyuv2_with_a_dilated_resnet50(few: Few) -> None:
    narrow = ("dataset.size=[32,32]", "backbone.width=8", "heads.channels=8")
    result = trained(few(nyuv2), "experiment=nyuv2_resnet50", *narrow)
    # LibMTL's head: the pyramid and its projection, 3x3 and 1x1, with normalisations
    pyramid = 2 * (256 * 8 + 16) + 3 * (9 * 256 * 8 + 16) + 40 * 8 + 16
    head = pyramid + 9 * 8 * 8 + 16 + 8 * 13 + 13
    assert result["parameters"]["tasks"]["segmentation"] == head
    assert result["steps"] == 1  # of eight frames at most


@pytest.mark.data
def test_multimnist_as_its_authors_train_it(few: Few) -> None:
    result = trained(few(mnist), "+experiment=multimnist", "batch_size=32")
    shared = (25 + 1) * 10 + (250 + 1) * 20 + (320 + 1) * 50
    head = (50 + 1) * 50 + (50 + 1) * 10
    assert result["parameters"]["shared"] == shared
    assert result["parameters"]["total"] == shared + 2 * head
    assert [facts["train_rows"] for facts in result["tasks"].values()] == [64, 64]
    assert result["steps"] == 2


@pytest.mark.data
def test_census_income_with_eight_experts(few: Few) -> None:
    result = trained(few(census_income), "+experiment=census_mmoe")
    assert result["parameters"]["tasks"].keys() == {"income", "never_married"}
    shared = result["parameters"]["shared"]
    inputs = shared // 32 - 1
    assert shared == 8 * 4 * (inputs + 1)  # eight experts of four units
    gate, tower = 8 * (inputs + 1), (4 + 1) * 8 + (8 + 1)
    assert set(result["parameters"]["tasks"].values()) == {gate + tower}
    assert next(iter(result["tasks"]["income"]["metrics"])) == "auc"


@pytest.mark.data
def test_census_income_apart_under_the_same_settings(few: Few) -> None:
    changed = ("architecture=single_task", "~architecture.experts")
    result = trained(few(census_income), "+experiment=census_mmoe", *changed)
    assert result["architecture"] == "single_task"
    assert result["parameters"]["shared"] == 0


@pytest.mark.data
def test_fdu_mtl_with_an_adversary(few: Few) -> None:
    result = trained(few(fdu_mtl), "+experiment=fdu_mtl", "dataset.min_count=1")
    assert len(result["tasks"]) == 16
    lstm = 4 * 100 * (200 + 100 + 2)
    head = 2 * (2 * 100 + 1)
    assert set(result["parameters"]["tasks"].values()) == {lstm + head}
    assert result["steps"] == 1  # of 14 reviews of each domain
    folder = few(lambda shared, folder: None)
    (terms,) = folder.glob("outputs/**/terms.csv")
    weights = {line.split(",")[2]: line.split(",")[4] for line in terms.read_text().split()[1:]}
    assert weights == {"adversary": "0.05", "orthogonality": "0.01"}
