"""A finished run's folder: its configuration as it is to be used now, and its result."""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from mtlrun import __version__, build
from mtlrun.config import Config, validate
from mtlrun.errors import UserError, did_you_mean
from mtlrun.tracking import folder as run_folder

ENGINE_SETTINGS = (
    "amp",
    "channels_last",
    "compile",
    "device",
    "evaluation_batch_size",
    "keep_data_on_device",
    "threads",
)
"""Those that have a say after training."""

PLACES = ("root", "path", "prepared", "yelp_file", "tokenizer")
"""Settings of datasets that name files or folders."""

SAME_DATA = (*PLACES, "in_memory")
"""Settings of datasets that change nothing in what is read where the files are the same."""

GONE = ("engine.patience",)
"""Settings of former versions that had a say in training alone; ``stopping`` has it now."""

NEEDED = {"dataset", "method", "seed", "tasks"}
"""What is read of a result."""

RUNS_SHOWN = 3


@dataclass(frozen=True)
class StoredRun:
    """A finished run.

    Attributes:
        folder: of the run.
        config: its configuration, with what the user gave anew.
        result: what is in its ``result.json``.
        changed: settings that the user gave, as given.
        remarks: what was found elsewhere than the configuration says.
    """

    folder: Path
    config: Config
    result: Mapping[str, Any]
    changed: Sequence[str] = ()
    remarks: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The run in words."""
        result = self.result
        return f"{result['dataset']}: {result['method']}, seed {result['seed']}"


def misfit(folder: Path, result: Mapping[str, Any], why: str) -> UserError:
    """What to say of a run that this version of mtlrun cannot put together again."""
    made_by = result.get("mtlrun") or "of an unknown version"
    commit = result.get("git_commit")
    made_by += f" (commit {commit[:8]})" if commit else ""
    return UserError(
        f"{folder} was made by mtlrun {made_by}, and this is mtlrun {__version__}, which cannot "
        f"use it: {why.rstrip('.')}. Use the version that made it, or train it again."
    )


def read_run(
    folder: Path,
    settings: Sequence[str] = (),
    data: str | None = None,
    device: str | None = None,
) -> StoredRun:
    """A finished run, its configuration checked.

    Args:
        folder: of the run.
        settings: ``KEY=VALUE`` that the user gives anew.
        data: where its data is now, or None.
        device: what to compute on, or None for the run's own.

    Raises:
        UserError: there is no finished run; it does not fit this version of mtlrun; or a setting
            is wrong.
    """
    held, result = _held(folder)
    config = _typed(folder, held, result)
    try:
        build.check_settings(config)
    except UserError as error:
        raise misfit(folder, result, str(error)) from error
    given = [*settings, *_data_setting(config, data)]
    if given:
        config = _typed(folder, _changed(held, given), result)
        build.check_settings(config)
    keys = [name.partition("=")[0] for name in given]
    remarks = [*_other_data(keys), *_located(config, folder, set(keys))]
    if device is not None:
        config.engine.device = device
    elif config.engine.device.startswith("cuda") and not torch.cuda.is_available():
        remarks.append(f"engine.device={config.engine.device} is not here: this is on the CPU.")
        config.engine.device = "cpu"
    validate(config)
    _without_start(config)
    return StoredRun(folder, config, result, tuple(settings), remarks)


def _held(folder: Path) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration and the result in a run's folder."""
    path = folder / run_folder.CONFIG
    if not path.is_file():
        raise UserError(_no_run(folder))
    try:
        held = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(held, DictConfig):
        raise UserError(f"{path} holds no settings. Copy the run again.")
    if held.get("toy") is not None:
        raise UserError(f"{folder} is a run of experiment=toy, which trains no network.")
    result = run_folder.finished(folder)
    if result is None:
        raise UserError(
            f"{folder} holds no finished run: its {run_folder.RESULT} is missing. Repeat the "
            "command that began it, and the run goes on to its end."
        )
    if not isinstance(result, dict) or not result.keys() >= NEEDED:
        raise UserError(f"{folder / run_folder.RESULT} holds no result of a run. Copy it again.")
    return held, result


