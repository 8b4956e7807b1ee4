"""Finished runs as teachers: which are taken, how they are put together, and what is refused."""

import io
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mtlrun import build, teachers
from mtlrun.config import GROUPS, Config, register
from mtlrun.engine.distillation import Distillation
from mtlrun.engine.evaluation import evaluate
from mtlrun.engine.loader import EvaluationLoader, Placement
from mtlrun.errors import UserError
from mtlrun.result import Labels
from mtlrun.run import run
from mtlrun.tasks.base import Task

CPU = torch.device("cpu")
QUICK = ("epochs=1", "tracking.tensorboard=false", "tracking.progress=none", "engine.threads=1")


@pytest.fixture(scope="module")
def composing() -> Iterator[None]:
    register()
    configs = Path(__file__).parents[1] / "configs"
    with initialize_config_dir(str(configs), version_base="1.3"):
        yield


@cache
def _composed(choices: tuple[str, ...]) -> DictConfig:
    """Composed once for each choice of groups: settings beside them are put in."""
    return compose("config", overrides=[*QUICK, *choices])


def config_of(*overrides: str) -> Config:
    choices = tuple(given for given in overrides if given.partition("=")[0] in GROUPS)
    settings = OmegaConf.from_dotlist([given for given in overrides if given not in choices])
    made = OmegaConf.to_object(OmegaConf.merge(_composed(choices), settings))
    assert isinstance(made, Config)
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, composing: None) -> Path:
    """``alone/seed=0``, a network a task, and ``digit``: one of digit and parity, narrower."""
    folder = tmp_path_factory.mktemp("teachers")
    labels = Labels({}, "method", {})
    for name, *overrides in (
        ("alone/seed=0", "architecture=single_task"),
        ("digit", "tasks=[digit,parity]", "backbone.hidden=[16]", "seed=3"),
    ):
        run(config_of(*overrides), folder / name, labels, Console(file=io.StringIO()))
    return folder


def taught(folders: Sequence[Path], *overrides: str) -> Distillation:
    """The teachers of a run, checked as the run checks them."""
    config = config_of(*overrides)
    config.distill.teachers = [str(folder) for folder in folders]
    teachers.check(config)
    dataset, tasks = build.dataset_and_tasks(config)
    model = build.model(config, dataset, tasks)
    made = teachers.distillation(config, dataset, tasks, model, CPU, 50)
    assert made is not None
    return made


def test_a_teacher_is_the_network_of_its_best_epoch(runs: Path) -> None:
    """On the validation rows it has the figures that its run wrote down."""
    config = config_of()
    for name, overrides in (("alone", ()), ("digit", ()), ("digit", ("tasks=[parity]",))):
        folder = runs / name
        (teacher,) = taught([folder], *overrides).teachers
        of_seed = folder / "seed=0" if name == "alone" else folder
        result = json.loads((of_seed / "result.json").read_text())
        config.tasks = list(result["tasks"])
        dataset, tasks = build.dataset_and_tasks(config)
        loader = EvaluationLoader(dataset, "val", tasks, batch_size=128, placement=Placement(CPU))
        figures = evaluate(teacher.forward, loader)
        for task, facts in result["tasks"].items():
            for metric, known in facts["metrics"].items():
                assert figures[task][metric] == known["best"], (task, metric)
        assert not teacher.forward.model.training
        assert not any(p.requires_grad for p in teacher.forward.model.parameters())


def test_who_teaches_what(runs: Path) -> None:
    both = [runs / "alone", runs / "digit"]
    made = taught(both, "distill.features=1", "distill.weight=1", "distill.anneal=true")
    assert [teacher.tasks for teacher in made.teachers] == [
        ("digit", "parity", "ink"),
        ("digit", "parity"),
    ]
    shapes = [tuple(p.shape) for p in made.adaptor_parameters("parity")]
    assert shapes == [(128, 128), (16, 128)]
    assert [len(made.adaptor_parameters(task)) for task in ("digit", "ink")] == [2, 1]
    assert [made.teaching.weight_at(step) for step in (0, 25, 49)] == [1, 0.5, pytest.approx(0.02)]
    assert teachers.remarks(made) == [
        f"Taught beside the labels: digit, parity, ink by {both[0]}; digit, parity by {both[1]}."
    ]
    some = taught([runs / "digit"], "distill.tasks=[parity]")
    assert teachers.remarks(some) == [
        f"Taught beside the labels: parity by {runs / 'digit'}. By labels alone: digit, ink."
    ]
    assert [tuple(made.tasks), some.taught] == [("digit", "parity", "ink"), ("parity",)]
    assert teachers.remarks(None) == []
    assert [p.numel() for p in some.parameters()] == []


ALONE, DIGIT = "alone", "digit"


