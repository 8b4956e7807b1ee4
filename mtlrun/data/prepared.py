"""Prepared data: a folder of plain .npy arrays, one row an example, read by memory mapping.

Writing goes on where it was stopped, at any moment. ``progress.json`` says how many rows are safely
on the disk; ``manifest.json`` is written last, by renaming, and only a folder that has it is done.
"""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtlrun.data.base import Source, Targets, TensorSource
from mtlrun.durable import replace_file
from mtlrun.errors import UserError

FORMAT = 1
"""Raised when folders written before can no longer be read."""

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
LOCK = ".lock"
ROWS_A_CHECKPOINT = 32

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ArraySpec:
    """One array of a prepared folder.

    Attributes:
        shape: of one row.
        dtype: numpy's name of the type.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Plan:
    """What a prepared folder holds.

    Attributes:
        rows: length of every array.
        arrays: the arrays by name; each is ``<name>.npy``.
        facts: anything JSON that says where the rows come from and how they were made. Two plans
            are the same work only if their facts are equal.
    """

    rows: int
    arrays: Mapping[str, ArraySpec]
    facts: Mapping[str, Any]

    @property
    def total_bytes(self) -> int:
        """Bytes of all arrays."""
        return self.rows * sum(spec.row_bytes for spec in self.arrays.values())

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON data."""
        arrays = {
            name: {"shape": list(spec.shape), "dtype": spec.dtype}
            for name, spec in self.arrays.items()
        }
        data = {"format": FORMAT, "rows": self.rows, "arrays": arrays, "facts": dict(self.facts)}
        plain: dict[str, Any] = json.loads(json.dumps(data))  # tuples become lists
        return plain


def read_plan(folder: Path) -> Plan | None:
    """The plan of a finished folder; None where ``folder`` is not one.

    Raises:
        UserError: its manifest cannot be read, or was written by another version.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text())
        written_as = data["format"]
        arrays = {
            name: ArraySpec(tuple(spec["shape"]), spec["dtype"])
            for name, spec in data["arrays"].items()
        }
        plan = Plan(data["rows"], arrays, data["facts"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Remove the folder to have the data prepared again."
        ) from error
    if written_as != FORMAT:
        raise UserError(
            f"{path} has format {written_as}, and this version of mtlrun reads format {FORMAT}. "
            "Remove the folder to have the data prepared again."
        )
    return plan


def finished_plan(folder: Path) -> Plan:
    """The plan of a folder that must be finished.

    Raises:
        UserError: it is not; or see :func:`read_plan`.
    """
    plan = read_plan(folder)
    if plan is None:
        raise UserError(f"{folder} holds no finished prepared data: it has no {MANIFEST}.")
    return plan


def open_arrays(folder: Path, names: Sequence[str] | None = None) -> dict[str, Array]:
    """Memory-mapped arrays of a finished folder, read-only, each checked against the manifest.

    Args:
        folder: the prepared folder.
        names: the arrays wanted; None is all.

    Raises:
        UserError: the folder is not finished, or a file is missing, short or of another kind.
    """
    plan = finished_plan(folder)
    arrays = {}
    for name in plan.arrays if names is None else names:
        path, spec = folder / f"{name}.npy", plan.arrays[name]
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is missing or damaged ({error}). The prepared data is incomplete: copy it "
                f"again, or remove {folder} to have it prepared again."
            ) from error
        if array.shape != (plan.rows, *spec.shape) or array.dtype != np.dtype(spec.dtype):
            raise UserError(
                f"{path} holds {array.dtype} {list(array.shape)}, and the manifest beside it says "
                f"{spec.dtype} {[plan.rows, *spec.shape]}. Remove {folder} to have the data "
                "prepared again."
            )
        arrays[name] = array
    return arrays


def write_prepared(
    folder: Path,
    plan: Plan,
    read_row: Callable[[int], Mapping[str, Array]],
    on_row: Callable[[int], None],
) -> None:
    """Fill ``folder`` as ``plan`` says, going on from where an earlier call was stopped.

    Rows done under another plan are written again; a finished folder is never written to. A
    second process that prepares the same folder waits for the first.

    Args:
        folder: made where it is missing.
        plan: what to write.
        read_row: the arrays of one row.
        on_row: told the number of rows done, first those of earlier calls.

    Raises:
        UserError: ``folder`` is finished under another plan, cannot be written, or the disk is
            full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            finished = read_plan(folder)
            if finished is not None:
                if finished.to_json() != plan.to_json():
                    raise UserError(
                        f"{folder} holds other prepared data "
                        f"({_differences(finished, plan)}). Remove it or choose another folder."
                    )
                on_row(plan.rows)
                return
            _write_rows(folder, plan, read_row, on_row)
            replace_file(folder / MANIFEST, json.dumps(plan.to_json(), indent=1).encode())
            (folder / PROGRESS).unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{folder} cannot be written: {error}. Choose another folder."
            ) from error
        raise UserError(
            f"No space left to prepare {folder}: it needs {plan.total_bytes / 1e9:.2f} GB. Free "
            "some, or choose another folder. The rows done so far are kept."
        ) from error


def _write_rows(
    folder: Path,
    plan: Plan,
    read_row: Callable[[int], Mapping[str, Array]],
    on_row: Callable[[int], None],
) -> None:
    """Append rows to the arrays, and record them in ``progress.json`` once they are on the disk."""
    start = _rows_done(folder, plan)
    if start == 0:  # whatever an earlier record says of these files is about to be untrue
        _record(folder, plan, 0)
    on_row(start)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_opened(folder / f"{name}.npy", plan.rows, spec, start))
            for name, spec in plan.arrays.items()
        }
        for row in range(start, plan.rows):
            values = read_row(row)
            for name, spec in plan.arrays.items():
                value = np.asarray(values[name], dtype=spec.dtype, order="C")
                assert value.shape == spec.shape, (name, value.shape, spec.shape)
                files[name].write(value.tobytes())
            done = row + 1
            if done % ROWS_A_CHECKPOINT == 0 or done == plan.rows:
                for file in files.values():
                    file.flush()
                    os.fsync(file.fileno())
                _record(folder, plan, done)
            on_row(done)


