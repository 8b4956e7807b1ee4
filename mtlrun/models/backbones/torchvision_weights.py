"""Weights from files of torchvision's networks."""

import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtlrun.errors import UserError

KEYS_SHOWN = 3
"""Names of parameters that an error about a file's contents shows."""

UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
)
"""What torch.load raises on a damaged file, and on one with more than tensors in it."""


def load_torchvision(
    backbone: nn.Module,
    path: Path,
    *,
    prefixes: Mapping[str, str],
    classifier: str,
    network: str,
) -> None:
    """Fill ``backbone`` from a file with a state dict of torchvision's network.

    Args:
        backbone: to be filled.
        path: of the file.
        prefixes: how our parameters' names begin, each with how torchvision's do.
        classifier: how the names of torchvision's last layer begin, which is left out.
        network: whose state dict it must be, and with which settings, for errors.

    Raises:
        UserError: where the file cannot be read, or is not of this network.
    """
    ours = {theirs: prefix for prefix, theirs in prefixes.items()}
    state = {
        _renamed(name, ours): value
        for name, value in _read_state(path).items()
        if not name.startswith(classifier)
    }
    own = backbone.state_dict()
    # Files from before torch 0.4.1 lack the counters, and nothing reads them
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    misshapen = [
        f"{_renamed(n, prefixes)} is {list(state[n].shape)} there and {list(own[n].shape)} here"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    problems = [
        f"{what} {_first(names)}"
        for what, names in [
            ("missing", [_renamed(n, prefixes) for n in missing]),
            ("unexpected", [_renamed(n, prefixes) for n in unexpected]),
            ("of another shape:", misshapen),
        ]
        if names
    ]
    if problems:
        raise UserError(
            f"backbone.weights={path} does not fit backbone={type(backbone).__name__.lower()}: "
            f"{'; '.join(problems)}. It must be a state dict of {network}; leave out "
            "backbone.weights to start from random weights."
        )
    backbone.load_state_dict(state, strict=False)


def _read_state(path: Path) -> Mapping[str, Any]:
    """The state dict in a file."""
    path = path.expanduser()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"backbone.weights={path} cannot be read ({error.strerror or error}). Save a state "
            "dict of torchvision's network there, or leave out backbone.weights."
        ) from error
    except UNREADABLE as error:
        raise UserError(
            f"backbone.weights={path} is damaged, or holds more than tensors. It must be a state "
            "dict as torch.save(model.state_dict(), path) writes it."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"backbone.weights={path} holds no state dict (tensors by name). It must be one as "
            "torch.save(model.state_dict(), path) writes it."
        )
    return state


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    """A parameter's name with its beginning replaced; as it is where none of them fits."""
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name


def _first(names: Sequence[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    more = len(names) - KEYS_SHOWN
    return ", ".join(names[:KEYS_SHOWN]) + (f" and {more} more" if more > 0 else "")
