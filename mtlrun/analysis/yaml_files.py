"""Reading YAML files without Hydra."""

from pathlib import Path
from typing import Any

import yaml

_loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C is ten times as fast


def read_settings(path: Path) -> dict[str, Any] | None:
    """What a YAML file sets; None where it is not there, is damaged or holds no settings."""
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _loader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return settings if isinstance(settings, dict) else None
