"""What predictions say in the user's terms, by hand."""

import math
from io import BytesIO
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mtlrun.inference.answers import answers, maps, meaning
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


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def said(task: Task, prediction: list, lengths: list[int] | None = None) -> dict[str, list[str]]:
    found = answers(task, torch.tensor(prediction), lengths or [])
    return {name: [cell[:6] for cell in cells] for name, cells in found.items()}


def test_classes_and_their_probabilities() -> None:
    task = Classification(name="t", classes=3, class_names=["a", "b", "c"])
    rows = [[math.log(p) for p in shares] for shares in ((0.2, 0.5, 0.3), (0.7, 0.2, 0.1))]
    found = said(task, rows)
    assert found[""] == ["b", "a"]
    shares = [[float(cell) for cell in found[f"p({name})"]] for name in "abc"]
    np.testing.assert_allclose(shares, [[0.2, 0.7], [0.5, 0.2], [0.3, 0.1]], rtol=1e-4)
    assert len(found) == 4


def test_yes_and_no_ordered_classes_and_labels() -> None:
    found = said(Binary(name="t", class_names=["no", "yes"]), [[logit(0.75)], [logit(0.25)]])
    assert found == {"": ["yes", "no"], "p(no)": ["0.25", "0.75"], "p(yes)": ["0.75", "0.25"]}
    ordinal = Ordinal(name="t", classes=3, class_names=["low", "mid", "high"])
    found = said(ordinal, [[logit(0.75), logit(0.25)], [logit(0.9), logit(0.6)]])
    assert found == {
        "": ["mid", "high"],
        "p(above low)": ["0.75", "0.9"],
        "p(above mid)": ["0.25", "0.6"],
    }
    labels = MultiLabel(name="t", labels=2, label_names=["wet", "cold"])
    found = said(labels, [[logit(0.75), logit(0.9)], [logit(0.1), logit(0.25)]])
    assert found == {"": ["wet;co", ""], "p(wet)": ["0.75", "0.1"], "p(cold)": ["0.9", "0.25"]}


def test_numbers_are_in_the_units_of_the_target() -> None:
    task = Regression(name="t", center=200.0, scale=50.0)
    assert said(task, [[1.0], [-0.5]]) == {"": ["250", "175"]}
    several = Regression(name="t", outputs=2, center=[0.0, 10.0], scale=[1.0, 2.0])
    assert said(several, [[1.0, -1.0]]) == {"output(0)": ["1"], "output(1)": ["8"]}
    assert meaning(task)["center"] == [200.0]


def test_tags_of_the_tokens_that_are_there() -> None:
    task = Tagging(name="t", classes=2, class_names=["O", "B-x"])
    prediction = [[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]]
    assert answers(task, torch.tensor(prediction), [3, 1]) == {"": ["O B-x B-x", "B-x"]}


class Own(Task):
    """A task of the user's own."""

    metrics: ClassVar = {}

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor: ...
    def labelled(self, target: Tensor) -> Tensor: ...
    def statistics(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]: ...
    def compute(self, statistics: dict[str, Tensor]) -> dict[str, float]: ...


def test_an_own_task_gives_what_its_head_gives_and_a_subclass_what_its_base_does() -> None:
    assert said(Own(name="t"), [[0.5, 2.0]]) == {"output(0)": ["0.5"], "output(1)": ["2"]}

    class Finer(Classification): ...

    assert said(Finer(name="t", classes=2), [[0.0, 9.0]])[""] == ["1"]
    assert "softmax" in str(meaning(Finer(name="t", classes=2))["prediction"])


def opened(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content))


def test_pictures_hold_the_classes_and_numbers() -> None:
    task = Segmentation(name="t", classes=4)
    classes = torch.tensor([[[0, 3], [2, 1]]])
    (files,) = maps(task, torch.nn.functional.one_hot(classes, 4).permute(0, 3, 1, 2).float())
    picture = opened(files[".png"])
    assert picture.mode == "P"
    assert np.asarray(picture).tolist() == classes[0].tolist()
    shown = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    assert shown.tolist() == task.picture(classes)[0].tolist()

    metres = torch.tensor([[[[0.5, 2.0], [10.0, 4.0]]]])
    (files,) = maps(Depth(name="t"), metres)
    held = np.load(BytesIO(files[".npy"]))
    assert held.dtype == np.float32
    assert held.tolist() == metres[0, 0].tolist()
    assert opened(files["_preview.png"]).size == (2, 2)

    axes = torch.eye(3)[:, :2].reshape(1, 3, 2, 1) * 7  # x and y, of any length
    (files,) = maps(SurfaceNormals(name="t"), axes)
    assert np.asarray(opened(files[".png"])).tolist() == [[[255, 128, 128]], [[128, 255, 128]]]


def test_more_classes_than_a_palette_has() -> None:
    classes = 300
    prediction = torch.zeros(1, classes, 1, 1)
    prediction[0, classes - 1] = 1
    task = Segmentation(name="t", classes=classes, ignore_index=-1)
    (files,) = maps(task, prediction)
    assert np.load(BytesIO(files[".npy"])).tolist() == [[classes - 1]]
