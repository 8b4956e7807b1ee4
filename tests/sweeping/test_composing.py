"""From jobs to folders: what Hydra makes of each, found with as few compositions as it takes."""

import json
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlrun import cli
from mtlrun.config import register
from mtlrun.errors import UserError
from mtlrun.sweeping import plugins
from mtlrun.sweeping.composing import Composer
from mtlrun.sweeping.jobs import Job
from mtlrun.tracking.files import write_text

BRIEF = ("epochs=1", "engine.threads=1")
ALONE = ("weighting=equal", "architecture=single_task")


@pytest.fixture(scope="module")
def hydra() -> Iterator[Any]:
    """Hydra's loader with the shipped configuration; what it composed is kept for this file."""
    register()
    plugins.register()
    OmegaConf.register_new_resolver("run_folder", cli._run_folder, replace=True)
    cli._composed.cache_clear()
    with initialize_config_dir(str(cli.config_folder()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
    cli._composed.cache_clear()
    OmegaConf.clear_resolver("run_folder")


@pytest.fixture(scope="module")
def plain(hydra: Any) -> Any:
    """The configuration of a sweep without settings of its own."""
    return hydra.load_configuration("config", [], RunMode.MULTIRUN)


class Compose:
    """Composes jobs in an empty directory, and notes what it asks Hydra for."""

    def __init__(self, hydra: Any, sweep: Any) -> None:
        self.hydra = hydra
        self.sweep = sweep
        self.asked: list[list[str]] = []

    def __call__(self, jobs: Sequence[Job]) -> list[Job]:
        self.asked.clear()
        return Composer(self, self.sweep)(jobs)

    def load_sweep_config(self, sweep: Any, overrides: list[str]) -> Any:
        self.asked.append(overrides)
        return self.hydra.load_sweep_config(sweep, overrides)


@pytest.fixture
def compose(hydra: Any, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    monkeypatch.chdir(tmp_path)
    return Compose(hydra, plain)


def jobs_of(*overrides: Sequence[str]) -> list[Job]:
    return [Job(tuple(given), ()) for given in overrides]


def test_seeds_are_composed_once_and_get_the_folders_that_they_have_alone(compose: Compose) -> None:
    given = (
        ("seed=0", *ALONE, *BRIEF),
        ("seed=0", "weighting=mgda", "dataset.seed=${seed}", *BRIEF),
        ("seed=1", *ALONE, *BRIEF),
        ("seed=12", "weighting=mgda", "dataset.seed=${seed}", *BRIEF),
    )
    jobs = [
        Job(overrides, (), against=given[index - 1] if index % 2 else ())
        for index, overrides in enumerate(given)
    ]
    found = compose(jobs)
    assert compose.asked == [list(given[0]), list(given[1])]
    assert [job.overrides for job in found] == list(given)
    folders = [job.folder for job in found]
    assert [compose([Job(job.overrides, ())])[0].folder for job in found[2:]] == folders[2:]
    assert [job.folder.name for job in found] == [f"seed={n}" for n in (0, 0, 1, 12)]
    assert len(set(folders)) == 4
    assert folders[0].parent == Path(
        "outputs/default/digits/equal,architecture=single_task,engine.threads=1,epochs=1"
    )
    assert [job.alone for job in found] == [None, folders[0], None, folders[2]]


def test_tasks_are_composed_once_and_get_the_folders_that_they_have_alone(compose: Compose) -> None:
    given = (
        ("seed=0", "tasks=null", *BRIEF),
        ("seed=1", "tasks=[digit,ink]", *BRIEF),
        ("seed=0", "tasks=[parity,digit]", *BRIEF),
        ("seed=0", *BRIEF),
    )
    found = compose([Job(overrides, ()) for overrides in given])
    assert compose.asked == [list(given[0]), list(given[3])]
    # All tasks are those of the plain run, whether or not they are typed.
    plain = Path("outputs/default/digits/equal,engine.threads=1,epochs=1")
    assert [job.folder for job in found] == [
        plain / "seed=0",
        plain.parent / f"{plain.name},tasks=[digit_ink]/seed=1",
        plain.parent / f"{plain.name},tasks=[parity_digit]/seed=0",
    ]
    for job in found:
        assert compose([Job(job.overrides, ())])[0].folder == job.folder


def test_primary_tasks_are_not_lost_between_jobs(compose: Compose) -> None:
    first = ("tasks={of:[digit,ink],primary:[digit]}", *BRIEF)
    second = ("tasks={of:[digit,ink],primary:[ink]}", *BRIEF)
    found = compose([Job(first, ()), Job(second, ())])
    assert compose.asked == [list(first), list(second)]
    assert found[0].folder != found[1].folder


def test_folders_that_the_user_names_after_the_overrides(compose: Compose) -> None:
    """Hydra's own names of folders hang on the seed's override, and not on the seed alone."""
    compose.sweep = deepcopy(compose.sweep)
    compose.sweep.hydra.sweep.dir = "runs"
    compose.sweep.hydra.sweep.subdir = "${hydra.job.override_dirname}"
    overrides = ["hydra.sweep.dir=runs", "hydra.sweep.subdir=${hydra.job.override_dirname}"]
    compose.sweep.hydra.overrides.hydra.extend(overrides)
    found = compose(jobs_of(("seed=0", "epochs=1"), ("seed=1", "epochs=1")))
    assert [str(job.folder) for job in found] == ["runs/epochs=1,seed=0", "runs/epochs=1,seed=1"]


def test_of_jobs_that_share_a_folder_the_first_one_stays(compose: Compose) -> None:
    """A method that is the baseline itself, and settings that change no figure."""
    given = jobs_of(
        (*ALONE, "seed=0"),
        ("seed=0", "architecture=single_task", "tracking.images=1"),
        ("seed=1", *ALONE),
    )
    found = compose(given)
    assert [job.overrides for job in found] == [given[0].overrides, given[2].overrides]


def test_what_a_sweeps_file_sets_is_for_all_of_its_jobs(compose: Compose) -> None:
    compose.sweep = deepcopy(compose.sweep)
    compose.sweep.hydra.runtime.choices.sweep = "seeds"
    (job,) = compose(jobs_of(("seed=3",)))
    assert job.overrides == ("sweep=seeds", "seed=3")
    assert compose.asked == [["sweep=seeds", "seed=3"]]
    assert str(job.folder) == "outputs/default/digits/equal/seed=3"


@pytest.mark.parametrize(
    ("slip", "kind", "message"),
    [
        ("seed=-1", UserError, "seed=-1: use 0 or more"),
        ("seed=x", OmegaConfBaseException, "seed"),
        ("+sede=1", UserError, "sede: there is no such setting. Did you mean seed?"),
    ],
)
def test_a_slip_in_the_last_job_is_found_before_the_first_one_runs(
    slip: str, kind: type[Exception], message: str, compose: Compose
) -> None:
    key = slip.partition("=")[0]
    first = ["seed=0", "epochs=1", "weighting=equal"]
    last = [text for text in first if not text.startswith(key)]
    with pytest.raises(kind, match=re.escape(message)):
        compose(jobs_of(first, [*last, slip]))


def test_a_folder_that_cannot_be_taken_is_said_of_its_job_alone(compose: Compose) -> None:
    jobs = jobs_of(*((f"seed={seed}", *BRIEF) for seed in range(3)))
    folders = [job.folder for job in compose(jobs)]
    write_text(folders[0] / "config.yaml", "seed: 0\nepochs: 2\n")
    write_text(folders[1] / "result.json", json.dumps({})[:1])
    for folder in folders[:2]:
        write_text(folder / "status.json", "")
    other, damaged, free = compose(jobs)
    assert other.refused.startswith(f"{folders[0]} holds a run with other settings: ")
    assert "epochs is 2 there and 1 here" in other.refused
    assert "result.json is damaged" in damaged.refused
    assert (free.refused, damaged.finished) == ("", False)


def test_an_experiment_without_tasks_ends_with_a_file_of_its_own(compose: Compose) -> None:
    (job,) = compose(jobs_of(("experiment=toy", "toy.steps=20")))
    assert job.result != "result.json"
    assert "toy" in str(job.folder)
