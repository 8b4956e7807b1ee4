"""From configuration to parts, and every shipped configuration."""

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from mtlrun import build
from mtlrun.config import WITHOUT_EFFECT, Config, register, validate, without_effect
from mtlrun.data.base import Dataset, TensorSource
from mtlrun.engine.loader import Placement, TrainLoader
from mtlrun.engine.stopping import PerTaskStopping
from mtlrun.errors import UserError
from mtlrun.models.heads.linear import LinearHead
from mtlrun.models.heads.mlp import MLPHead
from mtlrun.models.model import MultiTaskModel
from mtlrun.sampling.joint import Joint
from mtlrun.sampling.units import units_of
from mtlrun.weighting.rotograd import Rotation
from mtlrun.weighting.uncertainty import Uncertainty

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GROUPS = (
    "backbone",
    "heads",
    "architecture",
    "weighting",
    "sampler",
    "optimizer",
    "scheduler",
    "stopping",
)


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def config_of(*overrides: str) -> Config:
    config = OmegaConf.to_object(compose("config", overrides=list(overrides)))
    assert isinstance(config, Config)
    return config


# -- every shipped configuration ------------------------------------------------------------------


def rows_of_choices() -> list[tuple[str, ...]]:
    """Overrides that go through all choices of all groups side by side."""
    lists = [[f"{group}={name}" for name in choices(group)] for group in GROUPS]
    return [tuple(filter(None, row)) for row in zip_longest(*lists)]


def test_there_are_choices_of_every_group() -> None:
    assert all(choices(group) for group in (*GROUPS, "dataset"))
    chosen = {override for row in rows_of_choices() for override in row}
    assert len(chosen) == sum(len(choices(group)) for group in GROUPS)


@pytest.mark.parametrize("dataset", choices("dataset"))
def test_choices_compose_with_datasets(dataset: str) -> None:
    """Each with every sixth dataset, and all with digits."""
    chosen = [f"dataset={dataset}"]
    if config_of(*chosen).dataset["tasks"] is None:  # of the user's own files
        chosen.append("dataset.tasks=[price]")
    recipe = config_of(*chosen)
    validate(recipe)
    # There are far more weightings than choices of other groups: one dataset goes through them all.
    rows = [row for row in rows_of_choices() if len(row) > 1 or dataset == "digits"]
    for row in rows if dataset == "digits" else rows[choices("dataset").index(dataset) % 6 :: 6]:
        config = config_of(*chosen, *row)
        build.check_settings(config)
        assert config.dataset == recipe.dataset
        assert (config.epochs, config.batch_size) == (recipe.epochs, recipe.batch_size)


@pytest.mark.parametrize("group", ["experiment", "sweep"])
def test_experiments_and_sweeps_compose(group: str) -> None:
    defaults = OmegaConf.load(CONFIGS / "config.yaml").defaults
    known = any(group in str(entry) for entry in defaults)
    for name in choices(group):
        config = config_of(f"{'' if known else '+'}{group}={name}")
        validate(config)
        build.check_settings(config)


@pytest.mark.parametrize("dataset", choices("dataset"))
def test_what_a_dataset_brings_gives_way_to_the_command_line(dataset: str) -> None:
    config = config_of(
        f"dataset={dataset}", "epochs=3", "optimizer=sgd", "optimizer.lr=0.5", "backbone=mlp"
    )
    assert config.epochs == 3
    assert config.optimizer["_target_"] == "torch.optim.SGD"
    assert config.optimizer["lr"] == 0.5
    assert config.backbone["_target_"] == "mtlrun.models.backbones.mlp.MLP"


# -- settings against signatures ------------------------------------------------------------------


class Part:
    """A component with one setting that it needs, one that it does not, and a runtime fact."""

    def __init__(self, width: int, rate: float = 0.5, *, tasks: Sequence[str] = ()) -> None:
        if width < 1:
            raise ValueError(f"width={width}: must be 1 or more")
        self.width, self.rate, self.tasks = width, rate, tasks


class Open:
    """Takes anything."""

    def __init__(self, **anything: Any) -> None:
        self.anything = anything


NOT_A_CLASS = 3
HERE = f"{__name__}."


def part(**settings: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}Part", **settings}