def _no_run(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: there is no such folder. Name the folder of a finished run."
    below = sorted(path.parent for path in folder.glob(f"**/{run_folder.CONFIG}"))
    if not below:
        return f"{folder} is no folder of a run: it has no {run_folder.CONFIG}."
    some = ", ".join(f"'{path}'" for path in below[:RUNS_SHOWN])
    more = f" and {len(below) - RUNS_SHOWN} more" if len(below) > RUNS_SHOWN else ""
    return f"{folder} holds runs, and one of them is wanted. Name it: {some}{more}."


def _typed(folder: Path, held: DictConfig, result: Mapping[str, Any]) -> Config:
    """The configuration with the schema's types; settings that it lacks have their defaults.

    Raises:
        UserError: it has settings that there are not, or of other types.
    """
    held = copy.deepcopy(held)
    for key in GONE:
        section, _, name = key.rpartition(".")
        if isinstance(found := OmegaConf.select(held, section), DictConfig):
            found.pop(name, None)
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), held))
    except ConfigKeyError as error:
        known = [field.name for field in Config.__dataclass_fields__.values()]
        hint = "" if "." in str(error.full_key) else f". {did_you_mean(str(error.full_key), known)}"
        why = f"its {run_folder.CONFIG} has the setting {error.full_key}, which there is not{hint}"
        raise misfit(folder, result, why) from error
    except OmegaConfBaseException as error:
        why = f"its {run_folder.CONFIG} does not fit: {str(error).splitlines()[0]}"
        raise misfit(folder, result, why) from error
    assert isinstance(config, Config)
    return config


def _changed(held: DictConfig, given: Sequence[str]) -> DictConfig:
    """The configuration with the settings given."""
    for setting in given:
        key, equals, _ = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: write KEY=VALUE, such as --set dataset.root=PATH.")
        engine = key.removeprefix("engine.")
        if (
            not key.startswith("dataset.")
            and key != "backbone.path"
            and (engine == key or engine not in ENGINE_SETTINGS)
        ):
            raise UserError(
                f"--set {key}: of a trained network that cannot be changed, or has no effect. Use "
                "dataset.*, backbone.path, or engine.* with one of "
                f"{', '.join(ENGINE_SETTINGS)}."
            )
    try:
        merged = OmegaConf.merge(held, OmegaConf.from_dotlist(list(given)))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"--set {' '.join(given)}: {str(error).splitlines()[0]}.") from error
    assert isinstance(merged, DictConfig)
    return merged


def _data_setting(config: Config, data: str | None) -> list[str]:
    """``--data`` as a setting of the dataset."""
    if data is None:
        return []
    name = next((key for key in ("root", "path") if key in config.dataset), None)
    if name is None:
        raise UserError(
            f"--data {data}: this run's dataset reads no files of its own. Leave it out."
        )
    # In quotes, so that no path is read as a number or a list
    return [f"dataset.{name}={json.dumps(data)}"]


def _other_data(keys: Sequence[str]) -> list[str]:
    """A line where settings of the dataset are given that may change what it holds."""
    others = [
        key for key in keys if key.startswith("dataset.") and key.split(".")[1] not in SAME_DATA
    ]
    if not others:
        return []
    return [
        f"{', '.join(others)} may give other rows, classes, means or units than the network was "
        "trained with; rows of the test split may be some that it was trained on."
    ]


def _located(config: Config, folder: Path, given: set[str]) -> list[str]:
    """Find files that are not where the configuration says, seen from here.

    A relative path is looked for below the folders that the run lies in, as one of them was the
    working directory; then any path by its last name in ``$MTLRUN_DATA``.

    Returns:
        what was found elsewhere, a line each.
    """
    remarks = []
    sections = {"dataset": (config.dataset, PLACES), "backbone": (config.backbone, ("path",))}
    for section, (settings, keys) in sections.items():
        for key in keys:
            value, name = settings.get(key), f"{section}.{key}"
            if value is None or value == "words" or name in given:
                continue
            found = _elsewhere(value, folder)
            if found != value:
                settings[key] = found
                remarks.append(f"{name}={value} is not here; read from {_words(found)}.")
    return remarks


def _elsewhere(value: Any, folder: Path) -> Any:
    """A path, or each of several, where it is; as given where it is there or nowhere."""
    if isinstance(value, Mapping):
        return {key: _elsewhere(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_elsewhere(each, folder) for each in value]
    path = Path(str(value)).expanduser()
    if path.exists():
        return value
    candidates = [] if path.is_absolute() else [base / path for base in folder.resolve().parents]
    shared = os.environ.get("MTLRUN_DATA")
    candidates += [Path(shared).expanduser() / path.name] if shared else []
    return next((str(place) for place in candidates if place.exists()), value)


def _words(found: Any) -> str:
    if isinstance(found, Mapping):
        return ", ".join(_words(each) for each in found.values())
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)


def _without_start(config: Config) -> None:
    """Forget the weights that the network started from: those that it has learnt come instead."""
    config.model.init_from = None
    own = str(config.backbone.get("_target_", "")).startswith("mtlrun.models.")
    if own and "weights" in config.backbone:
        config.backbone["weights"] = None
