"""Runs of digits, a second each, that the tests of this folder use and leave as they are."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from mtlrun.config import Config, register
from mtlrun.result import Labels
from mtlrun.run import run

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ("tracking.tensorboard=false", "tracking.progress=none", "engine.threads=1", "epochs=2")
Train = Callable[..., Path]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Gives the folder of a finished run; each is done once. Settings are Hydra's overrides."""
    done: dict[tuple[str, ...], Path] = {}

    def trained(*overrides: str) -> Path:
        if overrides not in done:
            folder = tmp_path_factory.mktemp("trained") / "run"
            register()
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                config = OmegaConf.to_object(compose("config", overrides=[*QUIET, *overrides]))
            assert isinstance(config, Config)
            labels = Labels({"dataset": "digits", "weighting": "equal"}, "equal", {})
            run(config, folder, labels, Console(file=io.StringIO()))
            done[overrides] = folder
        return done[overrides]

    return trained


@pytest.fixture
def copied(train: Train, tmp_path: Path) -> Path:
    """A copy of a run of digits, to be changed."""
    return Path(shutil.copytree(train(), tmp_path / "copied"))


@pytest.fixture(scope="session")
def nyuv2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small frames in image folders, two of them to test on."""
    root = tmp_path_factory.mktemp("nyuv2")
    size = (24, 32)
    rows, columns = np.indices(size)
    for folder in ("image", "depth", "label40"):
        (root / folder).mkdir()
    for number in range(1, 6):
        pixels = np.stack([rows * 4 + number * 10, columns * 4, rows + columns], -1)
        planes = {"depth": rows * 2 + 40 + number, "label40": columns + number}
        Image.fromarray(pixels.astype(np.uint8)).save(root / "image" / f"{number:04d}.jpg")
        for folder, plane in planes.items():
            Image.fromarray(plane.astype(np.uint8)).save(root / folder / f"{number:04d}.png")
    (root / "train.txt").write_text("0003\n0004\n0005")
    (root / "test.txt").write_text("0001\n0002")
    return root


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Settings of a run on two streams of short texts, where ``good`` and ``bad`` say it all."""
    root = tmp_path_factory.mktemp("movie_yelp")
    for name, word in (("neg", "bad"), ("pos", "good")):
        lines = "\n".join(f"{word} film number {number}" for number in range(40))
        (root / f"rt-polarity.{name}").write_text(lines)
    sentences = [f"{('bad', 'good')[n % 2]} food number {n}\t{n % 2}" for n in range(80)]
    (root / "yelp_labelled.txt").write_text("\n".join(sentences))
    return "dataset=movie_yelp", f"dataset.root={root}", "optimizer.lr=0.02", "batch_size=8"