def test_a_component_gets_its_settings_and_the_facts_that_it_takes() -> None:
    made = build.component(part(width=2), "group", tasks=("a",), streams={})
    assert (made.width, made.rate, made.tasks) == (2, 0.5, ("a",))
    everything = build.component({"_target_": f"{HERE}Open", "x": {"y": [1]}}, "group", tasks=1)
    assert everything.anything == {"x": {"y": [1]}, "tasks": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            part(widht=3),
            "group.widht: Part has no such setting. Did you mean width? Known: width, ",
        ),
        (part(zzz=3), "group.zzz: Part has no such setting. Known: width, rate."),
        (part(rate=1.0), "group.width is missing: Part needs it. Add +group.width=..."),
        (part(width=1, tasks=["a"]), "group.tasks: Part has no such setting. Known: width, rate."),
        (part(width=0), "group (Part): width=0: must be 1 or more"),
        (part(width="x"), "group (Part) cannot work with width=x: '<' not supported between"),
        ({"width": 3}, "group names no class: give it a _target_."),
        ({"_target_": None}, "group names no class: give it a _target_."),
        ({"_target_": "no.such.module"}, "group._target_=no.such.module: there is no such class."),
        ({"_target_": f"{HERE}Prat"}, f"group._target_={HERE}Prat: there is no such class."),
        ({"_target_": "mtlrun.build"}, "group._target_=mtlrun.build: there is no such class."),
        (
            {"_target_": f"{HERE}NOT_A_CLASS"},
            f"group._target_={HERE}NOT_A_CLASS: there is no such class.",
        ),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        build.component(settings, "group", tasks=())


def test_a_class_of_another_kind_is_refused() -> None:
    message = (
        f"group._target_={HERE}Part: Part does not extend torch.nn.modules.linear.Linear. Name a "
        "class that does."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        build.component(part(width=1), "group", nn.Linear)


def test_a_module_with_an_error_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_part.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"broken_part\.Part: its module has an error: .*nothing_of"
    ):
        build.component({"_target_": "broken_part.Part"}, "group")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+weighting.alpa=1", "weighting.alpa: GradNorm has no such setting. Did you mean alpha?"),
        ("+weighting.tasks=[]", "weighting.tasks: GradNorm has no such setting."),
        ("+backbone.hiden=[3]", "backbone.hiden: MLP has no such setting. Did you mean hidden?"),
        ("+backbone.input_shape=[3]", "backbone.input_shape: MLP has no such setting."),
        ("+heads.width=3", "heads.width: LinearHead has no such setting. Known: pool."),
        ("+heads.of.ink.width=3", "heads.of.ink.width: LinearHead has no such setting."),
        ("+heads.of.inc.width=3", "heads.of.inc: no such task. Did you mean ink? Known: digit, "),
        ("+optimizer.momentum=1", "optimizer.momentum: Adam has no such setting."),
        ("+architecture.x=1", "architecture.x: HPS has no such setting."),
        ("+sampler.x=1", "sampler.x: Joint has no such setting."),
        ("+dataset.sed=1", "dataset.sed: Digits has no such setting. Did you mean seed?"),
        (
            "+dataset.tasks.ink.los=l1",
            "dataset.tasks.ink.los: Regression has no such setting. Did ",
        ),
        ("+dataset.tasks.ink.name=x", "dataset.tasks.ink.name: Regression has no such setting."),
        ("tasks=[]", "tasks=[] leaves nothing to train. Name some of digit, parity, ink, or leave"),
        ("tasks=[pairty]", "tasks: this dataset has no task pairty. Did you mean parity? Known: "),
        ("tasks=[ink,digit,ink]", "tasks names ink twice."),
        (
            "~dataset.tasks",
            "The dataset's configuration names no tasks. Name them and their kinds, ",
        ),
        (
            "+scheduler.T_mx=1",
            "scheduler.T_mx: CosineAnnealingLR has no such setting. Did you mean",
        ),
    ],
)
def test_slips_are_found_before_any_data_is_read(
    override: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorSource, "__init__", None)
    config = config_of("dataset=digits", "weighting=gradnorm", "scheduler=cosine", override)
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        build.check_settings(config)


# -- heads ----------------------------------------------------------------------------------------


