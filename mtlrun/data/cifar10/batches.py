"""The publisher's batches of CIFAR-10, which are Python pickles, read without trusting them.

A pickle is a program: the plain ``pickle.load`` runs any function that the file names. Here a name
stands for one of four things below or the file is refused, and none of them does more than to hold
bytes: not even numpy's own functions are called with what the file says.
"""

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtlrun.errors import UserError

SIDE = 32
ROW_BYTES = 3 * SIDE * SIDE

MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
)
"""What reading a damaged pickle raises."""


class _Bytes:
    """Stands for ``numpy.dtype``: unsigned bytes, the only type in these files."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if code not in ("u1", b"u1", "|u1", b"|u1"):
            raise pickle.UnpicklingError(f"it has an array of type {code!r}, not of bytes")

    def __setstate__(self, state: object) -> None:
        """The byte order and other facts that bytes do not need."""


class _Array:
    """Stands for ``numpy.ndarray``.

    Attributes:
        values: uint8, of any shape.
    """

    values: npt.NDArray[np.uint8]

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Bytes, bool, bytes]) -> None:
        """Take shape, type, order and content as numpy writes them."""
        _, shape, kind, by_columns, content = state
        if type(kind) is not _Bytes or type(content) is not bytes:
            raise pickle.UnpicklingError("it has an array whose content is not bytes")
        values = np.frombuffer(content, dtype=np.uint8)
        self.values = values.reshape(shape, order="F" if by_columns else "C")


def _reconstruct(*_: object) -> _Array:
    """Stands for numpy's maker of empty arrays; what is in them follows."""
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, by which Python 3 writes bytes into old pickles."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it has bytes written as {encoding!r}")
    return text.encode("latin1")


PERMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Bytes,
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle.Unpickler):
    """Reads pickles that name nothing but :data:`PERMITTED`."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for ``module.name``."""
        if (module, name) not in PERMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch needs")
        return PERMITTED[module, name]


def read_batch(content: bytes, name: str) -> tuple[Tensor, Tensor]:
    """The images and labels of one batch.

    Args:
        content: of the file.
        name: how errors call it.

    Returns:
        uint8 [N, 3, 32, 32], red, green, blue; int64 [N], 0 to 9.

    Raises:
        UserError: the file is no pickle of a batch, or names anything that a batch does not need.
    """
    entries = _read(content, name)
    data, labels = entries.get("data"), entries.get("labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise UserError(
            f"{name} is no batch of CIFAR-10: it has no data and labels, but "
            f"{', '.join(map(repr, entries)) or 'nothing'}. CIFAR-100 has other labels and is not "
            "read."
        )
    images = getattr(data, "values", np.empty(0, np.uint8))
    if images.shape != (len(labels), ROW_BYTES) or not labels:
        raise UserError(
            f"{name} has data of shape {list(images.shape)} and {len(labels)} labels; a batch has "
            f"[N, {ROW_BYTES}] and N labels. Copy or download it again."
        )
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label <= 9:
            raise UserError(
                f"{name} has the label {label!r} in row {row}, and labels go from 0 to 9. Copy or "
                "download it again."
            )
    pixels = torch.from_numpy(images.copy()).view(-1, 3, SIDE, SIDE)
    return pixels, torch.tensor(labels, dtype=torch.int64)


def check_names(content: bytes, name: str, classes: Sequence[str]) -> None:
    """Check that ``batches.meta`` names the classes as we do.

    Args:
        content: of the file.
        name: how errors call it.
        classes: our names.

    Raises:
        UserError: the file is damaged, or names other classes.
    """
    named = _read(content, name).get("label_names")
    found = [_text(word) for word in named] if isinstance(named, list) else None
    if found != list(classes):
        raise UserError(
            f"{name} names the classes {found}, and CIFAR-10's are {list(classes)}. Copy or "
            "download it again."
        )


def _read(content: bytes, name: str) -> dict[Any, Any]:
    """The dictionary in a pickle, its keys as text."""
    try:
        entries = _Restricted(io.BytesIO(content), encoding="bytes").load()
    except MALFORMED as error:
        raise UserError(
            f"{name} cannot be read as one of CIFAR-10's pickles ({error}). Copy or download it "
            "again."
        ) from error
    if not isinstance(entries, dict):
        raise UserError(f"{name} holds no dictionary, as CIFAR-10's files do.")
    return {_text(key): value for key, value in entries.items()}


def _text(word: object) -> object:
    """Python 2 wrote text as bytes."""
    return word.decode("latin1") if isinstance(word, bytes) else word
