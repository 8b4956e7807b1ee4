"""The run folder: whose it is, whether it is finished, and what it was run with."""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from mtlrun.errors import UserError
from mtlrun.tracking.files import write_text

RESULT = "result.json"
CONFIG = "config.yaml"
LOCK = ".lock"

_HELD: set[Path] = set()
"""Lock files that this process holds, or is about to: closing any other handle of such a file
would give its lock up, so nobody here may open it again."""
_OPENING = threading.Lock()
"""Guards what is in ``_HELD``, and looking at lock files that are not."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends.

    Raises:
        UserError: where another process holds it, or another thread of this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / LOCK).resolve()
    with _OPENING:
        if path in _HELD:
            raise _in_use(folder, "this very process")
        _HELD.add(path)
    try:
        with path.open("a+b", buffering=0) as file:
            if not _take(file):
                file.seek(0)
                raise _in_use(folder, file.read().decode())
            file.truncate(0)
            with suppress(OSError):  # on a full disk the lock holds without saying whose it is
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
    finally:
        _HELD.discard(path)


def _in_use(folder: Path, whose: str) -> UserError:
    return UserError(
        f"{folder} is in use: {whose or 'another process'} is running this very run. Wait for it, "
        "or run with another study=NAME or seed=N."
    )


def _take(file: IO[bytes]) -> bool:
    # Whoever looks whether a folder is locked takes the lock for a moment, so a held one is tried
    # again before it counts.
    for pause in (0.05, 0.1, 0.2, 0):
        try:
            # Unlike flock's, this lock is not inherited by the processes that read data, which
            # outlive a killed run by some seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        else:
            return True
    return False


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder: this one, or another one of a shared file system."""
    path = (folder / LOCK).resolve()
    with _OPENING:
        if path in _HELD:
            return True
        try:
            with path.open("rb") as file:
                # Asking is taking it for a moment: shared, so that two who ask do not find each
                # other.
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no lock file, or a file system without locks
            return False
    return False


def finished(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run, or None."""
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}). Delete it to run this run again.") from error
    return result


def claim(
    folder: Path,
    config: Mapping[str, Any],
    without_effect: tuple[str, ...],
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Write the run's configuration, or make sure that the folder holds a run with the same.

    Args:
        folder: the run folder.
        config: the resolved configuration, plain data.
        without_effect: dotted keys in which two runs may differ and be the same run.
        defaults: the settings of a run that changes nothing, nested: what a run had that was made
            before there were such settings.

    Raises:
        UserError: where the folder holds a run with other settings; shows the difference.
    """
    if not (folder / CONFIG).exists():
        write_text(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(dict(config))))
    elif why := refusal(folder, config, without_effect, defaults):
        raise UserError(why)


def refusal(
    folder: Path,
    config: Mapping[str, Any],
    without_effect: tuple[str, ...],
    defaults: Mapping[str, Any] | None = None,
) -> str | None:
    """Why a run cannot have a folder: that holds one with other settings. None where it can.

    See :func:`claim`.
    """
    if not (folder / CONFIG).exists():
        return None
    held = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    assert isinstance(held, dict)
    differences = _differences(held, config, without_effect, defaults or {})
    if not differences:
        return None
    return (
        f"{folder} holds a run with other settings: {'; '.join(differences)}. Nothing was "
        "changed there. Give this run another study=NAME, or move that folder away."
    )


def flatten(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested settings by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            leaves.update(flatten(value, f"{name}."))
        else:
            leaves[name] = value
    return leaves


def _differences(
    held: Mapping[Any, Any],
    wanted: Mapping[str, Any],
    without_effect: tuple[str, ...],
    defaults: Mapping[str, Any],
) -> list[str]:
    start, old, new = flatten(defaults), flatten(held), flatten(wanted)
    before = {**{key: start[key] for key in start.keys() & new.keys()}, **old}
    return [
        f"{key} is {old.get(key, 'absent')} there and {new.get(key, 'absent')} here"
        for key in sorted(old.keys() | new.keys())
        if before.get(key) != new.get(key)  # null says as much as nothing at all
        and not any(key == free or key.startswith(f"{free}.") for free in without_effect)
    ]
