"""``mtlrun export``."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from mtlrun.engine.device import cpu_threads
from mtlrun.errors import UserError
from mtlrun.inference.formats import FORMATS, Format, Names, captured, quiet, runs
from mtlrun.inference.network import (
    SHORTEST,
    AllHeads,
    Extent,
    description,
    input_names,
    longest,
    rows_to_try,
)
from mtlrun.inference.options import parser_of, run_of
from mtlrun.inference.trained import TrainedRun

LARGEST_DIFFERENCE = 1e-4
"""Beside the largest prediction of a task."""

EXAMPLE_ROWS = 4
CHECKED_ROWS = (4, 7, 1)
"""Rows of the batches that a file of any batch size is checked on."""

EXAMPLES = """\
  mtlrun export outputs/default/digits/equal/seed=0 --format torch_export      model.pt2 in RUN
  mtlrun export RUN --format onnx -o digits.onnx
  mtlrun export RUN --format onnx --batch 16                                   batches of 16 only
"""


@dataclass(frozen=True)
class Difference:
    """How far a file's predictions are from the network's.

    Attributes:
        absolute: the largest difference of any element.
        relative: beside the largest absolute prediction of the task.
    """

    absolute: float
    relative: float


def export_command(arguments: list[str]) -> int:
    """Write a finished run's network, with all heads, to one file that other programs run.

    Args:
        arguments: what follows ``mtlrun export``.

    Returns:
        the exit code.

    Raises:
        UserError: the run cannot be used, its network cannot be exported, or the file's predictions
            are not the network's.
    """
    parser = parser_of(
        "export", "A finished run's network as one file, checked against it.", EXAMPLES
    )
    parser.add_argument("--format", choices=tuple(FORMATS), required=True)
    parser.add_argument(
        "--batch", metavar="N", type=_batch, default=None, help="dynamic (default), or a number"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="else model.pt2 or model.onnx in RUN"
    )
    options = parser.parse_args(arguments)
    chosen = FORMATS[options.format]
    path = options.output or options.run / f"model{chosen.ending}"
    if path.suffix != chosen.ending:
        raise UserError(f"-o {path}: --format {options.format} ends in {chosen.ending}.")
    run = run_of(options, "cpu")
    for remark in run.stored.remarks:
        print(remark, file=sys.stderr)
    with cpu_threads(run.threads), quiet():
        differences = export(run, path, chosen, options.batch)
    for name, found in differences.items():
        print(f"{name}: differs by {found.absolute:.2g} at most ({found.relative:.2g} relative)")
    print(f"Written to {path}.")
    return 0


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: use dynamic, or a number from 1 on")


@torch.no_grad()
def export(run: TrainedRun, path: Path, chosen: Format, batch: int | None) -> dict[str, Difference]:
    """Write a network to a file, run the file on test rows, and compare.

    Args:
        run: the run, on the CPU.
        path: the file; nothing is left there where the comparison fails.
        chosen: its format.
        batch: rows of every batch, or None for any number.

    Returns:
        for each task how far the file's predictions are from the network's.

    Raises:
        UserError: see :func:`export_command`.
    """
    network = AllHeads(run.model, run.dataset.streams).eval()
    program, extent = _program(run, network, batch)
    outputs = network(*rows_to_try(run, 0, batch or EXAMPLE_ROWS, extent.length))
    unfinished = path.with_name(f"unfinished-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        names = Names(tuple(input_names(run).values()), run.model.tasks, _axes(run, extent))
        chosen.write(unfinished, program, names, description(run, extent, outputs))
        differences = _compared(run, network, unfinished, chosen, extent)
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return differences


def _program(
    run: TrainedRun, network: AllHeads, batch: int | None
) -> tuple[ExportedProgram, Extent]:
    """The network as a program, and the sizes of inputs that it takes.

    Rows of tokens may have any length where the network does not turn it into a constant, as
    recurrent ones do; else they have the length of the longest row.
    """
    own: dict[int, Any] = {} if batch is not None else {0: Dim.DYNAMIC}
    rows = batch or EXAMPLE_ROWS
    most = longest(run)
    if most is not None:
        any_length = {**own, 1: Dim.AUTO}
        example = rows_to_try(run, 0, rows, None)
        program = captured(network, example, [any_length] * len(example))
        others = [
            tuple(each[:, :1].expand(-1, size) for each in example) for size in (SHORTEST, most)
        ]
        if all(runs(program, other) for other in others):
            return program, Extent(batch)
    example = rows_to_try(run, 0, rows, most)
    return captured(network, example, [own] * len(example)), Extent(batch, most)


def _axes(run: TrainedRun, extent: Extent) -> list[dict[int, str]]:
    """For each stream the names of the axes of any length."""
    several = len(run.dataset.streams) > 1
    axes = []
    for stream in run.dataset.streams:
        own = {} if extent.rows is not None else {0: "batch"}
        if longest(run) is not None and extent.length is None:
            own[1] = "length"
        axes.append({at: f"{name}_{stream}" if several else name for at, name in own.items()})
    return axes


def _compared(
    run: TrainedRun, network: AllHeads, path: Path, chosen: Format, extent: Extent
) -> dict[str, Difference]:
    """The largest differences over some batches of test rows.

    Raises:
        UserError: one is too large.
    """
    sizes = CHECKED_ROWS if extent.rows is None else (extent.rows, extent.rows)
    found: dict[str, Difference] = {}
    start = 0
    for rows in sizes:
        inputs = rows_to_try(run, start, rows, extent.length)
        start += rows
        wanted = network(*inputs)
        given = chosen.run(path, dict(zip(input_names(run).values(), inputs, strict=True)))
        for name in run.model.tasks:
            here = _difference(given[name], wanted[name])
            before = found.get(name, here)
            found[name] = Difference(
                max(before.absolute, here.absolute), max(before.relative, here.relative)
            )
    _check(found, path)
    return found


def _difference(given: Tensor, wanted: Tensor) -> Difference:
    absolute = float((given.double() - wanted.double()).abs().max())
    largest = float(wanted.double().abs().max())
    return Difference(absolute, absolute / largest if largest else absolute)


def _check(found: Mapping[str, Difference], path: Path) -> None:
    for name, difference in found.items():
        if not difference.relative <= LARGEST_DIFFERENCE:  # true for NaN too
            raise UserError(
                f"The exported file gives other predictions than the network: {name} differs by "
                f"{difference.absolute:.2g}, {difference.relative:.2g} beside its largest "
                f"prediction, where {LARGEST_DIFFERENCE:g} is allowed. {path.name} was removed. "
                "Try the other format, or --batch N."
            )
