"""The settings of ``experiment=toy``, checked and completed. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mtlrun.config import Compose, ToyConfig, choices_of, differing, method_name, plain
from mtlrun.errors import UserError, did_you_mean

OTHERS = ("seed", "study", "outputs", "tracking.tensorboard")
"""Settings beside its own that the toy follows."""

RESULT = "toy.json"
"""What a finished toy leaves, under a name that ``mtlrun compare`` does not look for."""

FARTHEST = 1e3
"""Beyond it a start is a slip: everything of interest is within 10 of (0, 0)."""


def toy_folder(config: DictConfig, hydra: DictConfig, compose: Compose) -> str:
    """The run folder's path below the study, a function of the choices.

    Args:
        config: the composed configuration.
        hydra: Hydra's own node.
        compose: composes the configuration to compare with, with Hydra's own node.

    Raises:
        UserError: a choice or setting that the toy would ignore.
    """
    choices = choices_of(hydra)
    experiment = choices.get("experiment")
    if not experiment or experiment == "null":
        raise UserError("The settings toy.* are those of an experiment: add experiment=toy.")
    base = compose([f"experiment={experiment}"])
    usual = choices_of(base.hydra)
    others = [f"{group}={name}" for group, name in choices.items() if name != usual.get(group)]
    changed = differing(plain(config), plain(base))
    others += [key for key in changed if not key.startswith("toy.") and key not in OTHERS]
    if others:
        raise UserError(
            f"{others[0]} has no effect with experiment={experiment}, which draws paths on two "
            "losses of a point and trains no network. Leave it out; beside toy.* the experiment "
            f"has {', '.join(OTHERS)}."
        )
    for key in changed:
        name = key.removeprefix("toy.settings.").split(".")[0]
        if key.startswith("toy.settings.") and name not in config.toy.weightings:
            raise UserError(
                f"{key} has no effect: toy.weightings does not name {name}. "
                f"{did_you_mean(name, config.toy.weightings)}"
            )
    own = {key.removeprefix("toy."): changed[key] for key in changed if key.startswith("toy.")}
    return f"toy/{method_name('figure', {}, own)},seed={config.seed}"


def complete(toy: ToyConfig, known: Sequence[str], compose: Compose) -> None:
    """Check the settings, and put each method's whole settings into ``toy.settings``.

    Args:
        toy: the settings, as composed.
        known: the weightings that there are.
        compose: see :func:`toy_folder`.

    Raises:
        UserError: the first setting that is of no use.
    """
    _check(toy)
    settings: dict[str, Any] = {}
    for name in toy.weightings:
        if name not in known:
            raise UserError(
                f"toy.weightings: there is no weighting {name}. {did_you_mean(name, known)}"
            )
        usual = OmegaConf.to_container(compose([f"weighting={name}"]).weighting, resolve=True)
        own = toy.settings.get(name) or {}
        if not isinstance(own, Mapping):
            raise UserError(f"toy.settings.{name}={own}: write toy.settings.{name}.KEY=VALUE.")
        assert isinstance(usual, dict)
        settings[name] = {**usual, **own}
    toy.settings = settings


def _check(toy: ToyConfig) -> None:
    """Check words and numbers that the schema's types let through."""
    if not toy.weightings:
        raise UserError("toy.weightings=[] leaves nothing to draw. Name some, as in [mgda,pcgrad].")
    for name in toy.weightings:
        if toy.weightings.count(name) > 1:
            raise UserError(f"toy.weightings names {name} twice. Name each method once.")
    if not toy.starts:
        raise UserError("toy.starts=[] leaves no walk. Give points, as in [[0,0],[9,-1]].")
    for start in toy.starts:
        if not _is_point(start):
            raise UserError(
                f"toy.starts: {start} is no point of the plane, of at most {FARTHEST:g} both ways. "
                "Give two numbers each, as in [[0,0],[9,-1]]."
            )
    for key, least in (("steps", 1), ("record_every", 1)):
        if getattr(toy, key) < least:
            raise UserError(f"toy.{key}={getattr(toy, key)}: use {least} or more.")
    for key in ("scale", "learning_rate"):
        if not 0 < getattr(toy, key) < math.inf:
            raise UserError(f"toy.{key}={getattr(toy, key)}: use a number above 0.")
    if len(toy.betas) != 2 or not all(0 <= beta < 1 for beta in toy.betas):
        raise UserError(f"toy.betas={toy.betas}: give Adam's two, from 0 to below 1.")


def _is_point(start: object) -> bool:
    return (
        isinstance(start, list)
        and len(start) == 2
        and all(type(value) in (int, float) and abs(value) <= FARTHEST for value in start)
    )
