"""Reading YAML files without Hydra."""

from pathlib import Path
from typing import Any

import yaml

_loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C is ten times as fast


def read_settings(path: Path) -> dict[str, Any] | None:
    """What a YAML file sets; None where it is not there, is damaged or holds no settings."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return parse_settings(text)


def parse_settings(text: str) -> dict[str, Any] | None:
    """What a YAML text sets; None where it is damaged or holds no settings."""
    try:
        settings = yaml.load(text, _loader)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    return settings if isinstance(settings, dict) else None
