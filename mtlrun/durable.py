"""Replacing a file as a whole: after a crash it is either the old or the new one."""

import os
from pathlib import Path

from mtlrun.errors import UserError


def replace_file(path: Path, *parts: bytes | memoryview, sync: bool = True) -> None:
    """Write a file atomically and durably: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: the file; its folder is made where it is not there.
        parts: its content, one after the other.
        sync: whether to wait for the disk, so that the new file outlasts a loss of power.

    Raises:
        OSError: where the disk is full, for example; what was at ``path`` before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # a name that nobody else has
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)


def write_output(path: Path, content: bytes) -> None:
    """Write a file that the user asked for, as :func:`replace_file` does.

    Raises:
        UserError: it cannot be written, and why.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
