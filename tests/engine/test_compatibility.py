import re
from typing import Any

import pytest
import torch
from engine_toys import Given, GivenDirection, hps_model, linear_head, mlp, toy_tasks
from torch import Tensor

from mtlrun.engine.compatibility import check_compatible, resolve_place
from mtlrun.errors import UserError
from mtlrun.models.architectures.single_task import SingleTask
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.model import MultiTaskModel
from mtlrun.sampling.joint import Joint
from mtlrun.sampling.proportional import Proportional
from mtlrun.sampling.units import Unit
from mtlrun.types import TaskInfo
from mtlrun.weighting.base import LossWeighting
from mtlrun.weighting.equal import Equal
from mtlrun.weighting.gls import GLS

NAMES = ("a", "b", "c")


def given() -> Given:
    return Given([1.0, 1.0, 1.0])


class AtLastLayer(Given):
    place = "last_layer"


# -- where gradients are taken --------------------------------------------------------------------


def test_the_place_is_the_methods_own_unless_it_is_set() -> None:
    assert resolve_place(given(), "auto", 1) == "parameters"
    assert resolve_place(AtLastLayer([1.0]), "auto", 5) == "last_layer"
    for place in ("parameters", "last_layer", "representation"):
        assert resolve_place(AtLastLayer([1.0]), place, 2) == place
    assert resolve_place(GivenDirection([1.0]), "auto", 1) == "parameters"
    assert resolve_place(Equal(), "auto", 1) is None


