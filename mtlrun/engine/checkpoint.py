"""Checkpoints: written atomically, read as data, one kept in reserve."""

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mtlrun.errors import UserError

FORMAT = 1


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint: temporary file, fsync, rename.

    Raises:
        OSError: where the disk is full, for example; what was at ``path`` before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    torch.save({"format": FORMAT, **state}, data)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rotate_and_write(folder: Path, state: Mapping[str, Any]) -> None:
    """Write ``last.pt``, keeping the one before it as ``previous.pt``.

    The new file is complete before either name changes, so at any moment one of the two is whole.
    """
    last = folder / "last.pt"
    fresh = folder / "fresh.pt"
    write(fresh, state)
    if last.exists():
        last.replace(folder / "previous.pt")
    fresh.replace(last)
    _sync_folder(folder)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint as data: no code in it is run.

    Raises:
        UserError: where the file is damaged or of another format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} fails its checksum")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is damaged or is no checkpoint: {error}.") from error
    if state.get("format") != FORMAT:
        raise UserError(
            f"{path} has checkpoint format {state.get('format')}, and this mtlrun reads {FORMAT}. "
            "Finish the run with the version that began it, or use another study=NAME."
        )
    return state


def read_latest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint of a run, and what was wrong with newer ones.

    Returns:
        the state, or None where there is none to go on from; and remarks for the log.
    """
    remarks: list[str] = []
    for name in ("last.pt", "previous.pt"):
        path = folder / name
        if not path.exists():
            continue
        try:
            return read(path), remarks
        except UserError as error:
            remarks.append(f"{error} Going on from the checkpoint before it.")
    return None, remarks
