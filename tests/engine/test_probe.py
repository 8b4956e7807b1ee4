"""Cosines between the gradients of units, as samplers see them."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from engine_toys import SEED, Toy, hps_model, mlp
from test_loader import CPU, regressions, units_for
from torch import Tensor, nn

from mtlrun.data.base import TensorSource
from mtlrun.engine.backward import Forward
from mtlrun.engine.loader import TrainLoader
from mtlrun.engine.probe import GradientProbe
from mtlrun.models.model import MultiTaskModel
from mtlrun.sampling.proportional import Proportional
from mtlrun.sampling.units import Of

STREAMS = {"x": ("a",), "y": ("b", "c")}
Parts = tuple[GradientProbe, MultiTaskModel, Mapping[str, Mapping[str, TensorSource]]]


def sources(seed: int, labelled: Sequence[int]) -> dict[str, TensorSource]:
    """Rows of noise; b has a label in the rows named, and no other."""
    draws = torch.Generator().manual_seed(seed)
    found = {}
    for stream, tasks in STREAMS.items():
        inputs = torch.randn(9, 5, generator=draws)
        targets = {task: torch.randn(9, generator=draws) for task in tasks}
        if "b" in targets:
            missing = torch.ones(9, dtype=torch.bool)
            missing[list(labelled)] = False
            targets["b"][missing] = torch.nan
        found[stream] = TensorSource(inputs, targets)
    return found


def probe_of(
    split: str, of: Of, batch_size: int, trunk: nn.Module, validated: Sequence[int] = (2, 3, 7)
) -> Parts:
    splits = {"train": sources(1, (0, 1, 4)), "val": sources(2, validated)}
    tasks = regressions("abc")
    torch.manual_seed(0)
    model = hps_model(trunk, tasks, streams=STREAMS)
    model.train()
    sampler = Proportional(units=units_for(splits["train"], STREAMS, batch_size, of))
    loader = TrainLoader(
        Toy(splits, STREAMS), tasks, sampler, accumulate=1, seed=SEED, placement=CPU
    )
    return GradientProbe(Forward(model, tasks), loader, split), model, splits


def gradient(model: MultiTaskModel, source: TensorSource, tasks: Sequence[str]) -> Tensor:
    """Of the sum of the tasks' mean squared errors on all labelled rows, in one piece."""
    total = torch.zeros(())
    for task in tasks:
        known = ~source.targets[task].isnan()
        stream = next(stream for stream, names in STREAMS.items() if task in names)
        found = model({stream: source.inputs[known]}, [task])[task].squeeze(1)
        total = total + (found - source.targets[task][known]).square().mean()
    parts = torch.autograd.grad(total, list(model.shared_parameters()))
    return torch.cat([part.flatten() for part in parts]).double()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("of", ["streams", "tasks"])
def test_cosines_of_whole_splits(split: str, of: Of) -> None:
    probe, model, splits = probe_of(split, of, 9, mlp())
    units = probe.loader.sampler.units
    found = probe.cosines(units, 0, 4)
    sides = [
        torch.stack([gradient(model, splits[side][unit.stream], unit.tasks) for unit in units])
        for side in (split, "train")
    ]
    against, own = (torch.nn.functional.normalize(side, dim=1) for side in sides)
    torch.testing.assert_close(found, against @ own.T, rtol=0, atol=1e-6)
    if split == "val":
        assert (found - found.T).abs().max() > 0.01  # rows are the validation's


def test_batches_are_addressed_by_the_step() -> None:
    probe, _, _ = probe_of("train", "tasks", 2, mlp())
    units = probe.loader.sampler.units
    first = probe.cosines(units, 0, 1)
    assert torch.equal(probe.cosines(units, 0, 1), first)
    assert not torch.equal(probe.cosines(units, 0, 2), first)
    assert float(first.diagonal().max()) < 0.9999  # two batches, not one with itself


def test_a_tasks_batch_has_rows_with_its_label() -> None:
    probe, _, _ = probe_of("val", "tasks", 1, mlp())
    found = [probe.cosines(probe.loader.sampler.units, 0, step) for step in range(8)]
    assert (torch.stack(found) != 0).all()


def test_a_task_without_labels_has_no_gradient() -> None:
    probe, _, _ = probe_of("val", "tasks", 9, mlp(), validated=())
    found = probe.cosines(probe.loader.sampler.units, 0, 1)
    assert (found[1] == 0).all()  # b
    assert (found[[0, 2]] != 0).all()


def test_the_network_stays_as_it_is() -> None:
    probe, model, _ = probe_of("train", "tasks", 4, nn.Sequential(nn.BatchNorm1d(5), mlp()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe.cosines(probe.loader.sampler.units, 0, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
