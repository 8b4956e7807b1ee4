import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mtlrun.data.gradnorm_toy import GradNormToy
from mtlrun.randomness import generator
from mtlrun.tasks.regression import Regression
from mtlrun.types import StepInfo, TaskInfo
from mtlrun.weighting.gradnorm import GradNorm

REFERENCE = Path(__file__).resolve().parent.parent / "reference" / "weighting_gradnorm_toy.json"
KNOWN = json.loads(REFERENCE.read_text())["iterations"]
SMALL = {"inputs": 8, "outputs": 3, "train_rows": 12, "validation_rows": 5, "test_rows": 4}


def network() -> tuple[nn.Sequential, list[nn.Linear]]:
    """The published network, trunk drawn before heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        layers = [nn.Linear(250, 100), *(nn.Linear(100, 100) for _ in range(3))]
        heads = [nn.Linear(100, 100) for _ in range(2)]
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU()))), heads


def test_gradnorm_on_it_goes_the_published_way() -> None:
    """Losses of iteration 0 to 1e-4; weights and losses of the first 101 near the published."""
    iterations = 101
    dataset = GradNormToy(train_rows=100 * iterations, validation_rows=1, test_rows=1)
    rows = dataset.splits["train"]["gradnorm_toy"]
    tasks = [Regression(name=name, outputs=100) for name in dataset.streams["gradnorm_toy"]]
    trunk, heads = network()
    infos = [TaskInfo(task.name, task.likelihood, None, len(rows)) for task in tasks]
    weighting = GradNorm(alpha=0.12, learning_rate=None, tasks=infos)
    parameters = [*trunk.parameters(), *nn.ModuleList(heads).parameters(), *weighting.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)
    for iteration in range(iterations):
        inputs, targets = rows.rows(torch.arange(100 * iteration, 100 * iteration + 100))
        features = trunk(inputs)
        losses = [
            task.loss(head(features), targets[task.name])
            for task, head in zip(tasks, heads, strict=True)
        ]
        gradients = [
            torch.autograd.grad(loss, trunk[-2].weight, retain_graph=True)[0] for loss in losses
        ]
        jacobian = torch.stack(gradients).flatten(1).double()
        weighting.step = StepInfo(0, 0, iteration, (0, 1))
        optimizer.zero_grad()
        shown = torch.stack(losses).detach()
        weights = weighting.weights(jacobian @ jacobian.T, shown.double())
        torch.autograd.backward(losses, list(weights.float()))
        optimizer.step()
        weighting.after_step()
        if (known := KNOWN.get(str(iteration))) is not None:
            tolerance = 1e-4 if iteration == 0 else 2e-4
            assert shown.tolist() == pytest.approx(known["losses"], rel=tolerance)
            found = weighting.task_weights.tolist()
            assert found == pytest.approx(known["weights"], abs=2e-5)


def test_targets_are_scaled_alike_and_inputs_are_of_length_1() -> None:
    dataset = GradNormToy(sigmas=[2, 50, 7], task_deviation=0, **SMALL)
    assert dataset.streams == {"gradnorm_toy": ("f1", "f2", "f3")}
    source = dataset.splits["train"]["gradnorm_toy"]
    inputs, targets = source.rows(torch.arange(12))
    torch.testing.assert_close(inputs.norm(dim=1), torch.ones(12))
    # Without what sets the tasks apart they are the same but for their scale.
    torch.testing.assert_close(targets["f2"] / 50, targets["f1"] / 2)
    torch.testing.assert_close(targets["f3"] / 7, targets["f1"] / 2)
    assert targets["f1"].shape == (12, 3)
    assert dataset.facts["f1"]["outputs"] == 3
    apart = GradNormToy(sigmas=[2, 2], **SMALL).splits["train"]["gradnorm_toy"].targets
    assert not torch.allclose(apart["f1"], apart["f2"])


def test_splits_share_no_row_and_validation_takes_none_from_training() -> None:
    dataset, without = (GradNormToy(**SMALL, carve_validation=carve) for carve in (True, False))
    sources = {split: parts["gradnorm_toy"] for split, parts in dataset.splits.items()}
    assert {split: len(source) for split, source in sources.items()} == {
        "train": 12,
        "val": 5,
        "test": 4,
    }
    everything = torch.cat([source.inputs for source in sources.values()])
    assert len(everything.unique(dim=0)) == 21
    assert set(without.splits) == {"train", "test"}
    for split in without.splits:
        assert torch.equal(without.splits[split]["gradnorm_toy"].inputs, sources[split].inputs)


def test_fresh_rows_follow_the_same_functions_and_the_given_draws() -> None:
    dataset = GradNormToy(**SMALL, fresh=True)
    inputs, targets = dataset.splits["train"]["gradnorm_toy"].rows(torch.arange(6))

    def seen(step: int | None):
        draws = None if step is None else generator(0, "augment", step)
        return dataset.transform("gradnorm_toy", inputs, targets, draws)

    assert seen(None)[0] is inputs
    (first, _), (again, _), (other, _) = seen(1), seen(1), seen(2)
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any(1).all()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(6))
    assert -1 <= first.min() < 0 < first.max() <= 1
    # The functions by least squares from the fixed rows, where the tanh can be undone.
    fixed = GradNormToy(**{**SMALL, "train_rows": 200}, base_deviation=0.3, task_deviation=0.1)
    rows, known = fixed.splits["train"]["gradnorm_toy"].rows(torch.arange(200))
    fixed.fresh = True
    drawn, found = fixed.transform("gradnorm_toy", rows, known, generator(0, "augment", 3))
    for task, scale in (("f1", 1), ("f2", 100)):
        slopes = torch.linalg.lstsq(rows, torch.atanh(known[task] / scale)).solution
        torch.testing.assert_close(
            found[task], scale * torch.tanh(drawn @ slopes), rtol=1e-3, atol=1e-4 * scale
        )
    targets.pop("f1")
    assert list(dataset.transform("gradnorm_toy", inputs, targets, generator(0, "a"))[1]) == ["f2"]


def test_declared_tasks_must_be_as_many_as_the_scales() -> None:
    declared = {"f1": "regression", "f2": "regression"}
    assert GradNormToy(**SMALL, tasks=declared).streams == {"gradnorm_toy": ("f1", "f2")}
    with pytest.raises(ValueError, match=r"dataset\.tasks declares f1, f2\. Declare f1, f2, f3$"):
        GradNormToy([1, 2, 3], **SMALL, tasks=declared)


@pytest.mark.parametrize(
    "settings",
    [{"sigmas": []}, {"sigmas": [1, 0]}, {"outputs": 0}, {"task_deviation": -1}, {"test_rows": 0}],
)
def test_wrong_settings_are_refused(settings: dict) -> None:
    ((name, _),) = settings.items()
    with pytest.raises(ValueError, match=f"^{name}=.*: must be"):
        GradNormToy(**settings)
