"""What networks say together, and the loss against it, for every kind of task."""

import inspect
import math
import pkgutil
from importlib import import_module

import pytest
import torch
from task_checks import NothingReadBack
from torch import Tensor
from torch.nn import functional as F

from mtlrun import tasks as package
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

NAN = math.nan
VOID = 255
DRAWS = torch.Generator().manual_seed(1)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=DRAWS)


def spread(target: Tensor) -> Tensor:
    """Targets of 0 to 3 for [3, 2, 2] pixels; the third frame has none."""
    return torch.stack([target, target.flip(0), torch.full_like(target, VOID)])


CLASSES = torch.tensor([[0, 3], [VOID, 1]])
VECTORS = F.normalize(draw(3, 3, 2, 2), dim=1)
VECTORS[0, :, 0, 1] = 0
VECTORS[2] = NAN

# A task; a prediction and a target, some of whose elements, and whose last row, have no label; and
# the target as networks that are sure of it would say it.
CASES: list[tuple[Task, Tensor, Tensor, Tensor]] = [
    (
        Classification(name="classification", classes=3),
        draw(4, 3),
        torch.tensor([0, 2, 1, -1]),
        F.one_hot(torch.tensor([0, 2, 1, 0]), 3).float(),
    ),
    (
        Segmentation(name="segmentation", classes=4),
        draw(3, 4, 2, 2),
        spread(CLASSES),
        F.one_hot(spread(CLASSES) % VOID, 4).permute(0, 3, 1, 2).float(),
    ),
    (
        Tagging(name="tagging", classes=3),
        draw(3, 2, 3),
        torch.tensor([[0, 2], [1, -1], [-1, -1]]),
        F.one_hot(torch.tensor([[0, 2], [1, 0], [0, 0]]), 3).float(),
    ),
    (
        Binary(name="binary", positive_weight=3.0),
        draw(4, 1),
        torch.tensor([1, 0, 1, NAN]),
        torch.tensor([1.0, 0, 1, 0]).unsqueeze(1),
    ),
    (
        MultiLabel(name="multi_label", labels=2),
        draw(3, 2),
        torch.tensor([[1, 0], [NAN, 1], [NAN, NAN]]),
        torch.tensor([[1.0, 0], [0, 1], [0, 0]]),
    ),
    (
        Ordinal(name="ordinal", classes=3),
        draw(4, 2),
        torch.tensor([0, 2, 1, -1]),
        torch.tensor([[0.0, 0], [1, 1], [1, 0], [0, 0]]),
    ),
    (
        Regression(name="regression", outputs=2, loss="huber", center=[3, -1], scale=[2, 0.5]),
        draw(3, 2),
        torch.tensor([[1, 2], [NAN, 4], [NAN, NAN]]),
        torch.tensor([[1.0, 2], [9, 4], [9, 9]]),
    ),
    (
        Depth(name="depth"),
        draw(3, 1, 2, 2),
        torch.tensor([[[1, 0], [2, 3]], [[NAN, 4], [1, 1]], [[0, 0], [0, 0]]]),
        torch.tensor([[[1.0, -5], [2, 3]], [[9, 4], [1, 1]], [[9, 9], [9, 9]]]),
    ),
    (SurfaceNormals(name="normals"), draw(3, 3, 2, 2), VECTORS, VECTORS.nan_to_num(0.5)),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].name)
Case = tuple[Task, Tensor, Tensor, Tensor]


def test_every_kind_of_task_can_be_taught() -> None:
    kinds = {
        member
        for module in pkgutil.iter_modules(package.__path__)
        for member in vars(import_module(f"{package.__name__}.{module.name}")).values()
        if inspect.isclass(member) and issubclass(member, Task) and not inspect.isabstract(member)
    }
    assert {type(case[0]) for case in CASES} == kinds
    for kind in kinds:
        assert kind.soft_targets is not Task.soft_targets
        assert kind.soft_loss is not Task.soft_loss


def losses_and_gradients(
    case: Case, prediction: Tensor, soft: Tensor, temperature: float = 1
) -> list[Tensor]:
    """The loss against the labels and its gradient, then those of the loss against ``soft``."""
    task, _, target, _ = case
    found = []
    for soften in (False, True):
        leaf = prediction.clone().requires_grad_()
        loss = (
            task.soft_loss(leaf, soft, target, temperature) if soften else task.loss(leaf, target)
        )
        loss.backward()
        found += [loss.detach(), leaf.grad]
    return found


@EACH
def test_who_says_the_labels_gives_the_loss_of_the_labels(case: Case) -> None:
    hard, hard_gradient, soft, soft_gradient = losses_and_gradients(case, case[1], case[3])
    assert hard > 0.01
    torch.testing.assert_close(soft, hard)
    torch.testing.assert_close(soft_gradient, hard_gradient)


