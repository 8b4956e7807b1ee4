"""The run folder: whose it is, whether it is finished, and what it was run with."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mtlrun.errors import UserError
from mtlrun.tracking.files import write_text

RESULT = "result.json"
CONFIG = "config.yaml"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends.

    Raises:
        UserError: where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+b", buffering=0) as file:
        try:
            # Unlike flock's, this lock is not inherited by the processes that read data, which
            # outlive a killed run by some seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"{folder} is in use: {file.read().decode() or 'another process'} is running this "
                "very run. Wait for it, or run with another study=NAME or seed=N."
            ) from error
        file.truncate(0)
        with suppress(OSError):  # on a full disk the lock holds without saying whose it is
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


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


def claim(folder: Path, config: Mapping[str, Any], without_effect: tuple[str, ...]) -> None:
    """Write the run's configuration, or make sure that the folder holds a run with the same.

    Args:
        folder: the run folder.
        config: the resolved configuration, plain data.
        without_effect: dotted keys in which two runs may differ and be the same run.

    Raises:
        UserError: where the folder holds a run with other settings; shows the difference.
    """
    path = folder / CONFIG
    if path.exists():
        held = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(held, dict)
        differences = _differences(held, config, without_effect)
        if differences:
            raise UserError(
                f"{folder} holds a run with other settings: {'; '.join(differences)}. Nothing was "
                "changed there. Give this run another study=NAME, or move that folder away."
            )
        return
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


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
    held: Mapping[Any, Any], wanted: Mapping[str, Any], without_effect: tuple[str, ...]
) -> list[str]:
    old, new = flatten(held), flatten(wanted)
    return [
        f"{key} is {old.get(key, 'absent')} there and {new.get(key, 'absent')} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ...) != new.get(key, ...)
        and not any(key == free or key.startswith(f"{free}.") for free in without_effect)
    ]
