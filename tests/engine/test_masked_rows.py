"""Rows without a label change nothing: the gradient is that of the batch without them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mtlrun.tasks.base import Task
from mtlrun.tasks.binary import Binary
from mtlrun.tasks.classification import Classification
from mtlrun.tasks.depth import Depth
from mtlrun.tasks.multi_label import MultiLabel
from mtlrun.tasks.normals import SurfaceNormals
from mtlrun.tasks.ordinal import Ordinal
from mtlrun.tasks.regression import Regression
from mtlrun.tasks.segmentation import Segmentation
from mtlrun.tasks.tagging import Tagging

ROWS = 12
NUMBERS = torch.arange(ROWS)
NAN = torch.nan
CASES: dict[str, tuple[Callable[[], Task], Tensor, float]] = {
    "regression": (lambda: Regression(name="t", center=2.0, scale=3.0), NUMBERS.double(), NAN),
    "binary": (lambda: Binary(name="t"), (NUMBERS % 2).float(), NAN),
    "classification": (lambda: Classification(name="t", classes=3), NUMBERS % 3, -1),
    "ordinal": (lambda: Ordinal(name="t", classes=4), NUMBERS % 4, -1),
    "multi_label": (
        lambda: MultiLabel(name="t", labels=2),
        torch.stack([NUMBERS % 2, NUMBERS % 3 == 0], 1).float(),
        NAN,
    ),
}


def gradients(network: nn.Module, task: Task, inputs: Tensor, target: Tensor) -> list[Tensor]:
    loss = task.loss(network(inputs), target)
    return list(torch.autograd.grad(loss, list(network.parameters())))


@pytest.mark.parametrize("kind", CASES)
def test_masked_rows_give_the_gradient_of_the_batch_without_them(kind: str) -> None:
    make, target, missing = CASES[kind]
    task = make()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, task.output_size)).double()
    inputs = torch.randn(ROWS, 5, dtype=torch.float64)
    masked = torch.tensor([n % 4 == 1 or n == 6 for n in range(ROWS)])
    holes = target.clone()
    holes[masked] = missing

    found = gradients(network, task, inputs, holes)
    expected = gradients(network, task, inputs[~masked], target[~masked])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
    other_inputs = torch.where(masked[:, None], 1e3 * inputs, inputs)
    for one, other in zip(gradients(network, task, other_inputs, holes), found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
    nothing = gradients(network, task, inputs, torch.full_like(target, missing))
    assert all(bool((gradient == 0).all()) for gradient in nothing)


def elementwise(kind: str) -> tuple[Task, Tensor, Tensor]:
    """A task of several elements a row, predictions and targets with holes in some rows."""
    draws = torch.Generator().manual_seed(0)
    if kind == "tagging":
        target = torch.randint(3, (ROWS, 5), generator=draws)
        task: Task = Tagging(name="t", classes=3)
        prediction = torch.randn(ROWS, 5, 3, generator=draws)
    elif kind == "segmentation":
        target = torch.randint(3, (ROWS, 2, 4), generator=draws)
        task = Segmentation(name="t", classes=3, ignore_index=255)
        prediction = torch.randn(ROWS, 3, 2, 4, generator=draws)
    elif kind == "depth":
        target = 1 + torch.rand(ROWS, 2, 4, generator=draws)
        task, prediction = Depth(name="t"), torch.rand(ROWS, 1, 2, 4, generator=draws)
    elif kind == "normals":
        target = torch.randn(ROWS, 3, 2, 4, generator=draws)
        task, prediction = SurfaceNormals(name="t"), torch.randn(ROWS, 3, 2, 4, generator=draws)
    else:
        target = (torch.rand(ROWS, 3, generator=draws) > 0.5).float()
        several = {"regression": Regression(name="t", outputs=3)}
        task = several.get(kind) or MultiLabel(name="t", labels=3)
        prediction = torch.randn(ROWS, 3, generator=draws)
    hole = {"tagging": -1, "segmentation": 255, "depth": 0}.get(kind, NAN)
    target[:5, ..., 1:] = hole
    return task, prediction, target


@pytest.mark.parametrize(
    "kind", ["tagging", "segmentation", "depth", "normals", "regression", "multi_label"]
)
def test_the_loss_is_the_mean_over_elements(kind: str) -> None:
    task, prediction, target = elementwise(kind)
    whole = task.loss(prediction, target).item()
    parts = [
        (task.loss(prediction[rows], target[rows]).item(), int(task.elements(target[rows])))
        for rows in torch.arange(ROWS).split(4)
    ]
    together = sum(loss * count for loss, count in parts) / sum(count for _, count in parts)
    assert together == pytest.approx(whole, rel=1e-5)
    assert len({count for _, count in parts}) > 1
