"""Makes our sweepers and launchers known to Hydra.

Hydra looks for plug-ins in a top-level package of its own name and instantiates classes from there
only. Ours stay where they belong, and are entered under such a name.
"""

from importlib import import_module

from hydra.core.plugins import Plugins

PLUGINS = {
    "GridSweeper": "mtlrun.sweeping.grid",
    "SearchSweeper": "mtlrun.sweeping.search",
    "SubmititLauncher": "mtlrun.sweeping.launchers",
    "RayLauncher": "mtlrun.sweeping.launchers",
}
"""Class and module; a YAML of ``configs/hydra`` names it as ``hydra_plugins.mtlrun.<class>``."""


def register() -> None:
    """Enter each class under the name that the configuration has for it."""
    known = Plugins.instance().class_name_to_class
    for name, module in PLUGINS.items():
        known[f"hydra_plugins.mtlrun.{name}"] = getattr(import_module(module), name)
