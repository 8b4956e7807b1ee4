"""Small files, written whole or not at all."""

import json
from pathlib import Path
from typing import Any

from mtlrun.durable import replace_file

EVENTS = "events.out.tfevents.*"
"""TensorBoard's files."""
FAILURE = f"{EVENTS}.failed"
"""Of these the one with the record of a failure, which goes when the run is tried again."""


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    replace_file(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; NaN and infinity become null, as JSON has neither."""
    write_text(path, json.dumps(_plain(data), indent=1, allow_nan=False) + "\n")


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return None
    return data
