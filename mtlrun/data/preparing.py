"""Datasets that are converted once into memory-mapped arrays: when, where to, and the command."""

import argparse
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtlrun.data.base import Source
from mtlrun.data.files import user_cache
from mtlrun.data.originals import Layout
from mtlrun.data.prepared import (
    ArraySpec,
    Plan,
    PreparedSource,
    finished_plan,
    read_plan,
    write_prepared,
)
from mtlrun.errors import UserError

MEMORY_LIMIT = 2 * 2**30
"""Bytes up to which ``in_memory="auto"`` holds all rows in memory."""

Size = tuple[int, int]
Array = npt.NDArray[Any]
InMemory = bool | Literal["auto"]
SomeLayout = TypeVar("SomeLayout", bound=Layout)


class Preparation(ABC, Generic[SomeLayout]):
    """How one dataset is converted, from any of its layouts.

    Attributes:
        dataset: its name, in the configuration and of folders.
        title: its name in words.
        version: raised when the same source would be prepared otherwise than before.
    """

    dataset: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int]

    @abstractmethod
    def detect(self, path: Path) -> SomeLayout:
        """The layout at ``path``, opened.

        Raises:
            UserError: nothing is there, or nothing that is known, or part of it is missing.
        """

    @abstractmethod
    def arrays(self, layout: SomeLayout, size: Size) -> Mapping[str, ArraySpec]:
        """What a row is stored as."""

    @abstractmethod
    def row(self, layout: SomeLayout, part: str, key: Any, size: Size) -> Mapping[str, Array]:
        """One row of these arrays. Called by several threads at the same time.

        Raises:
            UserError: a file is damaged; names it.
        """

    def facts(self, layout: SomeLayout) -> Mapping[str, Any]:
        """What else the reader of a prepared folder needs to know. Any JSON."""
        del layout
        return {}

    def remark(self, layout: SomeLayout) -> str | None:
        """What the user should know before the work begins."""
        del layout
        return None

    def plan(self, layout: SomeLayout, size: Size) -> Plan:
        """What a source will be prepared to."""
        counts = {part: len(keys) for part, keys in layout.split.items()}
        facts = {
            "dataset": self.dataset,
            "version": self.version,
            "layout": layout.kind,
            "size": list(size),
            **counts,
            **self.facts(layout),
            "fingerprint": layout.fingerprint(),
        }
        return Plan(sum(counts.values()), self.arrays(layout, size), facts)

    def prepare(self, source: Path, destination: Path, size: Size) -> Plan:
        """Convert into a folder of .npy arrays, with a progress bar.

        Rows come part by part. Killed midway and called again, it goes on where it was.

        Args:
            source: a folder or file in one of the layouts.
            destination: the folder to write; not in the way of anything else.
            size: (H, W) of the images in it.

        Raises:
            UserError: see :meth:`detect`, :meth:`row` and
                :func:`mtlrun.data.prepared.write_prepared`.
        """
        layout = self.detect(source)
        try:
            plan = self.plan(layout, size)
            rows = [(part, key) for part, keys in layout.split.items() for key in keys]
            console = Console(stderr=True)
            remark = self.remark(layout)
            if remark is not None:
                console.print(remark)
            with Progress(
                TextColumn(f"Preparing {self.title} ({layout.kind}, {size[0]} x {size[1]})"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
            ) as progress:
                bar = progress.add_task("", total=plan.rows)
                with Ahead(lambda row: self.row(layout, *rows[row], size), plan.rows) as ahead:
                    write_prepared(
                        destination,
                        plan,
                        read_row=ahead.row,
                        on_row=lambda done: progress.update(bar, completed=done),
                    )
        finally:
            layout.close()
        return plan

    def find_or_prepare(self, root: Path, size: Size, prepared: str | Path | None) -> Path:
        """The prepared folder to read; prepared now where it is not.

        It is ``prepared`` where the user named one, else ``<root>/prepared_HxW``, or, where that
        cannot be written, a folder of the user's cache.

        Args:
            root: the folder or file to read from; not needed where a prepared folder is.
            size: (H, W).
            prepared: the folder that the user named, or None.

        Raises:
            UserError: see :meth:`prepare`; or the folder was made from other files, at another
                size, or by another version.
        """
        if prepared is not None:
            named = Path(prepared).expanduser()
            if read_plan(named) is None:
                self.prepare(root, named, size)
            self._check_plan(named, size)
            return named
        for folder in (beside(root, size), self.in_cache(root, size)):
            if read_plan(folder) is not None:
                self._check_plan(folder, size)
                self._check_source(folder, root)
                return folder
        folder = self.destination_of(root, size)
        self.prepare(root, folder, size)
        return folder

    def destination_of(self, root: Path, size: Size) -> Path:
        """Where the data at ``root`` is prepared to, where nobody says otherwise."""
        folder = beside(root, size)
        parent = folder.parent
        # A folder that nobody may write is left alone by the superuser as well.
        writable = os.access(parent, os.W_OK) and bool(parent.stat().st_mode & 0o222)
        return folder if writable else self.in_cache(root, size)

    def in_cache(self, root: Path, size: Size) -> Path:
        """The prepared folder for ``root`` in the user's cache."""
        path = blake2b(str(root.resolve()).encode(), digest_size=4).hexdigest()
        return user_cache() / f"{self.dataset}_{size[0]}x{size[1]}_{path}"

    def _check_plan(self, folder: Path, size: Size) -> None:
        """Check that a finished folder holds this dataset at the size wanted."""
        facts = finished_plan(folder).facts
        if facts.get("dataset") != self.dataset:
            raise UserError(
                f"{folder} holds other data than {self.title} ({facts.get('dataset')})."
            )
        if facts.get("version") != self.version:
            raise UserError(
                f"{folder} was prepared by another version of mtlrun. Remove it to have "
                f"{self.title} prepared again."
            )
        if tuple(facts["size"]) != size:
            raise UserError(
                f"{folder} holds images of size {facts['size']}, and dataset.size is "
                f"{list(size)}. Change one of dataset.size and dataset.prepared."
            )

    def _check_source(self, folder: Path, root: Path) -> None:
        """Check that a folder was made from what is at ``root`` now, where that still is there."""
        try:
            layout = self.detect(root)
        except UserError:
            return
        fingerprint = layout.fingerprint()
        layout.close()
        if finished_plan(folder).facts["fingerprint"] != fingerprint:
            raise UserError(
                f"The files at {root} are not those that {folder} was prepared from. Remove that "
                "folder to have them prepared again."
            )

    def command(self, arguments: Sequence[str], size: Size, source_help: str) -> int:
        """``mtlrun data prepare NAME``, for datasets with the parts ``train`` and ``test``.

        Args:
            arguments: what follows the dataset's name.
            size: (H, W) where the user does not say.
            source_help: what the source may be, in words.

        Returns:
            the exit code.

        Raises:
            UserError: see :meth:`prepare`.
        """
        parser = argparse.ArgumentParser(
            prog=f"mtlrun data prepare {self.dataset}",
            description=f"Convert {self.title} once into the memory-mapped arrays that training "
            "reads. Stopped, it goes on where it was.",
        )
        parser.add_argument("--from", dest="source", type=Path, required=True, metavar="PATH",
                            help=source_help)  # fmt: skip
        parser.add_argument("--to", dest="destination", type=Path, metavar="DIR",
                            help="the folder to write; PATH/prepared_HxW where not given, or one "
                            "in the user's cache where that cannot be written")  # fmt: skip
        parser.add_argument("--size", type=int, nargs=2, default=size, metavar=("H", "W"),
                            help="height and width of the frames; "
                            f"{size[0]} {size[1]} where not given")  # fmt: skip
        given = parser.parse_args(arguments)
        height, width = given.size
        if min(height, width) < 1:
            parser.error(f"--size {height} {width}: both must be at least 1")
        source: Path = given.source.expanduser()
        named: Path | None = given.destination.expanduser() if given.destination else None
        folder = named or self.destination_of(source, (height, width))

        started = time.monotonic()
        plan = self.prepare(source, folder, (height, width))
        seconds = time.monotonic() - started
        where = f"dataset.root={source}" if named is None else f"dataset.prepared={folder}"
        print(
            f"{folder} has {plan.facts['train']} training and {plan.facts['test']} test frames of "
            f"{height} x {width}: {plan.total_bytes / 1e9:.2f} GB, {seconds:.0f} s.\n"
            f"Train on it: mtlrun dataset={self.dataset} dataset.size=[{height},{width}] {where}"
        )
        return 0


class Ahead:
    """Makes rows by threads, one for each of up to 8 cores, before they are asked for.

    Used as a context; leaving it waits for the rows in the making and drops them.

    Args:
        make: one row by its number. Threads call it at the same time.
        rows: how many there are.
    """

    def __init__(self, make: Callable[[int], Mapping[str, Array]], rows: int) -> None:
        self.make = make
        self.rows = rows
        workers = min(8, os.cpu_count() or 1)
        self.window = 2 * workers
        self.pool = ThreadPoolExecutor(workers)
        self.pending: dict[int, Future[Mapping[str, Array]]] = {}

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def row(self, number: int) -> Mapping[str, Array]:
        """One row; they are asked for in order, from any on."""
        for later in range(number, min(number + self.window, self.rows)):
            if later not in self.pending:
                self.pending[later] = self.pool.submit(self.make, later)
        return self.pending.pop(number).result()


def beside(root: Path, size: Size) -> Path:
    """The prepared folder in ``root``, or beside it where it is a file."""
    return (root.parent if root.is_file() else root) / f"prepared_{size[0]}x{size[1]}"


def checked_size(size: Sequence[int]) -> Size:
    """A setting ``size`` as height and width.

    Raises:
        ValueError: it is something else.
    """
    numbers = tuple(int(number) for number in size)
    if len(numbers) != 2 or min(numbers) < 1:
        raise ValueError(f"size={list(size)}: two numbers, the height and width of the images")
    return numbers[0], numbers[1]


def checked_in_memory(in_memory: InMemory) -> None:
    """Check a setting ``in_memory``.

    Raises:
        ValueError: it is none of its values.
    """
    if in_memory not in (True, False, "auto"):
        raise ValueError(f"in_memory={in_memory!r}: auto, true or false")


def holds(total_bytes: int, in_memory: InMemory) -> bool:
    """Whether rows of so many bytes are held in memory.

    Args:
        total_bytes: of all splits.
        in_memory: True, False, or "auto": where they take up to 2 GiB.
    """
    return total_bytes <= MEMORY_LIMIT if in_memory == "auto" else in_memory


def held(
    splits: Mapping[str, Mapping[str, PreparedSource]], in_memory: InMemory
) -> dict[str, dict[str, Source]]:
    """Sources read into memory, or left on the disk.

    Args:
        splits: for each split the source of each stream.
        in_memory: see :func:`holds`.
    """
    sources = [source for streams in splits.values() for source in streams.values()]
    total = sum(len(source) * source.row_bytes for source in sources)
    hold = holds(total, in_memory)
    return {
        split: {
            stream: source.in_memory() if hold else source for stream, source in streams.items()
        }
        for split, streams in splits.items()
    }
