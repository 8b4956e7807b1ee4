"""Fixtures of the end-to-end tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import mtlrun, only_run
from hydra import initialize_config_dir

from mtlrun.config import register

Undisturbed = Callable[..., Path]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The folder of a run that nothing happens to; each is done once."""
    done: dict[tuple[str, ...], Path] = {}

    def run(*arguments: str) -> Path:
        if arguments not in done:
            directory = tmp_path_factory.mktemp("undisturbed")
            mtlrun(directory, *arguments).finish()
            done[arguments] = only_run(directory)
        return done[arguments]

    return run


@pytest.fixture(scope="module")
def composing() -> Iterator[None]:
    """The shipped configuration, for ``hydra.compose``."""
    register()
    configs = Path(__file__).parents[2] / "configs"
    with initialize_config_dir(str(configs), version_base="1.3"):
        yield
