"""Replacing a file as a whole: after a crash it is either the old or the new one."""

import os
from pathlib import Path


def replace_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file atomically and durably: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: the file; its folder is made where it is not there.
        parts: its content, one after the other.

    Raises:
        OSError: where the disk is full, for example; what was at ``path`` before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # a name that nobody else has
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
