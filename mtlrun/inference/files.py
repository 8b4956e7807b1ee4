"""Files of new inputs: finding them, naming what is made of them, reading them ahead."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mtlrun.data.base import NewKind
from mtlrun.data.images import IMAGE_SUFFIXES
from mtlrun.data.text_dataset import TABLES
from mtlrun.errors import UserError

SUFFIXES: Mapping[NewKind, Sequence[str]] = {
    "images": IMAGE_SUFFIXES,
    "tables": TABLES,
    "texts": (".txt", *TABLES),
}
"""Endings of the files that a folder is searched for; one named by itself may end as it likes."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class InputFile:
    """A file to predict from.

    Attributes:
        path: as the user would name it.
        stem: the start of the names of files that are made of it.
    """

    path: Path
    stem: str


def find_inputs(
    given: Sequence[Path], kind: NewKind, made: Sequence[Path] = (), *, apart: bool = True
) -> tuple[list[InputFile], list[str]]:
    """The files named, and those below the folders named, sorted; hidden ones are left out.

    Args:
        given: files and folders.
        kind: of files.
        made: files and folders that predictions are written to. What lies there of an earlier time
            is no input.
        apart: whether each file needs a start of names of its own.

    Returns:
        the files; and for each folder with files of other kinds a line that says so.

    Raises:
        UserError: something is not there, a folder holds no such file, a file would be written
            over, or two files cannot be told apart by their names.
    """
    found: dict[Path, Path] = {}  # by path: what its name is made of
    remarks = []
    outputs = [path.resolve() for path in made]
    for entry in given:
        if entry.is_dir():
            files = [
                file
                for file in sorted(entry.rglob("*"))
                if file.is_file()
                and not any(part.startswith(".") for part in file.relative_to(entry).parts)
            ]
            inside = [path for path in outputs if entry.resolve() in path.parents]
            fitting = [
                file
                for file in files
                if file.suffix.lower() in SUFFIXES[kind]
                and not any(
                    path == file.resolve() or path in file.resolve().parents for path in inside
                )
            ]
            if not fitting:
                raise UserError(
                    f"--input {entry}: the folder holds no {kind} ({', '.join(SUFFIXES[kind])})."
                )
            if len(fitting) < len(files):
                others = [str(file.relative_to(entry)) for file in files if file not in fitting]
                remarks.append(f"Left out of {entry}: {_few(others)}.")
            found |= {file: file.relative_to(entry) for file in fitting}
        elif entry.exists():
            if entry.resolve() in outputs:
                raise UserError(f"{entry} is an input, and the output. Name another file by -o.")
            found[entry] = Path(entry.name)
        else:
            raise UserError(f"--input {entry}: there is no such file or folder.")
    if not apart:
        return [InputFile(path, str(name)) for path, name in found.items()], remarks
    return _named(found), remarks


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _named(found: Mapping[Path, Path]) -> list[InputFile]:
    """Each file with a start of names of its own: without its ending where that will do."""
    stems = Counter(str(name.with_suffix("")) for name in found.values())
    files = []
    for path, name in found.items():
        short = str(name.with_suffix(""))
        files.append(InputFile(path, short if stems[short] == 1 else str(name)))
    twice = [stem for stem, count in Counter(file.stem for file in files).items() if count > 1]
    if twice:
        both = [str(file.path) for file in files if file.stem == twice[0]]
        raise UserError(
            f"--input names {both[0]} and {both[1]}, and what is made of them would have the same "
            "name. Name the folder above both."
        )
    return files


def chunks(files: Sequence[InputFile], size: int) -> Iterator[Sequence[InputFile]]:
    """The files, ``size`` at a time."""
    for start in range(0, len(files), size):
        yield files[start : start + size]


def read_ahead(
    parts: Iterator[Sequence[InputFile]],
    read: Callable[[InputFile], Found],
    pool: ThreadPoolExecutor,
) -> Iterator[list[tuple[InputFile, Found | UserError]]]:
    """What is read of each part's files, or why it cannot be; the next part is read meanwhile."""

    def outcome(file: InputFile) -> Found | UserError:
        try:
            return read(file)
        except UserError as error:
            return error

    before: list[tuple[InputFile, Future[Found | UserError]]] = []
    for part in parts:
        pending = [(file, pool.submit(outcome, file)) for file in part]
        if before:
            yield [(file, future.result()) for file, future in before]
        before = pending
    if before:
        yield [(file, future.result()) for file, future in before]