@EACH
def test_what_has_no_label_counts_in_nothing(case: Case) -> None:
    task, prediction, target, soft = case
    *_, loss, gradient = losses_and_gradients(case, prediction, soft, 2)
    changed = soft.clone()
    changed[-1] = soft[-1].flip(0) + 0.25
    *_, same, same_gradient = losses_and_gradients(case, prediction, changed, 2)
    assert torch.equal(same, loss)
    assert torch.equal(same_gradient, gradient)
    assert not gradient[-1].any()
    nothing = (task, prediction[-1:], target[-1:], soft[-1:])
    *_, loss, gradient = losses_and_gradients(nothing, prediction[-1:], soft[-1:], 2)
    assert loss == 0
    assert not gradient.any()


@EACH
@pytest.mark.parametrize("temperature", [0.5, 1, 3])
def test_who_agrees_with_its_teacher_has_nothing_to_learn(case: Case, temperature: float) -> None:
    task, prediction, target, _ = case
    soft = task.soft_targets([prediction], temperature)
    *_, gradient = losses_and_gradients(case, prediction, soft, temperature)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)
    away = task.soft_loss(prediction + draw(*prediction.shape), soft, target, temperature)
    assert away > task.soft_loss(prediction, soft, target, temperature)


LOGIT, TEACHER = 2.0, 4.0
KD_AT_2 = -4 * (
    math.log(1 / (1 + math.exp(-1))) / (1 + math.exp(-2))
    + math.log(1 / (1 + math.exp(1))) / (1 + math.exp(2))
)
"""Two classes whose logits differ by 2, a teacher's by 4, at temperature 2: T^2 times the
cross-entropy of sigmoid(1) to sigmoid(2): 1.729858."""


@pytest.mark.parametrize(
    ("task", "shape", "target"),
    [
        (Classification(name="t", classes=2), (1, 2), [0]),
        (Segmentation(name="t", classes=2), (1, 2, 1, 1), [[[1]]]),
        (Tagging(name="t", classes=2), (1, 1, 2), [[1]]),
        (Binary(name="t"), (1, 1), [0.0]),
        (MultiLabel(name="t", labels=1), (1, 1), [[1.0]]),
        (Ordinal(name="t", classes=2), (1, 1), [1]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Task) else "",
)
def test_the_loss_at_temperature_2_by_hand(
    task: Task, shape: tuple[int, ...], target: object
) -> None:
    def logits(difference: float) -> Tensor:
        pair = [difference, 0.0] if math.prod(shape) == 2 else [difference]
        return torch.tensor(pair).view(shape)

    soft = task.soft_targets([logits(TEACHER)], 2)
    assert soft.flatten()[0] == pytest.approx(1 / (1 + math.exp(-2)))
    loss = task.soft_loss(logits(LOGIT), soft, torch.tensor(target), 2)
    assert loss.item() == pytest.approx(KD_AT_2)


def test_probabilities_are_averaged_and_not_logits() -> None:
    task = Binary(name="t")
    soft = task.soft_targets([torch.tensor([[0.0]]), torch.tensor([[2 * math.log(3)]])], 2)
    assert soft.item() == pytest.approx((1 / 2 + 3 / 4) / 2)
    several = Classification(name="t", classes=2)
    pair = [torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])]
    assert several.soft_targets(pair, 1).tolist() == [[pytest.approx(0.375), pytest.approx(0.625)]]


def test_values_are_averaged_in_the_targets_units() -> None:
    regression = Regression(name="t", center=10, scale=4)
    predictions = [torch.tensor([[1.0]]), torch.tensor([[2.0]])]
    assert regression.soft_targets(predictions, 1).tolist() == [[16.0]]
    maps = [torch.full((1, 1, 1, 1), metres) for metres in (1.0, -3.0)]
    depth = Depth(name="t")
    behind = depth.soft_targets(maps, 1)
    assert behind.tolist() == [[[-1.0]]]
    # A pixel counts for its label, wherever the teachers see it
    assert depth.soft_loss(maps[0], behind, torch.ones(1, 1, 1), 1) == 2
    vectors = [torch.tensor([5.0, 0, 0]), torch.tensor([0, 0, 0.2])]
    normals = SurfaceNormals(name="t")
    soft = normals.soft_targets([vector.view(1, 3, 1, 1) for vector in vectors], 1)
    assert soft.flatten().tolist() == [0.5, 0, 0.5]  # their lengths say nothing
    loss = normals.soft_loss(vectors[0].view(1, 3, 1, 1), soft, torch.ones(1, 3, 1, 1), 1)
    assert loss.item() == pytest.approx(1 - math.sqrt(0.5))


@EACH
def test_nothing_is_read_back(case: Case) -> None:
    task, prediction, target, _ = case
    with NothingReadBack():
        soft = task.soft_targets([prediction.bfloat16(), prediction], 2)
        loss = task.soft_loss(prediction.bfloat16(), soft, target, 2)
    assert loss.dtype == soft.dtype == torch.float32