def test_one_tasks_head_changed_and_anothers_replaced() -> None:
    config = config_of(
        "dataset=digits",
        "heads=mlp",
        "heads.hidden=[20]",
        "+heads.of.parity.hidden=[7,5]",
        "+heads.of.ink._target_=mtlrun.models.heads.linear.LinearHead",
    )
    build.check_settings(config)
    model = model_of(config)
    digit, parity, ink = (model.head_of[name] for name in ("digit", "parity", "ink"))
    assert isinstance(digit, MLPHead)
    assert [p.shape[0] for p in digit.parameters() if p.dim() == 2] == [20, 10]
    assert isinstance(parity, MLPHead)
    assert [p.shape[0] for p in parity.parameters() if p.dim() == 2] == [7, 5, 2]
    assert isinstance(ink, LinearHead)  # without the settings of the choice that it replaces
    assert [tuple(p.shape) for p in ink.parameters()] == [(1, 128), (1,)]


def test_a_head_that_names_the_same_class_keeps_the_other_settings() -> None:
    config = config_of(
        "dataset=digits",
        "heads=mlp",
        "heads.hidden=[20]",
        "+heads.of.ink={_target_: mtlrun.models.heads.mlp.MLPHead, dropout: 0.5}",
    )
    ink = model_of(config).head_of["ink"]
    assert [p.shape[0] for p in ink.parameters() if p.dim() == 2] == [20, 1]
    assert [layer.p for layer in ink.modules() if isinstance(layer, nn.Dropout)] == [0.5]


def test_a_head_that_does_not_fit_its_task_is_named() -> None:
    with pytest.raises(UserError, match=r"^heads \(task digit\): ConvHead gives a prediction"):
        model_of(config_of("dataset=digits", "heads=conv", "backbone=cnn"))


# -- tasks, data, weights -------------------------------------------------------------------------


def model_of(config: Config) -> MultiTaskModel:
    dataset, tasks = build.dataset_and_tasks(config)
    return build.model(config, dataset, tasks)


def test_a_subset_of_tasks_in_the_datasets_order() -> None:
    config = config_of("dataset=digits", "tasks=[ink,digit]")
    dataset, tasks = build.dataset_and_tasks(config)
    assert list(tasks) == ["digit", "ink"]
    assert dataset.streams == {"digits": ("digit", "ink")}
    infos = build.task_infos(dataset, tasks)
    assert [info.name for info in infos] == ["digit", "ink"]
    assert [info.likelihood for info in infos] == ["classification", "gaussian"]
    assert infos[0].initial_loss == pytest.approx(2.302585093)
    assert infos[1].initial_loss is None
    assert [info.train_rows for info in infos] == [1294, 1294]
    assert [dict(info.metrics) for info in infos] == [
        {name: metric.higher_is_better for name, metric in task.metrics.items()}
        for task in tasks.values()
    ]
    assert next(iter(infos[0].metrics.items())) == ("accuracy", True)


class Partial(Dataset):
    """Two tasks, one of them with few labels, in streams of different shapes where asked for."""

    def __init__(self, shapes: Sequence[int] = (2, 2), *, carve_validation: bool = True) -> None:
        labels = torch.tensor([1.0, torch.nan, 2.0, torch.nan, torch.nan])
        self.streams = {"x": ("a",), "y": ("b",)}
        source = {
            "x": TensorSource(torch.zeros(5, shapes[0]), {"a": labels}),
            "y": TensorSource(torch.zeros(4, shapes[1]), {"b": torch.zeros(4)}),
        }
        self.splits = {"train": dict(source), "test": dict(source)}
        if carve_validation:
            self.splits["val"] = dict(source)
        self.input_shape = {"x": (shapes[0],), "y": (shapes[1],)}
        self.facts = {"a": {"outputs": 1}}


class WithoutValidation(Partial):
    def __init__(self, *, carve_validation: bool = True) -> None:
        super().__init__(carve_validation=False)


def partial_config(**changes: Any) -> Config:
    config = config_of("dataset=digits")
    regression = {"_target_": "mtlrun.tasks.regression.Regression"}
    tasks = {"a": dict(regression), "b": dict(regression)}
    config.dataset = {"_target_": f"{HERE}Partial", "tasks": tasks, **changes}
    return config


def test_labelled_rows_are_counted() -> None:
    dataset, tasks = build.dataset_and_tasks(partial_config())
    assert [info.train_rows for info in build.task_infos(dataset, tasks)] == [2, 4]


