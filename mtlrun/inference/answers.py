"""Predictions in the user's terms: names of classes, probabilities, units, pictures.

What there is to say of a kind of task is said once, in :func:`answers` for tasks of a row or token,
and in :func:`maps` for those of a pixel. A task of the user's own that extends none of ours gives
what its head gives.
"""

from collections.abc import Mapping, Sequence
from functools import singledispatch
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

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

ANSWER = ""
"""The column of the answer itself."""

PALETTE = 256
"""Classes that a picture with a palette can hold."""

Columns = dict[str, list[str]]
Files = dict[str, bytes]


# -- tasks of a row or token -----------------------------------------------------------------------


@singledispatch
def answers(task: Task, prediction: Tensor, lengths: Sequence[int]) -> Columns:
    """What a batch's predictions say, as columns of text: the answer first, then more of it.

    Args:
        task: of a row or a token.
        prediction: what its head gives, [N, ...], on the CPU.
        lengths: for rows of tokens how many each has; else empty.
    """
    del task, lengths
    values = prediction.flatten(1)
    return {f"output({number})": _numbers(values[:, number]) for number in range(values.shape[1])}


@answers.register
def _(task: Classification, prediction: Tensor, lengths: Sequence[int]) -> Columns:
    del lengths
    shares = prediction.double().softmax(1)
    chosen = [task.class_names[number] for number in prediction.argmax(1).tolist()]
    return {ANSWER: chosen, **_probabilities(task.class_names, shares)}


@answers.register
def _(task: Binary, prediction: Tensor, lengths: Sequence[int]) -> Columns:
    del lengths
    logits = prediction.double().flatten()
    chosen = [task.class_names[int(logit > 0)] for logit in logits.tolist()]
    shares = torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)
    return {ANSWER: chosen, **_probabilities(task.class_names, shares)}


@answers.register
def _(task: Ordinal, prediction: Tensor, lengths: Sequence[int]) -> Columns:
    del lengths
    chosen = [task.class_names[number] for number in (prediction > 0).sum(1).tolist()]
    above = prediction.double().sigmoid()
    columns = {
        f"p(above {name})": _numbers(above[:, place])
        for place, name in enumerate(task.class_names[:-1])
    }
    return {ANSWER: chosen, **columns}


@answers.register
def _(task: MultiLabel, prediction: Tensor, lengths: Sequence[int]) -> Columns:
    del lengths
    held = [
        ";".join(name for name, logit in zip(task.label_names, row, strict=True) if logit > 0)
        for row in prediction.tolist()
    ]
    return {ANSWER: held, **_probabilities(task.label_names, prediction.double().sigmoid())}


@answers.register
def _(task: Regression, prediction: Tensor, lengths: Sequence[int]) -> Columns:
    del lengths
    center, scale = (constants.on(prediction.device) for constants in (task.center, task.scale))
    values = prediction.double() * scale + center
    if values.shape[1] == 1:
        return {ANSWER: _numbers(values[:, 0])}
    return {f"output({number})": _numbers(values[:, number]) for number in range(values.shape[1])}


@answers.register
def _(task: Tagging, prediction: Tensor, lengths: Sequence[int]) -> Columns:
    chosen = prediction.argmax(2).tolist()
    return {
        ANSWER: [
            " ".join(task.class_names[number] for number in row[:length])
            for row, length in zip(chosen, lengths, strict=True)
        ]
    }


def _probabilities(names: Sequence[str], shares: Tensor) -> Columns:
    """A column a class, [N, classes]."""
    return {f"p({name})": _numbers(shares[:, place]) for place, name in enumerate(names)}


def _numbers(values: Tensor) -> list[str]:
    """Float64 or float32 [N], with the digits that float32 has."""
    return [f"{value:.7g}" for value in values.tolist()]


# -- tasks of a pixel ------------------------------------------------------------------------------


@singledispatch
def maps(task: Task, prediction: Tensor) -> list[Files]:
    """For each row of a batch the files to write, by the end of their names; the answer first.

    Args:
        task: of a pixel.
        prediction: what its head gives, [N, C, H, W], on the CPU.
    """
    del task
    return [{".npy": _array(row)} for row in prediction]


@maps.register
def _(task: Segmentation, prediction: Tensor) -> list[Files]:
    """The number of each pixel's class, shown in the colours of TensorBoard's pictures."""
    classes = prediction.argmax(1)
    if task.output_size > PALETTE:
        return [{".npy": _array(row.to(torch.int32))} for row in classes]
    colours = task.colours[: task.output_size].flatten().tolist()
    return [{".png": _with_palette(row.to(torch.uint8).numpy(), colours)} for row in classes]


@maps.register
def _(task: Depth, prediction: Tensor) -> list[Files]:
    """The distance in the unit of the data, float32 [H, W], and a picture of it."""
    pictures = task.picture(prediction)
    return [
        {".npy": _array(row[0].float()), "_preview.png": _picture(shown)}
        for row, shown in zip(prediction, pictures, strict=True)
    ]


@maps.register
def _(task: SurfaceNormals, prediction: Tensor) -> list[Files]:
    """Unit vectors, each axis from -1 (0) to 1 (255)."""
    return [{".png": _picture(shown)} for shown in task.picture(prediction)]


def _array(values: Tensor) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values.numpy())
    return buffer.getvalue()


def _with_palette(classes: npt.NDArray[np.uint8], colours: Sequence[int]) -> bytes:
    image = Image.fromarray(classes)
    image.putpalette(list(colours))  # which turns grey levels into places in the palette
    return _png(image)


def _picture(pixels: Tensor) -> bytes:
    """Of uint8 [3, H, W]."""
    return _png(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()))


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


# -- what an exported network says of itself -------------------------------------------------------


def meaning(task: Task) -> Mapping[str, object]:
    """How a task's raw predictions are to be read, as plain data."""
    kind = type(task)
    said: dict[str, object] = {"kind": f"{kind.__module__}.{kind.__qualname__}", "per": task.per}
    for name in ("class_names", "label_names"):
        names = getattr(task, name, None)
        if names is not None:
            said[name] = list(names)
    return {**said, **_reading(task)}


@singledispatch
def _reading(task: Task) -> Mapping[str, object]:
    del task
    return {"prediction": "what the task's head gives"}


@_reading.register(Classification)
@_reading.register(Segmentation)
@_reading.register(Tagging)
def _(task: Task) -> Mapping[str, object]:
    axis = {"row": 1, "pixel": 1, "token": 2}[task.per]
    return {"prediction": f"logits of the classes along axis {axis}: softmax, or the largest"}


@_reading.register(Binary)
@_reading.register(MultiLabel)
def _(task: Task) -> Mapping[str, object]:
    del task
    return {"prediction": "logits: sigmoid; yes above 0"}


@_reading.register
def _(task: Ordinal) -> Mapping[str, object]:
    del task
    return {
        "prediction": "logits of being above each class but the last: the class is their number "
        "above 0"
    }


@_reading.register
def _(task: Regression) -> Mapping[str, object]:
    return {
        "prediction": "standardised values: value * scale + center",
        "center": list(task.center.values),
        "scale": list(task.scale.values),
    }


@_reading.register
def _(task: Depth) -> Mapping[str, object]:
    del task
    return {"prediction": "distance of each pixel in the unit of the data"}


@_reading.register
def _(task: SurfaceNormals) -> Mapping[str, object]:
    del task
    return {"prediction": "vectors of any length along axis 1: x, y, z"}
