"""What is typed on a command line, before Hydra reads it. Imports no torch."""

import math
import re
from collections.abc import Iterable, Mapping

from mtlrun.task_choice import KEYS


def with_open_keys(argument: str) -> str:
    """Some keys stand for any task, method, teacher's setting or argument of a launcher, so Hydra's
    ``+`` for new keys is not asked for.

    An experiment and a sweep are there already, as null, and may be added all the same.
    """
    if argument.startswith(("+experiment=", "+sweep=")):
        return argument[1:]
    launcher = [f"hydra.launcher.{name}" for name in ("parameters", "init", "resources")]
    free = ("heads.of.", "toy.settings.", "toy.settings=", "hydra.sweeper.teachers.", *launcher)
    return f"++{argument}" if argument.startswith(free) else argument


def with_task_keys(overrides: Iterable[str]) -> list[str]:
    """Overrides of a command line in which ``tasks`` is a list or a mapping, not both.

    ``tasks=[a,b]`` beside ``tasks.primary=[a]`` becomes ``tasks.of=[a,b]``; and keys that ``tasks``
    lacks, as it is null by default, may be set without Hydra's ``+``.
    """
    given = [(override.partition("=")[0].lstrip("+"), override) for override in overrides]
    whole = any(key == "tasks" and _is_mapping(text) for key, text in given)
    mapping = not whole and any(key.startswith("tasks.") for key, _ in given)
    found = []
    for key, override in given:
        value = override.partition("=")[2]
        if key == "tasks" and mapping:
            found.append(f"++tasks.of={value}")
        else:
            found.append(f"++{key}={value}" if key.startswith("tasks.") else override)
    # A mapping that is given as a whole comes first, and wipes out nothing that is given beside it
    places = [at for at, text in enumerate(found) if re.match(r"\+*tasks[.=]", text)]
    ordered = sorted((found[at] for at in places), key=lambda text: not _is_mapping(text))
    for at, text in zip(places, ordered, strict=True):
        found[at] = text
    return found


def clash(report: str) -> str | None:
    """What to do where a file gives ``tasks`` one way and the command line the other.

    Args:
        report: Hydra's of the error; None for another one.
    """
    if re.search(r"Error merging override tasks=.*Cannot merge DictConfig with ListConfig", report):
        return (
            "tasks=[...] cannot take the place of tasks.primary or tasks.anneal, which a file that "
            "you chose sets. For the subset alone write tasks.of=[...]."
        )
    key = re.search(rf"invalid literal for int\(\) with base 10: '({'|'.join(KEYS)})'", report)
    if key:
        return (
            f"tasks.{key[1]}: a file that you chose gives tasks as a list, which has no such key. "
            "Write it there as tasks: {of: [...]}."
        )
    return None


def _is_mapping(override: str) -> bool:
    return override.lstrip("+").replace(" ", "").startswith("tasks={")


def hydra_text(value: object) -> str:
    """A value as Hydra's grammar for overrides reads it back; text in quotes where it has to be."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, list | tuple):
        return f"[{','.join(map(hydra_text, value))}]"
    if isinstance(value, Mapping):
        inside = (f"{hydra_text(key)}:{hydra_text(inner)}" for key, inner in value.items())
        return f"{{{','.join(inside)}}}"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    text = str(value)
    if not isinstance(value, str) or _reads_back(text):
        return text
    return QuotedString(text, Quote.double).with_quotes()


def _reads_back(text: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        # In a list, since a value of its own may hold what separates the elements of one.
        read = OverridesParser.create().parse_override(f"key=[{text}]")
        return bool(not read.is_sweep_override() and read.value() == [text])
    except HydraException:
        return False