def test_streams_of_different_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"different shapes \(\(2,\), \(3,\)\), and one backbone"):
        model_of(partial_config(shapes=[2, 3]))


def test_a_task_that_the_dataset_does_not_carry_is_named() -> None:
    config = partial_config()
    config.dataset["tasks"]["aa"] = config.dataset["tasks"]["a"]
    message = "dataset.tasks.aa: the dataset carries no target of that name. Did you mean a? Known"
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        build.dataset_and_tasks(config)


class Mixed(Partial):
    """Streams that carry tasks in another order than they are declared in."""

    def __init__(self, *, carve_validation: bool = True) -> None:
        super().__init__(carve_validation=carve_validation)
        self.streams = {"y": ("b",), "x": ("a",)}


def test_heads_and_networks_of_a_place_are_of_one_task() -> None:
    config = partial_config(_target_=f"{HERE}Mixed")
    config.architecture = {"_target_": "mtlrun.models.architectures.single_task.SingleTask"}
    network = model_of(config)
    assert network.tasks == tuple(network.architecture.stream_of) == ("b", "a")


class Shared(Partial):
    """A task in two streams."""

    def __init__(self, *, carve_validation: bool = True) -> None:
        super().__init__(carve_validation=carve_validation)
        self.streams = {"x": ("a",), "y": ("b", "a")}


def test_a_task_of_two_streams_is_refused() -> None:
    config = partial_config()
    config.dataset["_target_"] = f"{HERE}Shared"
    with pytest.raises(UserError, match="the task a is named by the streams x, y, and a"):
        build.dataset_and_tasks(config)


def test_validation_rows_are_asked_for_where_they_select() -> None:
    config = partial_config()
    dataset, _ = build.dataset_and_tasks(config)
    assert "val" in dataset.splits
    config.select_on = "test"
    dataset, _ = build.dataset_and_tasks(config)
    assert "val" not in dataset.splits

    config = partial_config(_target_=f"{HERE}WithoutValidation")
    with pytest.raises(UserError, match=r"^select_on=validation, and this dataset has no valid"):
        build.dataset_and_tasks(config)


def test_what_the_user_says_of_a_task_comes_before_what_the_data_say() -> None:
    config = partial_config()
    config.dataset["tasks"]["a"]["outputs"] = 4
    _, tasks = build.dataset_and_tasks(config)
    assert (tasks["a"].output_size, tasks["b"].output_size) == (4, 1)


def weights(*overrides: str) -> dict[str, torch.Tensor]:
    torch.rand(len(overrides))  # what was drawn before must not matter
    return dict(model_of(config_of("dataset=digits", *overrides)).state_dict())


def test_the_initial_weights_of_a_part_depend_on_the_seed_and_the_part_alone() -> None:
    every = weights()
    backbone = [key for key in every if "backbone" in key]
    assert backbone
    digit = weights("tasks=[digit]")
    ink = weights("tasks=[ink]", "weighting=mgda")
    for key in backbone:
        assert torch.equal(digit[key], every[key])
        assert torch.equal(ink[key], every[key])
    assert torch.equal(digit["heads.0.layers.0.weight"], every["heads.0.layers.0.weight"])
    assert torch.equal(ink["heads.0.layers.0.weight"], every["heads.2.layers.0.weight"])
    assert not torch.equal(every["heads.1.layers.0.weight"], every["heads.0.layers.0.weight"][:2])

    seeded = weights("seed=1")
    assert not torch.equal(seeded[backbone[0]], every[backbone[0]])
    alone = weights("architecture=single_task")
    for number in range(3):
        for key in backbone:
            name = key.replace("architecture.backbone.", f"architecture.backbones.{number}.")
            assert torch.equal(alone[name], every[key])
    assert torch.equal(alone["heads.2.layers.0.weight"], every["heads.2.layers.0.weight"])


# -- optimisation ---------------------------------------------------------------------------------


def optimizer_of(config: Config) -> torch.optim.Optimizer:
    dataset, tasks = build.dataset_and_tasks(config)
    model = build.model(config, dataset, tasks)
    method = build.weighting(config, build.task_infos(dataset, tasks), model)
    return build.optimizer(config, model, method)


