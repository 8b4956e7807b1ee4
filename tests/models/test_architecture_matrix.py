"""Every architecture on seven backbones, under each kind of weighting, with two samplers.

A combination trains on real rows, and moves every parameter, or is refused with its reason. README
prints the table.
"""

import copy

import pytest
import torch
from architecture_cases import NAMES
from matrix import CASES, EPOCHS, README, STREAM, batch_of, model_on, tasks_of
from torch import Tensor

from mtlrun.engine.backward import Forward
from mtlrun.engine.compatibility import check_compatible, resolve_place
from mtlrun.engine.step import TrainingStep, parameter_groups
from mtlrun.errors import UserError
from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global_step
from mtlrun.sampling.base import Sampler
from mtlrun.sampling.joint import Joint
from mtlrun.sampling.round_robin import RoundRobin
from mtlrun.sampling.units import Unit
from mtlrun.types import Batch, StreamBatch, TaskInfo
from mtlrun.weighting.base import Weighting
from mtlrun.weighting.graddrop import GradDrop
from mtlrun.weighting.mgda import MGDA
from mtlrun.weighting.pcgrad import PCGrad
from mtlrun.weighting.uncertainty import Uncertainty

KINDS = {"L": "losses", "G": "Gramian", "J": "Jacobian", "R": "representation"}
SEED, RATE = 3, 0.01
MOST_STEPS = 2 * EPOCHS


def weighting_of(kind: str, infos: list[TaskInfo]) -> tuple[Weighting, str]:
    """A method of each kind, and where it takes gradients."""
    if kind == "L":
        return Uncertainty(tasks=infos), "auto"
    if kind == "G":
        return PCGrad(), "parameters"
    if kind == "J":
        return GradDrop(tasks=infos), "auto"
    return MGDA(), "representation"


def sampler_of(joint: bool, tasks: tuple[str, ...]) -> Sampler:
    if joint:
        return Joint(units=(Unit(STREAM, STREAM, tasks, 8, 8),), epochs=EPOCHS, seed=SEED)
    units = tuple(Unit(task, STREAM, (task,), 8, 8) for task in tasks)
    return RoundRobin(units=units, epochs=EPOCHS, seed=SEED)


def refusal(weighting: Weighting, at: str, model: MultiTaskModel, sampler: Sampler) -> str | None:
    """Why the engine refuses the combination; None where it does not."""
    try:
        check_compatible(
            weighting=weighting,
            weighting_name="chosen",
            architecture_name="chosen",
            sampler_name="chosen",
            model=model,
            sampler=sampler,
            place=resolve_place(weighting, at, 1),
            device=torch.device("cpu"),
            settings={"accumulate": 1, "amp": "none", "every": 1, "memory_gb": 4.0},
        )
    except UserError as error:
        return str(error)
    return None


def trains(
    model: MultiTaskModel, backbone: str, weighting: Weighting, at: str, joint: bool
) -> None:
    """Three steps and more, until every trainable parameter has moved."""
    tasks, rows = tasks_of(CASES[backbone]), batch_of(CASES[backbone])
    place = resolve_place(weighting, at, 1)
    optimizer = torch.optim.Adam(parameter_groups(model, weighting, RATE), lr=RATE)
    step = TrainingStep(model, tasks, weighting, optimizer, seed=SEED, place=place)
    model.train()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    for number in range(MOST_STEPS):
        present = rows.present if joint else (rows.present[number % 2],)
        batch: Batch = {STREAM: StreamBatch(rows.inputs, rows.targets, present)}
        figures = step([batch], min(number // 2, EPOCHS - 1), number)
        assert figures.nonfinite is None
        assert len(figures.losses) == len(present)
        still = [name for name, p in trained.items() if torch.equal(p.detach(), before[name])]
        if number >= 2 and not still:
            return
    assert not still, f"never moved: {still}"


def plain_gramian(model: MultiTaskModel, backbone: str) -> Tensor:
    """Of the tasks' gradients on the shared parameters, by plain autograd."""
    tasks, rows = tasks_of(CASES[backbone]), batch_of(CASES[backbone])
    shared = model.shared_parameters()
    seed_global_step(SEED, "dropout", 0, 0)
    losses = Forward(model, tasks).losses({STREAM: rows}, range(len(tasks)))
    jacobian = []
    for loss in losses:
        found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        parts = [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(shared, found, strict=True)
        ]
        jacobian.append(torch.cat(parts).double())
    stacked = torch.stack(jacobian)
    return stacked @ stacked.T


def agrees_with_autograd(model: MultiTaskModel, backbone: str) -> None:
    """The engine's Gramian is that of plain autograd."""
    tasks, rows = tasks_of(CASES[backbone]), batch_of(CASES[backbone])
    model = copy.deepcopy(model).train()
    model.architecture.start_step(0, 0)
    expected = plain_gramian(model, backbone)
    weighting = PCGrad()
    optimizer = torch.optim.SGD(parameter_groups(model, weighting, RATE), lr=RATE)
    step = TrainingStep(model, tasks, weighting, optimizer, seed=SEED, place="parameters")
    figures = step([{STREAM: rows}], 0, 0)
    assert figures.gramian is not None
    scale = expected.diagonal().sqrt()
    assert (scale > 0).all()
    close = (figures.gramian - expected).abs() / torch.outer(scale, scale)
    assert close.max() < 1e-4


def cell(name: str, backbone: str) -> str:
    """The letters of the kinds of weighting that train; a dash where the architecture refuses."""
    try:
        start = model_on(name, backbone)
    except ValueError as error:
        reason = str(error)
    else:
        reason = ""
    if reason:
        assert len(reason) > 40
        assert "use " in reason.lower()
        return "-"
    tasks = tasks_of(CASES[backbone])
    infos = [TaskInfo(n, t.likelihood, t.initial_loss, 8) for n, t in tasks.items()]
    letters = ""
    for kind in KINDS:
        for joint in (True, False):
            model = copy.deepcopy(start)
            torch.manual_seed(2)
            weighting, at = weighting_of(kind, infos)
            refused = refusal(weighting, at, model, sampler_of(joint, tuple(tasks)))
            if refused is None:
                trains(model, backbone, weighting, at, joint)
                letters += kind if joint else ""
            elif not joint and kind != "L" and kind in letters:
                assert "gives steps with one task alone" in refused
            else:
                assert "shares none" in refused or "one tensor that all tasks read" in refused
                assert kind != "L"
    if "G" in letters:
        agrees_with_autograd(start, backbone)
    return letters


def printed(name: str) -> dict[str, str]:
    """An architecture's row of README's table."""
    rows = [line.strip("|").split("|") for line in README.read_text().splitlines()]
    (row,) = [row for row in rows if row[0].strip() == f"`{name}`" and len(row) == len(CASES) + 1]
    return {backbone: row[number + 1].strip() for number, backbone in enumerate(CASES)}


@pytest.mark.parametrize("backbone", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_trains_or_is_refused_as_the_table_says(name: str, backbone: str) -> None:
    assert cell(name, backbone) == printed(name)[backbone]