def _record(folder: Path, plan: Plan, done: int) -> None:
    """Put on record that ``done`` rows of ``plan`` are on the disk."""
    replace_file(
        folder / PROGRESS, (json.dumps({"rows_done": done, "plan": plan.to_json()})).encode()
    )


def _rows_done(folder: Path, plan: Plan) -> int:
    """Rows of this plan that are safely on the disk."""
    try:
        record = json.loads((folder / PROGRESS).read_text())
    except (FileNotFoundError, ValueError):
        return 0
    if record.get("plan") != plan.to_json():
        return 0
    done = int(record["rows_done"])
    for name, spec in plan.arrays.items():
        path = folder / f"{name}.npy"
        header = len(_header(plan.rows, spec))
        if not path.is_file() or path.stat().st_size < header + done * spec.row_bytes:
            return 0
    return done


def _opened(path: Path, rows: int, spec: ArraySpec, start: int) -> BinaryIO:
    """The array's file, with its header and ``start`` rows, ready to append the next row."""
    if start == 0:
        file: BinaryIO = path.open("wb")
        file.write(_header(rows, spec))
    else:
        file = path.open("r+b")
        file.truncate(len(_header(rows, spec)) + start * spec.row_bytes)
        file.seek(0, os.SEEK_END)
    return file


def _header(rows: int, spec: ArraySpec) -> bytes:
    """The .npy header of an array (NumPy Enhancement Proposal 1)."""
    buffer = BytesIO()
    described = np.lib.format.dtype_to_descr(np.dtype(spec.dtype))
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": described, "fortran_order": False, "shape": (rows, *spec.shape)}
    )
    return buffer.getvalue()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; the lock falls when the process dies."""
    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _differences(finished: Plan, plan: Plan) -> str:
    """What a finished folder was made from, where that is not what is asked for now."""
    found = {"rows": finished.rows, **finished.facts}
    wanted = {"rows": plan.rows, **json.loads(json.dumps(dict(plan.facts)))}
    differing = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    said = [f"{name}: {found.get(name)}, wanted {wanted.get(name)}" for name in differing]
    return "; ".join(said) or "the same, laid out otherwise"


class PreparedSource(Source):
    """Rows of a prepared folder, gathered from its memory-mapped arrays.

    It travels to loader processes as a path and row numbers, not as data.

    Args:
        folder: a finished prepared folder.
        index: the rows of the folder that this source has, int64 [rows].
        inputs: name of the array of inputs.
        targets: for each task the name of its array.
        labelled: for each task the name of a bool array that says which rows carry a label.
        tables: for a task whose labels are numbered otherwise in the folder, the label that each
            stored number stands for, uint8 [256].
    """

    def __init__(
        self,
        folder: Path,
        index: Tensor,
        *,
        inputs: str,
        targets: Mapping[str, str],
        labelled: Mapping[str, str],
        tables: Mapping[str, Array] | None = None,
    ) -> None:
        self.folder = folder
        self.index = index
        self.inputs = inputs
        self.targets = dict(targets)
        self.labelled_arrays = dict(labelled)
        self.tables = dict(tables or {})
        self.arrays: dict[str, Array] | None = None
        kept = open_arrays(folder, list(self.labelled_arrays.values()))
        self.labelled = {
            task: torch.from_numpy(np.asarray(kept[name][index.numpy()]))
            for task, name in self.labelled_arrays.items()
        }

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "arrays": None}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's input and targets, as stored."""
        arrays = self._opened()
        return sum(array.nbytes // max(1, len(array)) for array in arrays.values())

    def rows(self, indices: Tensor) -> tuple[Tensor, Targets]:
        """See :meth:`Source.rows`."""
        arrays = self._opened()
        index = self.index[indices].numpy()
        targets = {}
        for task, name in self.targets.items():
            target = np.asarray(arrays[name][index])
            if task in self.tables:
                target = self.tables[task][target]
            targets[task] = torch.from_numpy(target)
        return torch.from_numpy(np.asarray(arrays[self.inputs][index])), targets

    def select(self, tasks: Sequence[str]) -> "PreparedSource":
        """See :meth:`Source.select`."""
        return self._with(self.index, tasks)

    def subset(self, indices: Tensor) -> "PreparedSource":
        """The rows named, as a source of its own."""
        return self._with(self.index[indices], list(self.targets))

    def in_memory(self) -> TensorSource:
        """The same rows, read once and held in memory."""
        inputs, targets = self.rows(torch.arange(len(self)))
        return TensorSource(inputs, targets, self.labelled)

    def _with(self, index: Tensor, tasks: Sequence[str]) -> "PreparedSource":
        return PreparedSource(
            self.folder,
            index,
            inputs=self.inputs,
            targets={task: self.targets[task] for task in tasks},
            labelled={t: name for t, name in self.labelled_arrays.items() if t in tasks},
            tables={task: table for task, table in self.tables.items() if task in tasks},
        )

    def _opened(self) -> dict[str, Array]:
        """The arrays, mapped on first use in each process."""
        if self.arrays is None:
            self.arrays = open_arrays(self.folder, [self.inputs, *self.targets.values()])
        return self.arrays
