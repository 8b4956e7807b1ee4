"""One component from its settings: the only caller of ``hydra.utils.instantiate``."""

import inspect
import pydoc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.utils import instantiate

from mtlrun.errors import UserError, did_you_mean

Settings = Mapping[str, Any]


def located(settings: Settings, where: str) -> Callable[..., Any]:
    """The class that a component's ``_target_`` names.

    Raises:
        UserError: there is no such class, or it cannot be imported.
    """
    target = settings.get("_target_")
    if not target:
        raise UserError(f"{where} names no class: give it a _target_.")
    try:
        found: Callable[..., Any] | None = pydoc.locate(target)  # type: ignore[assignment]
    except pydoc.ErrorDuringImport as error:
        raise UserError(
            f"{where}._target_={target}: its module has an error: "
            f"{type(error.value).__name__}: {error.value}."
        ) from error
    if not callable(found):
        raise UserError(
            f"{where}._target_={target}: there is no such class. Check the name; modules in the "
            "working directory are found."
        )
    return found


def check_arguments(
    settings: Settings, where: str, facts: Sequence[str] = (), *, complete: bool = True
) -> None:
    """Compare a component's settings with the signature of its class.

    Args:
        settings: the group's configuration.
        where: how the user names it, for example ``weighting``.
        facts: names of the arguments that are given at run time.
        complete: whether all others must be among the settings.

    Raises:
        UserError: an argument that the class does not take, or one that it misses.
    """
    target = located(settings, where)
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    settable = [name for name in parameters if name not in facts]
    for key in settings:
        if not key.startswith("_") and key not in settable:
            raise UserError(
                f"{where}.{key}: {target.__name__} has no such setting. "
                f"{did_you_mean(key, settable)}"
            )
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is not (
            parameter.VAR_POSITIONAL
        )
        if complete and required and name in settable and name not in settings:
            raise UserError(
                f"{where}.{name} is missing: {target.__name__} needs it. Add +{where}.{name}=..."
            )


def component(settings: Settings, where: str, kind: type = object, **facts: Any) -> Any:
    """Instantiate a component with its settings and those runtime facts that it takes.

    Args:
        settings: the group's configuration.
        where: how the user names it, for example ``weighting``.
        kind: the class that it must extend.
        facts: what is known at run time.

    Raises:
        UserError: the settings do not fit the class, or the class refuses them.
    """
    target = located(settings, where)
    check_arguments(settings, where, tuple(facts))
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    taken = {name: fact for name, fact in facts.items() if open_ended or name in parameters}
    options = {"_partial_": True, "_convert_": "all", "_recursive_": False}
    make = instantiate({**settings, **options})
    try:
        made = make(**taken)
    except ValueError as error:
        raise UserError(f"{where} ({target.__name__}): {error}") from error
    except TypeError as error:
        given = [f"{key}={value}" for key, value in settings.items() if not key.startswith("_")]
        raise UserError(
            f"{where} ({target.__name__}) cannot work with {', '.join(given)}: {error}."
        ) from error
    if not isinstance(made, kind):
        raise UserError(
            f"{where}._target_={settings['_target_']}: {type(made).__name__} does not extend "
            f"{kind.__module__}.{kind.__name__}. Name a class that does."
        )
    return made
