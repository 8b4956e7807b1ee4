"""Checkpoints: written atomically, read as data, one kept in reserve."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtlrun.durable import replace_file, sync_folder
from mtlrun.errors import UserError

FORMAT = 1
BEST, LAST = "best.pt", "last.pt"
DIGEST = 32
"""Bytes at the end of a file: the SHA-256 of those before. ``torch.load`` does not mind them."""


class DamagedCheckpointError(UserError):
    """A file that is not, bit by bit, what was once written."""


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, with a digest of itself, atomically.

    Raises:
        OSError: where the disk is full, for example; what was at ``path`` before is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    data = buffer.getbuffer()
    replace_file(path, data, hashlib.sha256(data).digest())


def rotate_and_write(folder: Path, state: Mapping[str, Any]) -> None:
    """Write ``last.pt``, keeping the one before it as ``previous.pt``.

    The new file is complete before either name changes, so at any moment one of the two is whole.
    """
    last = folder / LAST
    fresh = folder / "fresh.pt"
    write(fresh, state)
    if last.exists():
        last.replace(folder / "previous.pt")
    fresh.replace(last)
    sync_folder(folder)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint as data: no code in it is run.

    Raises:
        DamagedCheckpointError: where the file is damaged, or holds anything but data.
        UserError: where it has another format.
    """
    try:
        if not _is_whole(path):
            raise DamagedCheckpointError(
                f"{path} is damaged or is no checkpoint: its digest differs."
            )
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedCheckpointError(
            f"{path} is damaged or is no checkpoint: it holds more than data, and code in files is "
            "never run."
        ) from error
    except (OSError, RuntimeError) as error:
        raise DamagedCheckpointError(f"{path} is damaged or is no checkpoint: {error}.") from error
    if state.get("format") != FORMAT:
        raise UserError(
            f"{path} has checkpoint format {state.get('format')}, and this mtlrun reads {FORMAT}. "
            "Finish the run with the version that began it, or use another study=NAME."
        )
    return state


def load_model(path: Path, model: nn.Module) -> dict[str, Any]:
    """Fill a network with the weights in a checkpoint.

    Returns:
        the checkpoint.

    Raises:
        UserError: see :func:`read`.
        RuntimeError: it is of another network; torch names the entries.
    """
    state = read(path)
    model.load_state_dict(state["model"])
    return state


def _is_whole(path: Path) -> bool:
    data = memoryview(path.read_bytes())
    return hashlib.sha256(data[:-DIGEST]).digest() == data[-DIGEST:]


def read_latest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint of a run, and what was wrong with newer ones.

    Returns:
        the state, or None where there is none to go on from; and remarks for the log.

    Raises:
        UserError: where the newest whole one has another format.
    """
    remarks: list[str] = []
    for name in (LAST, "previous.pt"):
        path = folder / name
        if not path.exists():
            continue
        try:
            return read(path), remarks
        except DamagedCheckpointError as error:
            remarks.append(str(error))
    if remarks:
        remarks.append("No checkpoint is whole: the run starts again.")
    return None, remarks
