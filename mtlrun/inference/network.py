"""A trained network as one module of tensors, what its file says of it, and rows to try it on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlrun import __version__
from mtlrun.inference.answers import meaning
from mtlrun.inference.trained import TrainedRun
from mtlrun.models.model import MultiTaskModel

METADATA_FORMAT = 1

SHORTEST = 2
"""Tokens of a row, at least: an exported program takes a length of 1 for a case of its own."""


@dataclass(frozen=True)
class Extent:
    """Which sizes of inputs an exported network takes.

    Attributes:
        rows: of every batch, or None for any number.
        length: tokens of every row; None for any number from 2 to the longest, and where inputs are
            no tokens.
    """

    rows: int | None
    length: int | None = None


class AllHeads(nn.Module):
    """All predictions of a network, from a tensor for each stream, in their order.

    Args:
        model: the network.
        streams: for each stream its tasks.
    """

    def __init__(self, model: MultiTaskModel, streams: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.model = model
        self.streams = tuple(streams)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Raw predictions by task.

        Args:
            inputs: for each stream its inputs, [N, ...], as the dataset's transform gives them.
        """
        made: dict[str, Tensor] = self.model(
            dict(zip(self.streams, inputs, strict=True)), self.model.tasks
        )
        return made


def input_names(run: TrainedRun) -> dict[str, str]:
    """For each stream what the file calls its inputs; no task is called so, as its output is."""
    names = {}
    for stream in run.dataset.streams:
        name = "inputs" if len(run.dataset.streams) == 1 else f"inputs_{stream}"
        while name in run.tasks:
            name += "_"
        names[stream] = name
    return names


def longest(run: TrainedRun) -> int | None:
    """Tokens of the longest row where inputs are rows of tokens, else None."""
    for stream, kind in run.dataset.input_kind.items():
        if kind in ("tokens", "bags"):
            return max(SHORTEST, run.dataset.input_shape[stream][0])
    return None


def rows_to_try(run: TrainedRun, start: int, count: int, length: int | None) -> tuple[Tensor, ...]:
    """For each stream inputs of the network from rows of the test split, on the CPU.

    Args:
        run: the run.
        start: the first row, beginning anew where the split ends; likewise the others.
        count: of rows.
        length: tokens that rows are filled up to, or None for those of the batch's longest row.
    """
    made = []
    for stream, source in run.dataset.splits["test"].items():
        rows = (torch.arange(count) + start) % len(source)
        inputs, targets = source.rows(rows)
        inputs, _ = run.dataset.transform(stream, inputs, targets, None)
        if longest(run) is not None:
            wanted = max(SHORTEST, inputs.shape[1]) if length is None else length
            inputs = F.pad(inputs, (0, wanted - inputs.shape[1]))
        made.append(inputs)
    return tuple(made)


def description(run: TrainedRun, extent: Extent, outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the file says of the network, as plain data.

    Args:
        run: the run.
        extent: the sizes of inputs that the file takes.
        outputs: predictions of some batch.
    """
    result = run.stored.result
    rows: int | str = "batch" if extent.rows is None else extent.rows
    length: int | str = "length" if extent.length is None else extent.length
    names = input_names(run)
    return {
        "format": METADATA_FORMAT,
        "mtlrun": __version__,
        "dataset": result.get("dataset"),
        "method": result.get("method"),
        "seed": result.get("seed"),
        "epoch": run.epoch,
        "inputs": {
            names[stream]: _input(run, stream, rows, length) for stream in run.dataset.streams
        },
        "outputs": {
            name: {**meaning(task), "shape": _output_shape(rows, length, task.per, outputs[name])}
            for name, task in run.tasks.items()
        },
    }


def _input(run: TrainedRun, stream: str, rows: int | str, length: int | str) -> dict[str, Any]:
    """What a stream's inputs are."""
    dataset = run.dataset
    shape = dataset.input_shape[stream]
    said: dict[str, Any] = {"stream": stream, "tasks": list(dataset.streams[stream])}
    kind = dataset.input_kind.get(stream, "values")
    if longest(run) is None:
        said |= {"kind": kind, "dtype": "float32", "shape": [rows, *shape]}
    else:
        said |= {"kind": kind, "dtype": "int64", "shape": [rows, length]}
        sizes = f"{SHORTEST} to {longest(run)}" if length == "length" else f"{length}"
        said |= {"length": f"{sizes} tokens; shorter rows are filled up with 0 at their end"}
    said |= dataset.input_facts.get(stream, {})
    if dataset.normalisation:
        means = {name: list(values) for name, values in dataset.normalisation.items()}
        said["normalisation"] = {"of": "(pixel from 0 to 1 - mean) / deviation", **means}
    return said


def _output_shape(rows: int | str, length: int | str, per: str, output: Tensor) -> list[int | str]:
    inner: list[int | str] = list(output.shape[1:])
    return [rows, length, *inner[1:]] if per == "token" else [rows, *inner]