def test_a_methods_parameters_follow_the_networks_rate_or_have_their_own() -> None:
    overrides = ["dataset=digits", "weighting=uncertainty", "optimizer.weight_decay=0.1"]
    network, own = optimizer_of(config_of(*overrides)).param_groups
    assert (network["lr"], network["weight_decay"]) == (0.002, 0.1)
    assert (own["lr"], own["weight_decay"]) == (0.002, 0.0)
    _, own = optimizer_of(config_of(*overrides, "weighting.learning_rate=0.5")).param_groups
    assert own["lr"] == 0.5


def test_a_methods_layers_are_part_of_the_network() -> None:
    config = config_of("weighting=rotograd", "weighting.size=2")
    dataset, tasks = build.dataset_and_tasks(config)
    model = build.model(config, dataset, tasks)
    method = build.weighting(config, build.task_infos(dataset, tasks), model)
    found = [module for module in model.modules() if isinstance(module, Rotation)]
    assert found == list(method.adapters().values())
    assert len(found) == len(tasks)


@pytest.mark.parametrize("rate", ["0", "-0.1", ".inf", "fast"])
def test_a_learning_rate_of_no_use_is_refused(rate: str) -> None:
    with pytest.raises(UserError, match=r"^weighting\.learning_rate=.*: use a number above 0, or "):
        optimizer_of(config_of("weighting=great", f"weighting.learning_rate={rate}"))


def test_a_network_with_nothing_to_train_is_refused() -> None:
    config = config_of("dataset=digits")
    dataset, tasks = build.dataset_and_tasks(config)
    model = build.model(config, dataset, tasks).requires_grad_(False)
    method = Uncertainty(tasks=build.task_infos(dataset, tasks))
    with pytest.raises(UserError, match="no parameters to train"):
        build.optimizer(config, model, method)


def test_what_stops_a_run_knows_its_tasks() -> None:
    config = config_of("dataset=digits", "stopping=per_task", "stopping.patience=3")
    _, tasks = build.dataset_and_tasks(config)
    made = build.stopping(config, tasks, ("ink",))
    assert isinstance(made, PerTaskStopping)
    assert made.metrics == {"digit": "accuracy", "parity": "accuracy", "ink": "r2"}
    assert (made.patience, made.revive, made.primary) == (3, None, ("ink",))
    assert build.stopping(config_of("dataset=digits"), tasks, ("ink",)) is None
    config = config_of("dataset=digits", "stopping=joint", "stopping.monitor=delta_m")
    with pytest.raises(UserError, match=r"stopping \(JointStopping\): monitor=delta_m needs"):
        build.stopping(config, tasks, ("ink",))


def test_a_baseline_that_stops_a_run_tells_it_from_others() -> None:
    assert without_effect({}) == without_effect({"monitor": "score"}) == WITHOUT_EFFECT
    left_out = without_effect({"monitor": "delta_m"})
    assert "tracking.images" in left_out
    assert {"tracking", "tracking.baseline"}.isdisjoint(left_out)


def test_a_schedule_without_a_length_takes_the_runs_epochs() -> None:
    config = config_of("dataset=digits", "scheduler=cosine", "epochs=7")
    assert config.scheduler["T_max"] is None
    made = build.scheduler(config, optimizer_of(config))
    assert isinstance(made, CosineAnnealingLR)
    assert made.T_max == 7
    config = config_of("dataset=digits", "scheduler=cosine", "epochs=7", "scheduler.T_max=3")
    made = build.scheduler(config, optimizer_of(config))
    assert isinstance(made, CosineAnnealingLR)
    assert made.T_max == 3
    config = config_of("dataset=digits", "scheduler=none")
    assert build.scheduler(config, optimizer_of(config)) is None


def test_operations_of_a_forward_pass_are_counted_by_hand() -> None:
    config = config_of("dataset=digits", "backbone.hidden=[32]", "batch_size=16")
    dataset, tasks = build.dataset_and_tasks(config)
    model = build.model(config, dataset, tasks)
    placement = Placement(torch.device("cpu"))
    loader = TrainLoader(
        dataset,
        tasks,
        Joint(units=units_of(dataset.streams, {"digits": 1293}, {}, of="streams", batch_size=16)),
        accumulate=1,
        seed=0,
        placement=placement,
    )
    assert build.forward_flops(model, loader) == 2 * (64 * 32 + 32 * (10 + 2 + 1))
    assert model.training