@pytest.mark.parametrize(
    ("weighting", "at", "every", "message"),
    [
        (
            Equal(),
            "parameters",
            1,
            "gradients.at=parameters has no effect: Equal balances by the losses and takes no "
            "task gradients. Leave the setting out, or choose a method that needs gradients "
            "(mtlrun list weighting).",
        ),
        (
            Equal(),
            "auto",
            3,
            "gradients.every=3 has no effect: Equal balances by the losses and takes no "
            "task gradients. Leave the setting out, or choose a method that needs gradients "
            "(mtlrun list weighting).",
        ),
        (
            GivenDirection([1.0]),
            "representation",
            1,
            "GivenDirection combines task gradients entry by entry, those at the parameters, "
            "so gradients.at=representation cannot serve it. Use gradients.at=parameters.",
        ),
        (
            GivenDirection([1.0]),
            "last_layer",
            1,
            "GivenDirection combines task gradients entry by entry, those at the parameters, "
            "so gradients.at=last_layer cannot serve it. Use gradients.at=parameters.",
        ),
        (
            GivenDirection([1.0]),
            "parameters",
            2,
            "gradients.every=2 reuses weights between refreshes, and GivenDirection has no "
            "weights that could be reused. Use gradients.every=1.",
        ),
    ],
)
def test_settings_that_a_method_would_ignore(
    weighting: Any, at: str, every: int, message: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        resolve_place(weighting, at, every)


# -- weighting x architecture x sampler x engine --------------------------------------------------


def shared_model(**options: Any) -> MultiTaskModel:
    return hps_model(mlp(), toy_tasks(), **options)


def separate_model() -> MultiTaskModel:
    architecture = SingleTask(
        make_backbone=lambda _: Backbone([mlp()], [6], [False]), streams={"rows": NAMES}
    )
    return MultiTaskModel(architecture, {n: linear_head(t) for n, t in toy_tasks().items()})


def frozen_model() -> MultiTaskModel:
    model = shared_model()
    model.architecture.requires_grad_(False)
    return model


def frozen_last_layer() -> MultiTaskModel:
    model = shared_model()
    for parameter in model.architecture.last_shared_layer():
        parameter.requires_grad_(False)
    return model


TASKS = [Unit(name, "x", (name,), 8, 4) for name in NAMES]


class Pairs(Proportional):
    """Draws two tasks a step."""

    several = True

    @property
    def per_step(self) -> int:
        return 2


@pytest.mark.parametrize("rescale", ["sum", "norm"])
def test_rescaling_undoes_what_is_said_of_a_task_alone(rescale: str) -> None:
    settings = {"accumulate": 1, "amp": "none", "rescale": rescale}
    options: dict[str, Any] = {"weighting": Equal(), "place": None, "settings": settings}
    check(**options, sampler=Pairs(units=TASKS))
    message = (
        f"gradients.rescale={rescale} gives a task that a step trains alone the weight 1, whatever "
        "weighting=chosen says, and sampler=drawn gives such steps. Leave it out, or use "
        "sampler=joint or sampler=task_subset."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check(**options, sampler=Proportional(units=TASKS))


class FromEvaluation(Proportional):
    uses_evaluation = True


class FromTraining(Proportional):
    compares, refresh_every = "training", 5


class FromValidation(FromTraining):
    compares = "validation"


def test_samplers_that_have_nothing_to_learn_from() -> None:
    options: dict[str, Any] = {"weighting": Equal(), "place": None}
    check(**options, sampler=FromTraining(units=TASKS), select_on="test")
    check(**options, sampler=FromValidation(units=TASKS))
    for changes, message in (
        (
            {"sampler": FromEvaluation(units=TASKS), "select_on": "test"},
            "sampler=drawn learns from what it sees in the evaluation, and select_on=test would "
            "show it the test split. Use select_on=validation.",
        ),
        (
            {"sampler": FromValidation(units=TASKS), "select_on": "test"},
            "sampler=drawn learns from gradients on validation rows, and select_on=test leaves "
            "none. Use select_on=validation.",
        ),
        (
            {"sampler": FromTraining(units=TASKS), "model": separate_model()},
            "sampler=drawn compares gradients on shared parameters, and this architecture shares "
            "none that are trained. Use architecture=hps, or another sampler.",
        ),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            check(**options, **changes)


class Product(LossWeighting):
    linear = False

    def objective(self, losses: list[Tensor]) -> Tensor:
        return torch.stack(losses).prod()


def check(**changes: Any) -> None:
    arguments: dict[str, Any] = {
        "weighting": given(),
        "weighting_name": "chosen",
        "architecture_name": "built",
        "sampler_name": "drawn",
        "model": shared_model(),
        "sampler": Joint(units=[Unit("x", "x", NAMES, 8, 4)]),
        "place": "parameters",
        "device": torch.device("cpu"),
        "settings": {"accumulate": 1, "amp": "none"},
    }
    check_compatible(**{**arguments, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"place": "last_layer", "settings": {"accumulate": 4, "amp": "bf16"}},
        {"place": "representation"},
        {"place": "last_layer", "model": shared_model(streams={"x": ("a",), "y": ("b", "c")})},
        {"weighting": GivenDirection([1.0]), "settings": {"accumulate": 2, "amp": "none"}},
        {"weighting": Equal(), "place": None, "model": separate_model()},
        {"weighting": Equal(), "place": None, "sampler": Proportional(units=TASKS)},
        {"sampler": Pairs(units=TASKS)},
        {"weighting": Equal(), "place": None, "settings": {"accumulate": 2, "amp": "bf16"}},
        {"weighting": Product(), "place": None},
    ],
)
def test_what_fits(changes: dict[str, Any]) -> None:
    check(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": separate_model()},
            "weighting=chosen balances gradients on shared parameters, and architecture=built "
            "shares none that are trained. Use weighting=equal, or an architecture that shares a "
            "backbone, such as architecture=hps.",
        ),
        (
            {"model": frozen_model(), "place": "representation"},
            "weighting=chosen balances gradients on shared parameters, and architecture=built "
            "shares none that are trained. Use weighting=equal, or an architecture that shares a "
            "backbone, such as architecture=hps.",
        ),
        (
            {
                "model": shared_model(streams={"x": ("a",), "y": ("b", "c")}),
                "place": "representation",
            },
            "weighting=chosen with gradients.at=representation needs one tensor that all tasks "
            "read, and architecture=built on this dataset gives them several. Use "
            "gradients.at=parameters, or architecture=hps with a dataset of one stream.",
        ),
        (
            {"model": frozen_last_layer(), "place": "last_layer"},
            "weighting=chosen with gradients.at=last_layer needs a trained layer of all tasks, and "
            "architecture=built has none. Use gradients.at=parameters.",
        ),
        (
            {"sampler": Proportional(units=TASKS)},
            "weighting=chosen compares the gradients of tasks in one step, and sampler=drawn gives "
            "steps with one task alone. Use sampler=joint, or sampler=task_subset on a dataset of "
            "one stream, or a method that weighs each task by itself, such as weighting=equal, "
            "uncertainty or dwa.",
        ),
        (
            {
                "weighting": GLS(tasks=[TaskInfo(n, "gaussian", None, 8) for n in NAMES]),
                "place": None,
                "sampler": Proportional(units=TASKS),
            },
            "weighting=chosen compares the losses of tasks in one step, and sampler=drawn gives "
            "steps with one task alone. Use sampler=joint, or sampler=task_subset on a dataset of "
            "one stream, or a method that weighs each task by itself, such as weighting=equal, "
            "uncertainty or dwa.",
        ),
        (
            {
                "sampler": Pairs(units=TASKS),
                "settings": {"accumulate": 1, "amp": "none", "every": 5},
            },
            "gradients.every=5 reuses the weights of a step for the next ones, and sampler=drawn "
            "gives these other tasks. Use gradients.every=1, or sampler=joint.",
        ),
        (
            {"place": "representation", "settings": {"accumulate": 3, "amp": "none"}},
            "gradients.at=representation looks at one batch's features, and engine.accumulate=3 "
            "spreads a step over several. Use engine.accumulate=1, or gradients.at=parameters.",
        ),
        (
            {
                "weighting": Product(),
                "place": None,
                "settings": {"accumulate": 3, "amp": "none"},
            },
            "weighting=chosen is not linear in the losses, so a step cannot be added up over "
            "engine.accumulate=3 micro-batches. Use engine.accumulate=1 and a larger batch_size.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_change(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check(**changes)


def test_an_architecture_without_a_common_last_layer() -> None:
    model = shared_model()
    model.architecture.last_shared_layer = list  # type: ignore[method-assign]
    check(model=model, place="parameters")
    with pytest.raises(UserError, match=r"last_layer needs a trained layer of all tasks"):
        check(model=model, place="last_layer")


def test_bfloat16_on_a_gpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"accumulate": 1, "amp": "bf16"}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    check(settings=settings)  # a CPU computes it always
    message = (
        "engine.amp=bf16 needs a GPU that computes in bfloat16, and this one does not. Use "
        "engine.amp=none."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check(settings=settings, device=torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    check(settings=settings, device=torch.device("cuda"))
