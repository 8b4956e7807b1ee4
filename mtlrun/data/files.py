"""Finding and reading the files that datasets come in."""

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor

from mtlrun.errors import UserError

IDX_UNSIGNED_BYTE = 0x08


def find_root(name: str, root: str | None) -> Path:
    """The folder that should hold a dataset's files, whether or not it exists.

    Args:
        name: the dataset's folder name, used where ``root`` is None.
        root: the folder that the user named (``dataset.root``); None for ``$MTLRUN_DATA/<name>``,
            or for ``data/<name>`` in the working directory where that variable is not set.
    """
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("MTLRUN_DATA") or "data").expanduser() / name


def user_cache() -> Path:
    """The folder of the user's cache for files of ours, whether or not it exists."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mtlrun"


def plain_or_gzip(folder: Path, name: str) -> Path | None:
    """The file ``name`` in ``folder``, or ``name.gz``; None where there is neither."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def read_bytes(path: Path) -> bytes:
    """A file's content, unpacked where its name ends in ``.gz``.

    Raises:
        UserError: the file cannot be read, or its compressed data is damaged or cut off.
    """
    with opened(path) as file:
        return file.read()


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file open for reading bytes, unpacked where its name ends in ``.gz``.

    Raises:
        UserError: here or while it is read, see :func:`read_bytes`.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(IO[bytes], file)  # a GzipFile reads as one, though its type does not say so
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path} is not a whole gzip file ({error}). Copy or download it again."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """A text file's lines, unpacked where its name ends in ``.gz``.

    Lines end with a line feed, or a carriage return and a line feed, and with nothing else: some
    corpora have other characters inside a line that Unicode calls line ends.

    Raises:
        UserError: the file cannot be read, is damaged, or is not of this encoding.
    """
    content = read_bytes(path)
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise UserError(
            f"{path} is not {encoding} in line {line}, byte {column} "
            f"({content[error.start]:#04x}). Copy or download it again, or convert it."
        ) from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if not lines[-1] else lines


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The array of unsigned bytes in an idx file, the format of MNIST.

    Args:
        path: the file, plain or (``.gz``) compressed.
        dimensions: how many it must have: 3 for images, 1 for labels.

    Returns:
        uint8, of the shape that the file's header says.

    Raises:
        UserError: the file is something else, damaged, or cut off.
    """
    content = read_bytes(path)
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, IDX_UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        raise UserError(
            f"{path} is not an idx file of unsigned bytes in {dimensions} dimension(s): it starts "
            f"with {content[:4].hex() or 'nothing'} where {magic.hex()} is expected. Copy or "
            "download it again, and check that images and labels are not swapped."
        )
    if len(content) < header:
        raise UserError(f"{path} is cut off in its header. Copy or download it again.")
    shape = np.frombuffer(content[4:header], dtype=">u4").tolist()
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise UserError(
            f"{path} is damaged: its header says {' x '.join(map(str, shape))}, which takes "
            f"{expected} bytes, and it has {len(content)}. Copy or download it again."
        )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=header).copy()).view(
        shape
    )
