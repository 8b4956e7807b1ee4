"""``mtlrun predict``."""

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from mtlrun.data.base import NewInputs
from mtlrun.durable import write_output
from mtlrun.engine.device import cpu_threads
from mtlrun.errors import UserError, did_you_mean
from mtlrun.inference.answers import ANSWER, answers, maps
from mtlrun.inference.files import InputFile, chunks, find_inputs, read_ahead
from mtlrun.inference.options import add_device, check_output, parser_of, run_of
from mtlrun.inference.trained import TrainedRun
from mtlrun.types import StreamBatch

TABLE = "predictions.csv"
SHOWN = 20
"""Files that could not be read, and remarks, at most."""

ENCODING = (
    *("celeba", "census_income", "cifar10", "cityscapes", "digits", "fdu_mtl", "movie_yelp"),
    *("multimnist", "nyuv2", "office31", "office_home", "snips"),
)
"""Shipped datasets that read new inputs; beside them ``images`` and ``table``."""

EXAMPLES = """\
  mtlrun predict RUN --input photo.jpg frames/ -o answers        images: files and folders
  mtlrun predict RUN --input new_houses.csv -o prices.csv        rows of a table
  mtlrun predict RUN --input reviews.txt --task books -o out     a text a line
"""

Columns = dict[str, list[str]]


def predict_command(arguments: list[str]) -> int:
    """Write the predictions of a finished run's network for new inputs.

    Args:
        arguments: what follows ``mtlrun predict``.

    Returns:
        0; or 1 where some of the inputs could not be read, the others being written.

    Raises:
        UserError: the run cannot be used, its dataset reads no new inputs, or nothing is there.
    """
    parser = parser_of(
        "predict", "Predictions of a finished run's network for new inputs.", EXAMPLES
    )
    add_device(parser)
    parser.add_argument(
        "--input", metavar="PATH", nargs="+", type=Path, required=True, help="files and folders"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True, help="a folder, or a .csv file"
    )
    parser.add_argument(
        "--task", metavar="TASK", action="append", default=[], help="predict these only: A,B"
    )
    parser.add_argument("--column", metavar="NAME", help="of texts in a table (else text)")
    options = parser.parse_args(arguments)
    run = run_of(options, options.device)
    kind = run.dataset.new_inputs
    if kind is None:
        raise UserError(_no_new_inputs(run))
    if options.column is not None and kind != "texts":
        raise UserError(f"--column goes with texts, and this run's dataset reads {kind}.")
    tasks = chosen_tasks(run, asked_names(options.task, list(run.tasks)))
    output = Output(options.output, run, [name for names in tasks.values() for name in names])
    if output.dense and any(output.folder.resolve() == path.resolve() for path in options.input):
        raise UserError(
            f"-o {output.folder} is a folder of inputs, and pictures are written: the next time "
            "they would be inputs. Name another folder."
        )
    made = [output.folder, output.table] if output.dense else [output.table]
    files, remarks = find_inputs(options.input, kind, made, apart=output.dense)
    output.kept = {file.path.resolve() for file in files}
    for remark in [*run.stored.remarks, *remarks]:
        print(remark, file=sys.stderr)
    with cpu_threads(run.threads):
        failures, remarks = _predict(run, tasks, files, output, options.column)
    written = output.close()
    _report(written, failures, len(files), remarks)
    return 1 if failures else 0