@pytest.mark.parametrize(
    ("names", "overrides", "message"),
    [
        ([], ["distill.anneal=true"], "distill.anneal=true has no effect without teachers: "),
        ([], ["distill.cache_gb=2"], "distill.cache_gb=2 has no effect without teachers: "),
        ([ALONE], ["distill.weight=1.5"], "distill.weight=1.5: what teachers say has a share"),
        ([ALONE], ["distill.temperature=0"], "distill.temperature=0: use a number above 0"),
        ([ALONE], ["distill.features=.inf"], "distill.features=inf: use a number, 0 or more"),
        ([ALONE], ["distill.weight=0"], "distill.weight=0 with distill.features=0 leaves "),
        (
            [ALONE],
            ["distill.weight=0", "distill.features=1", "distill.anneal=true"],
            "distill.anneal=true has no effect with distill.weight=0",
        ),
        (
            [ALONE],
            ["distill.weight=0", "distill.features=1", "distill.temperature=2"],
            "distill.temperature=2 has no effect with distill.weight=0",
        ),
        (
            [ALONE],
            ["weighting=gradnorm", "weighting.initial_loss=theory", "distill.features=1"],
            "weighting.initial_loss=theory goes by what labels cost an untrained network",
        ),
        ([ALONE, f"{ALONE}/seed=0"], [], "distill.teachers: ALONE is named twice"),
        ([ALONE], ["seed=1"], "distill.teachers: ALONE has no run of this run's seed (seed=1); it"),
        (["nothing"], [], "distill.teachers: NOTHING: there is no such folder"),
        (
            [ALONE],
            ["dataset.validation=0.2"],
            "distill.teachers: ALONE was trained with dataset.validation=0.1, and this run has 0.2",
        ),
        (
            [DIGIT],
            ["dataset.tasks.ink.loss=l1"],
            "distill.teachers: DIGIT was trained with dataset.tasks.ink.loss=mse, and this run has",
        ),
        (
            [ALONE],
            ["select_on=test"],
            "distill.teachers: ALONE was trained with select_on=validation, and this run has test",
        ),
        ([ALONE], ["distill.tasks=[]"], "distill.tasks=[] leaves nothing to teach"),
        (
            [ALONE],
            ["distill.tasks=[digits]"],
            "distill.tasks: this run has no task digits. Did you",
        ),
        ([ALONE], ["distill.tasks=[ink,digit,ink]"], "distill.tasks names ink twice"),
        (
            [DIGIT],
            ["distill.tasks=[parity,ink]"],
            "distill.tasks names ink, and no run of distill.teachers has that task",
        ),
        (
            [ALONE, DIGIT],
            ["distill.tasks=[ink]"],
            "distill.teachers: DIGIT teaches nothing here: its tasks are digit, parity, and those",
        ),
        (
            [DIGIT],
            ["tasks=[ink]"],
            "distill.teachers: DIGIT teaches nothing here: its tasks are digit, parity, and those",
        ),
        (
            [ALONE],
            ["distill.tasks=[ink]", "distill.temperature=2"],
            "distill.temperature=2 softens probabilities of classes, and no task",
        ),
        (
            [ALONE],
            ["backbone=cnn", "distill.features=0.5"],
            "distill.features=0.5 matches what heads read, and the head of digit reads maps here",
        ),
    ],
)
def test_what_is_refused(names: list[str], overrides: list[str], message: str, runs: Path) -> None:
    for name in ("alone", "digit", "nothing"):
        message = message.replace(name.upper(), str(runs / name))
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        taught([runs / name for name in names], *overrides)


def test_what_a_teacher_may_differ_in() -> None:
    config, other = config_of(), config_of("engine.amp=bf16", "seed=4", "epochs=9")
    other.dataset |= {"root": "elsewhere", "augment": True, "in_memory": True, "prepared": "there"}
    assert teachers.data_settings(other) == teachers.data_settings(config)
    other.dataset["size"] = [8, 8]
    assert teachers.data_settings(other) != teachers.data_settings(config)


def test_damaged_runs(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "digit", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "best.pt").unlink()
    with pytest.raises(
        UserError, match=r"has no checkpoints/best\.pt, and the weights of its best"
    ):
        taught([tmp_path / "run"])
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(UserError, match=r"holds no finished run: its result\.json is missing"):
        taught([tmp_path / "run"])


def test_a_task_of_ones_own_has_to_say_how(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mtlrun.tasks.regression import Regression

    monkeypatch.setattr(Regression, "soft_loss", Task.soft_loss)
    with pytest.raises(UserError, match=r"^Task ink cannot be taught by answers: its class Regr"):
        taught([runs / "alone"])
    taught([runs / "alone"], "distill.weight=0", "distill.features=1")
    taught([runs / "digit"])
