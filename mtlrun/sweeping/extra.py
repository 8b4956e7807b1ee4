"""Packages that only some sweeps need."""

from importlib import import_module
from typing import Any

from mtlrun.errors import UserError


def needed(package: str, choice: str) -> Any:
    """A package of the extra ``sweep``.

    Args:
        package: its name.
        choice: what the user chose that needs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(
            f"{choice} needs the package {package}: pip install 'mtlrun[sweep]'."
        ) from error