def asked_names(asked: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """Each name given, or those between its commas, which a name may have itself."""
    return [name for given in asked for name in ([given] if given in tasks else given.split(","))]


def _no_new_inputs(run: TrainedRun) -> str:
    name = run.stored.result.get("dataset") or type(run.dataset).__name__
    return (
        f"mtlrun predict has no way from new files to inputs of dataset={name}. It has one for "
        f"{', '.join(ENCODING)}, for dataset=images and dataset=table of your own, and for "
        "datasets of your own whose class has a method encode (see mtlrun.data.base.Dataset). "
        "mtlrun export writes the network itself."
    )


def chosen_tasks(run: TrainedRun, asked: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each stream that is to be predicted its tasks.

    Raises:
        UserError: there is no such task; or there are several streams, and no task is asked for.
    """
    streams = run.dataset.streams
    for name in asked:
        if name not in run.tasks:
            raise UserError(
                f"--task {name}: this run has no such task. {did_you_mean(name, run.tasks)}"
            )
    if asked:
        found = {
            stream: tuple(task for task in names if task in asked)
            for stream, names in streams.items()
        }
        return {stream: names for stream, names in found.items() if names}
    if len(streams) > 1:
        raise UserError(
            f"The inputs of this run's tasks come from {len(streams)} streams: say which tasks the "
            f"new inputs are for, such as --task {next(iter(run.tasks))}. The tasks are "
            f"{', '.join(run.tasks)}."
        )
    return dict(streams)


# -- the work --------------------------------------------------------------------------------------


def _predict(
    run: TrainedRun,
    tasks: Mapping[str, Sequence[str]],
    files: Sequence[InputFile],
    output: "Output",
    column: str | None,
) -> tuple[list[tuple[Path, UserError]], list[str]]:
    """Predict file by file, images in batches.

    Returns:
        the files that could not be read, and why; and remarks on the others.
    """
    remarks: list[str] = []
    failures: list[tuple[Path, UserError]] = []
    together = run.batch_size if run.dataset.new_inputs == "images" else 1
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("Predicting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )

    def read(file: InputFile) -> dict[str, NewInputs]:
        return {stream: run.dataset.encode(file.path, stream, column) for stream in tasks}

    run.model.architecture.start_evaluation()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    workers = cores if run.dataset.new_inputs == "images" else 1
    with progress, ThreadPoolExecutor(workers) as pool:
        bar = progress.add_task("", total=len(files))
        for part in read_ahead(chunks(files, together), read, pool):
            read_well = []
            for file, found in part:
                if isinstance(found, UserError):
                    failures.append((file.path, found))
                else:
                    read_well.append((file, found))
                    remarks += dict.fromkeys(line for new in found.values() for line in new.remarks)
            for rows, inputs in _batches(read_well, run.batch_size):
                output.add(rows, predictions(run, tasks, inputs))
            progress.advance(bar, len(part))
    return failures, remarks


Row = tuple[InputFile, int | None]


def _batches(
    part: Sequence[tuple[InputFile, Mapping[str, NewInputs]]], size: int
) -> Iterator[tuple[list[Row], dict[str, Tensor]]]:
    """Batches of the rows of some files: whose they are, and for each stream the inputs.

    Raises:
        UserError: streams have other rows of one file, so that no row could hold both.
    """
    if len(part) > 1:  # a row each
        inputs = {
            stream: torch.cat(
                [found[stream].source.rows(torch.tensor([0]))[0] for _, found in part]
            )
            for stream in part[0][1]
        }
        yield [(file, None) for file, _ in part], inputs
        return
    for file, found in part:
        places = [new.places for new in found.values()]
        if any(list(other or ()) != list(places[0] or ()) for other in places[1:]):
            raise UserError(
                f"{file.path} has other rows for each of the tasks asked for. Predict them one by "
                "one, with --task."
            )
        count = len(next(iter(found.values())).source)
        for indices in torch.arange(count).split(size):
            rows = [(file, None if places[0] is None else places[0][row]) for row in indices]
            yield rows, {stream: new.source.rows(indices)[0] for stream, new in found.items()}


@torch.inference_mode()
def predictions(
    run: TrainedRun, tasks: Mapping[str, Sequence[str]], inputs: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, list[int]]]:
    """What the network gives for a batch.

    Args:
        run: the run.
        tasks: for each stream those wanted.
        inputs: for each stream the inputs, as its sources give them, [N, ...].

    Returns:
        for each task its predictions on the CPU, [N, ...]; and the tokens of each row, where rows
        are of tokens.
    """
    found = {}
    for stream, names in tasks.items():
        batch = run.placement.batch(
            run.dataset, {stream: (inputs[stream], {})}, {stream: tuple(names)}, lambda _: None
        )
        indices = [run.forward.names.index(name) for name in names]
        features = run.forward.features(batch, indices)
        lengths = _lengths(run, stream, batch[stream])
        for index, name in zip(indices, names, strict=True):
            found[name] = run.forward.prediction(index, features[name]).cpu(), lengths
    return found


def _lengths(run: TrainedRun, stream: str, batch: StreamBatch) -> list[int]:
    if run.dataset.input_kind.get(stream, "values") != "tokens":
        return []
    lengths: list[int] = (batch.inputs != 0).sum(1).tolist()
    return lengths


# -- what is written -------------------------------------------------------------------------------


class Output:
    """Takes predictions, and writes them: a table of all rows, and files of maps beside it.

    Args:
        path: a folder; or, where no task has maps, a ``.csv`` file.
        run: the run.
        tasks: that are predicted.

    Attributes:
        folder: where files are written.
        table: the file of all rows.
        dense: whether some task has maps.
        kept: files that are never written over.

    Raises:
        UserError: the path is a file where a folder is needed, or one of the run's own files.
    """

    def __init__(self, path: Path, run: TrainedRun, tasks: Sequence[str]) -> None:
        self.tasks = {name: run.tasks[name] for name in tasks}
        dense = [name for name, task in self.tasks.items() if task.per == "pixel"]
        is_table = path.suffix.lower() == ".csv" and not path.is_dir()
        if (dense and is_table) or (path.exists() and not path.is_dir() and not is_table):
            why = f" {dense[0]} gives pictures." if dense else ""
            raise UserError(f"-o {path}: name a folder to write to.{why}")
        self.folder = path.parent if is_table else path
        self.table = path if is_table else path / TABLE
        self.dense = bool(dense)
        self.kept: set[Path] = set()
        check_output(self.table, run.stored.folder)
        self.text = io.StringIO()
        self.writer = csv.writer(self.text, lineterminator="\n")
        self.rows = self.files = 0

    def add(self, rows: Sequence[Row], found: Mapping[str, tuple[Tensor, list[int]]]) -> None:
        """Take a batch in; maps are written at once."""
        columns: Columns = {"input": [str(file.path) for file, _ in rows]}
        if rows[0][1] is not None:
            columns["row"] = [str(place) for _, place in rows]
        for name, task in self.tasks.items():
            prediction, lengths = found[name]
            if task.per == "pixel":
                columns[name] = self._write_maps(name, rows, prediction)
                continue
            for column, cells in answers(task, prediction, lengths).items():
                columns[name if column == ANSWER else f"{name}/{column}"] = cells
        if self.rows == 0:
            self.writer.writerow(columns)
        self.writer.writerows(zip(*columns.values(), strict=True))
        self.rows += len(rows)

    def _write_maps(self, name: str, rows: Sequence[Row], prediction: Tensor) -> list[str]:
        """For each row the name of the file with its answer."""
        told = []
        for (file, _), made in zip(rows, maps(self.tasks[name], prediction), strict=True):
            start = f"{file.stem}_{name.replace(os.sep, '_')}"
            for end, content in made.items():
                path = self.folder / f"{start}{end}"
                if path.resolve() in self.kept:
                    raise UserError(
                        f"{path} is an input, and an output. Name another folder by -o."
                    )
                write_output(path, content)
                self.files += 1
            told.append(f"{start}{next(iter(made))}")
        return told

    def close(self) -> str:
        """Write the table; what was written, in words, or nothing where there is no row."""
        if not self.rows:
            return ""
        write_output(self.table, self.text.getvalue().encode())
        maps_too = f", and {self.files} files beside it" if self.files else ""
        return f"Written to {self.table}: {self.rows} rows{maps_too}."


def _report(
    written: str, failures: Sequence[tuple[Path, UserError]], files: int, remarks: Sequence[str]
) -> None:
    if written:
        print(written)
    _list(remarks)
    if failures:
        print(f"mtlrun: {len(failures)} of {files} files could not be read:", file=sys.stderr)
        _list([f"  {error}" for _, error in failures])


def _list(lines: Sequence[str]) -> None:
    for line in lines[:SHOWN]:
        print(line, file=sys.stderr)
    if len(lines) > SHOWN:
        print(f"  and {len(lines) - SHOWN} more", file=sys.stderr)
