"""Packages that only some sweeps need."""

from importlib import import_module
from typing import Any

from mtlrun.errors import UserError


def needed(package: str, choice: str, install: str = "'mtlrun[sweep]'") -> Any:
    """A package, by default of the extra ``sweep``.

    Args:
        package: its name.
        choice: what the user chose that needs it.
        install: what pip is asked for.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{choice} needs the package {package}: pip install {install}.") from error
