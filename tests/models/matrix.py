"""Real rows, small backbones and heads for the table of architectures, backbones and weightings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import architecture_cases
import backbone_inputs
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from mtlrun.models.architectures.base import Architecture
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.heads.base import Head
from mtlrun.models.heads.conv import ConvHead
from mtlrun.models.heads.linear import LinearHead
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.tasks.classification import Classification
from mtlrun.tasks.depth import Depth
from mtlrun.tasks.regression import Regression
from mtlrun.tasks.segmentation import Segmentation
from mtlrun.types import InputKind, OutputShape, StreamBatch

ROWS, SIDE, WORDS = 8, 16, 60
EPOCHS = 8
STREAM = "rows"
README = Path(__file__).parents[2] / "README.md"


@dataclass(frozen=True)
class Case:
    """A backbone with what it reads and is asked for.

    Attributes:
        settings: of the backbone.
        kind: of its inputs.
        dense: whether the tasks predict maps.
    """

    settings: Mapping[str, Any]
    kind: InputKind = "values"
    dense: bool = False


CASES: Mapping[str, Case] = {
    "mlp": Case({"input_shape": (64,), "hidden": (8, 8)}),
    "lenet": Case({"input_shape": (1, SIDE, SIDE)}),
    "text_cnn": Case({"vocabulary": WORDS, "embedding": 6, "maps": 4, "widths": (2, 3)}, "tokens"),
    "lstm": Case({"vocabulary": WORDS, "embedding": 6, "hidden": 4, "layers": 2}, "tokens"),
    "resnet18": Case({"input_shape": (1, SIDE, SIDE), "width": 4, "small_input": True}),
    "segnet": Case({"input_shape": (1, SIDE, SIDE), "widths": (4, 6)}, dense=True),
    "vit": Case(
        {"input_shape": (1, SIDE, SIDE), "width": 8, "depth": 3, "attention_heads": 2}, dense=True
    ),
}


@cache
def digits() -> tuple[Tensor, Tensor]:
    """The first rows of scikit-learn's digits: images [N, 1, 8, 8] in [0, 1], and classes [N]."""
    images, classes = load_digits(return_X_y=True)
    rows = torch.tensor(images[:ROWS], dtype=torch.float32).view(-1, 1, 8, 8) / 16
    return rows, torch.tensor(classes[:ROWS])


@cache
def lines() -> tuple[Tensor, Tensor]:
    """Lines of a real text: words by frequency, [N, L], 0 at the end of a row; their lengths."""
    found = [line.split()[:12] for line in README.read_text().splitlines() if len(line) > 40]
    frequent = [word for line in found for word in line]
    common = sorted(set(frequent), key=lambda word: (-frequent.count(word), word))
    numbers = {word: number for number, word in enumerate(common[: WORDS - 2], start=2)}
    tokens = torch.zeros(ROWS, 12, dtype=torch.int64)
    for row, line in enumerate(found[:ROWS]):
        for place, word in enumerate(line[: 6 + row % 7]):
            tokens[row, place] = numbers.get(word, 1)
    return tokens, (tokens != 0).sum(1).float()


def batch_of(case: Case) -> StreamBatch:
    """Real rows with labels for two tasks."""
    if case.kind == "tokens":
        tokens, lengths = lines()
        targets = {"first": (lengths > 9).long(), "second": lengths / 12}
        return StreamBatch(tokens, targets, ("first", "second"))
    images, classes = digits()
    large = F.interpolate(images, size=(SIDE, SIDE))
    if case.dense:
        ink = large.squeeze(1)
        targets = {"first": (ink > 0.5).long(), "second": 0.5 + ink.unsqueeze(1)}
        return StreamBatch(large, targets, ("first", "second"))
    flat = len(case.settings["input_shape"]) == 1
    targets = {"first": classes, "second": images.mean((1, 2, 3)) * 4}
    return StreamBatch(images.flatten(1) if flat else large, targets, ("first", "second"))


def tasks_of(case: Case) -> dict[str, Task]:
    """Two tasks of different kinds."""
    if case.dense:
        return {"first": Segmentation(name="first", classes=2), "second": Depth(name="second")}
    classes = 2 if case.kind == "tokens" else 10
    return {
        "first": Classification(name="first", classes=classes),
        "second": Regression(name="second"),
    }


def architecture_on(name: str, backbone: str) -> Architecture:
    """The architecture on the backbone; ValueError where it does not fit."""
    case = CASES[backbone]
    tasks = tasks_of(case)
    size = (SIDE, SIDE) if case.dense else None
    shape = case.settings.get("input_shape", (12,))

    def make(copy: int) -> Backbone:
        torch.manual_seed(copy)
        made = backbone_inputs.build(backbone, **case.settings)
        return architecture_cases.reseeded(made, copy)

    return architecture_cases.build(
        name,
        {STREAM: tuple(tasks)},
        backbone,
        make=make,
        small=True,
        epochs=EPOCHS,
        input_kind=case.kind,
        input_shape=tuple(shape),
        outputs={
            task: OutputShape(kind.output_size, kind.per, size) for task, kind in tasks.items()
        },
    )


def model_on(name: str, backbone: str) -> MultiTaskModel:
    """A whole network."""
    case = CASES[backbone]
    architecture = architecture_on(name, backbone)
    torch.manual_seed(1)
    heads: dict[str, Head] = {}
    for task, kind in tasks_of(case).items():
        facts: dict[str, Any] = {
            "in_channels": architecture.out_channels(task),
            "out_channels": kind.output_size,
            "layout": architecture.layout(task),
        }
        heads[task] = (
            ConvHead(**facts, size=(SIDE, SIDE), depth=0) if case.dense else LinearHead(**facts)
        )
    return MultiTaskModel(architecture, heads)


def table(cells: Mapping[tuple[str, str], str], names: Sequence[str]) -> str:
    """The table of README, in Markdown."""
    lines = [f"| architecture | {' | '.join(CASES)} |", f"|---|{'---|' * len(CASES)}"]
    lines += [f"| `{name}` | {' | '.join(cells[name, b] for b in CASES)} |" for name in names]
    return "\n".join(lines)
