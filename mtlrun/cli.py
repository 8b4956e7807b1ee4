"""The ``mtlrun`` command: verbs, else the Hydra app. Imports no torch."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlrun import __version__
from mtlrun.errors import Interrupted, UserError, described, did_you_mean, nearest_hint

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mtlrun.config import Config, ToyConfig

FAILED: list[tuple[str, Exception]] = []
"""What went wrong in this process's jobs: a line each, and the error."""


def config_folder() -> Path:
    """The shipped configuration: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "configs"
    return inside if inside.is_dir() else here.parent / "configs"


def main() -> None:
    """Entry point of the command."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run a verb or the Hydra app, and turn errors into one paragraph and an exit code."""
    # Parts of the user's own live in the directory that the command is given in.
    sys.path.insert(0, str(Path.cwd()))
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        if arguments[:1] == ["--version"]:
            print(f"mtlrun {__version__}")
            return 0
        verb = VERBS.get(arguments[0]) if arguments else None
        if verb:
            return verb(arguments[1:])
        _refuse_unknown_verb(arguments)
        _refuse_toy_alone(arguments)
        return _train(arguments)
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # of `mtlrun list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141
    except (UserError, OSError) as error:
        if traceback_wanted:
            raise
        print(f"mtlrun: {error}", file=sys.stderr)
        return 1


def _refuse_unknown_verb(arguments: Sequence[str]) -> None:
    """A first word that is neither a verb nor an override is a slip."""
    first = arguments[0] if arguments else ""
    if first and not first.startswith(("-", "+", "~")) and "=" not in first:
        hint = nearest_hint(first, VERBS, before="mtlrun ")
        raise UserError(
            f"{first} is neither a verb ({', '.join(VERBS)}) nor a setting KEY=VALUE. {hint}See "
            "mtlrun --help."
        )


def _refuse_toy_alone(arguments: Sequence[str]) -> None:
    """The toy's settings are there with an experiment only."""
    keys = [argument.lstrip("+~") for argument in arguments]
    toy = [key for key in keys if key.startswith("toy.")]
    if toy and not any(key.startswith("experiment=") for key in keys):
        raise UserError(f"{toy[0]} has no effect without the experiment: add experiment=toy.")


# -- verbs -----------------------------------------------------------------------------------------


def _list(arguments: list[str]) -> int:
    from mtlrun.analysis.catalogue import list_command

    return list_command(arguments, config_folder())


def _data(arguments: list[str]) -> int:
    """``mtlrun data prepare NAME ...``: each dataset that can be prepared has a ``command``."""
    folder = Path(__file__).parent / "data"
    known = sorted(path.parent.name for path in folder.glob("*/command.py"))
    if arguments[:1] != ["prepare"] or len(arguments) < 2 or arguments[1] not in known:
        raise UserError(
            f"Use: mtlrun data prepare NAME --from PATH, with NAME one of {', '.join(known)}."
        )
    return _from(f"mtlrun.data.{arguments[1]}.command", "prepare_command")(arguments[2:])


Verb = Callable[[list[str]], int]


def _from(module: str, name: str) -> Verb:
    """A verb whose module is imported when it is used: most need pandas, some torch."""

    def command(arguments: list[str]) -> int:
        verb: Verb = getattr(import_module(module), name)
        return verb(arguments)

    return command


VERBS: dict[str, Verb] = {
    "list": _list,
    "compare": _from("mtlrun.analysis.comparison.command", "compare_command"),
    "group": _from("mtlrun.analysis.grouping.command", "group_command"),
    "report": _from("mtlrun.analysis.report.command", "report_command"),
    "plot": _from("mtlrun.analysis.plots.command", "plot_command"),
    "tensorboard": _from("mtlrun.analysis.board", "board_command"),
    "evaluate": _from("mtlrun.inference.evaluate", "evaluate_command"),
    "predict": _from("mtlrun.inference.predict", "predict_command"),
    "export": _from("mtlrun.inference.export", "export_command"),
    "data": _data,
}


# -- the Hydra app ---------------------------------------------------------------------------------


def _train(arguments: list[str]) -> int:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from mtlrun import config as schema
    from mtlrun.overrides import with_open_keys, with_task_keys
    from mtlrun.sweeping import plugins
    from mtlrun.sweeping.worker import SWEEP_PROCESS, this_process

    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra would print its own report and exit; the errors are explained here instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ[SWEEP_PROCESS] = this_process()
    schema.register()
    plugins.register()
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    FAILED.clear()
    _composed.cache_clear()
    # Hydra's parser wants its -m before the settings, or after all of them.
    arguments = with_task_keys(map(with_open_keys, arguments))
    arguments = sorted(arguments, key=lambda given: given not in MANY)
    sys.argv = ["mtlrun", *arguments]
    app = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(
        _job
    )
    try:
        app()
    except Exception as error:
        if traceback_wanted:
            raise
        if all(error is not failure for _, failure in FAILED):
            if not isinstance(error, (HydraException, OmegaConfBaseException, ValueError)):
                raise
            raise UserError(_explain(error, arguments)) from error
    finally:
        if not traceback_wanted:
            del os.environ["HYDRA_FULL_ERROR"]
    return _report_failure(traceback_wanted) if FAILED else 0


MANY = ("-m", "--multirun")
"""Options for several runs."""


def _report_failure(traceback_wanted: bool) -> int:
    line, error = FAILED[0]
    if traceback_wanted or isinstance(error, UserError):
        raise error
    print(f"mtlrun: {line}", file=sys.stderr)
    print("A failed run's run.log says more; HYDRA_FULL_ERROR=1 shows tracebacks.", file=sys.stderr)
    return 1


def _job(config: "DictConfig") -> float | None:
    """One run of the app: a single run, or one of a sweep.

    Returns:
        what the run achieved of ``objective``, for sweepers that search; None where it has none.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from rich.console import Console

    from mtlrun.config import choices_of, method_name, typed
    from mtlrun.sweeping.worker import follow_sweep, for_the_sweep, in_worker

    follow_sweep()
    hydra_config: Any = HydraConfig.get()
    many = hydra_config.mode is RunMode.MULTIRUN
    # A sweep of ours has a table of its jobs, which their own words would tear.
    quiet = many and _is_ours(hydra_config.sweeper)
    folder = Path(hydra_config.runtime.output_dir)
    choices = choices_of(hydra_config)
    groups, changed = _changes(config, hydra_config)
    try:
        if not many:
            _refuse_sweeps_settings(hydra_config.overrides.hydra)
        settings = typed(config, choices)
        if settings.toy is not None:
            _complete_toy(settings.toy, hydra_config.job.config_name)

        from mtlrun.result import Labels  # these import torch
        from mtlrun.run import run

        shown = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
        method = method_name(choices["weighting"], groups, changed)
        labels = Labels(choices, method, {**groups, **changed})
        # names of folders have brackets
        run(settings, shown, labels, Console(markup=False, quiet=quiet))
    except (Interrupted, Exception) as error:
        if in_worker():
            raise for_the_sweep(error) from None
        if isinstance(error, Interrupted):
            raise
        FAILED.append((f"{folder.parent.name}/{folder.name}: {described(error)}", error))
        if many:
            raise  # so that Hydra, too, counts the job as failed
        return None
    return None if quiet else _objective(settings, folder)


def _objective(config: "Config", folder: Path) -> float | None:
    """For a sweeper that the user brings; ours look at the run folders themselves."""
    from mtlrun.analysis.objective import DELTA_M, objective_value

    baseline = config.tracking.baseline
    if config.toy is not None or (config.objective in DELTA_M and baseline is None):
        return None
    return objective_value(config.objective, folder, Path(baseline) if baseline else None)


def _refuse_sweeps_settings(overrides: Sequence[str]) -> None:
    """What says how several runs are done would be ignored by one."""
    of_sweeps = ("hydra/sweeper", "hydra/launcher", "hydra.sweeper", "hydra.launcher")
    for override in overrides:
        if override.lstrip("+~").startswith(of_sweeps):
            raise UserError(
                f"{override} has no effect on a single run: add -m, or +sweep=NAME (see mtlrun "
                "list sweep)."
            )


def _is_ours(sweeper: Any) -> bool:
    return str(sweeper.get("_target_", "")).startswith("hydra_plugins.mtlrun.")


def _complete_toy(toy: "ToyConfig", config_name: str) -> None:
    from hydra.core.global_hydra import GlobalHydra

    from mtlrun.toy.settings import complete

    known = GlobalHydra.instance().config_loader().get_group_options("weighting")
    complete(toy, known, lambda given: _composed(config_name, tuple(given)))


def _changes(config: Any, hydra_config: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """What makes the run differ from its dataset's recipe."""
    from mtlrun.config import changed_settings

    name = hydra_config.job.config_name
    return changed_settings(config, hydra_config, lambda given: _composed(name, tuple(given)))


@cache
def _composed(config_name: str, overrides: tuple[str, ...]) -> "DictConfig":
    """What the running Hydra app makes of overrides; jobs ask for the same ones again and again."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    loader = GlobalHydra.instance().config_loader()
    composed: DictConfig = loader.load_configuration(
        config_name=config_name, overrides=list(overrides), run_mode=RunMode.RUN
    )
    return composed


def _run_folder(*, _root_: Any) -> str:
    """``<dataset>/<weighting and changed settings>/seed=<n>``, a function of the choices."""
    from mtlrun.config import choices_of, method_name
    from mtlrun.toy.settings import toy_folder

    name = _root_.hydra.job.config_name
    if _root_.get("toy") is not None:
        return toy_folder(_root_, _root_.hydra, lambda given: _composed(name, tuple(given)))

    choices = choices_of(_root_.hydra)
    for group in ("dataset", "weighting"):
        if group not in choices:
            raise UserError(f"~{group}: every run has a {group}. Choose one: mtlrun list {group}.")
    groups, changed = _changes(_root_, _root_.hydra)
    method = method_name(choices["weighting"], groups, changed)
    return f"{choices['dataset']}/{method}/seed={_root_.seed}"


def _explain(error: Exception, arguments: Sequence[str]) -> str:
    """One paragraph from Hydra's report of a slip on the command line."""
    if isinstance(error.__cause__, UserError):  # of a sweeper or launcher
        return str(error.__cause__)
    text = str(error)
    ours = re.match(r"UserError raised while resolving interpolation: (.*)", text)
    if ours:
        return ours[1]
    if any(slip in text for slip in ("mismatched input", "extraneous input", "no viable alt")):
        garbled = _first_garbled(arguments)
        if garbled is not None:
            name, _, value = garbled.partition("=")
            listed = value.startswith("[") and value.endswith("]")
            quoted = f'["{value[1:-1]}"]' if listed else f'"{value}"'
            return (
                f"{garbled}: a value with = or the like in it, as the folders of runs have, needs "
                f"double quotes within the shell's single ones: '{name}={quoted}'."
            )
    several = re.match(r"Ambiguous value for argument '(.+)'", text)
    if several:
        return f"{several[1]}: for a run with each value add -m; a list is written KEY=[A,B]."
    without = re.match(r"Sweep parameters '(.+)' requires --multirun", text)
    if without:
        return f"{without[1]}: values to sweep over need -m as well."
    missing = re.search(r"Could not find '([\w./-]+)'", text)
    if missing and "/" in missing[1]:
        group, name = missing[1].rsplit("/", 1)
        options = re.search(r"Available options in '[^']+':\n((?:\t.+\n?)*)", text)
        known = options[1].split() if options else []
        if missing[1] == "hydra/launcher/joblib":  # a plug-in of Hydra's
            return "hydra/launcher=joblib needs its package: pip install 'mtlrun[sweep]'."
        return f"{group}={name}: there is no such choice. {did_you_mean(name, known)}"
    key = re.search(r"(?:Could not override '([\w.@/-]+)'|Key '(\w+)' is not in struct)", text)
    if key:
        from mtlrun.config import choices_of, explain_key, plain

        composed = _compose_choices(arguments)
        return explain_key(key[1] or key[2], plain(composed), choices_of(composed.hydra))
    cause = str(error.__cause__ or "").split("\n")[0]
    text = " ".join(f"{text} {cause}".split()).removesuffix(".")
    from mtlrun.overrides import clash

    explained = clash(text)
    if explained:
        return explained
    override = re.match(r"Error merging override (\S+) (.*)", text)
    if override and "is not a ListConfig" in text:
        return f"{override[1]}: give a list, for example tasks=[digit,ink]."
    return f"{override[1]}: {override[2]}." if override else f"{text}."


def _first_garbled(arguments: Sequence[str]) -> str | None:
    """The first KEY=VALUE whose value Hydra's grammar cannot read; None where all can be."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for argument in arguments:
        try:
            parser.parse_override(argument)
        except HydraException:
            if "=" in argument and not argument.startswith("-"):
                return argument
    return None


def _compose_choices(arguments: Sequence[str]) -> "DictConfig":
    """The configuration that the choices among the arguments make, without their other settings."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    chosen = [argument for argument in arguments if re.fullmatch(r"[a-z]+=[\w-]+", argument)]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        try:
            return compose("config", overrides=chosen, return_hydra_config=True)
        except HydraException:  # one of them is the slip, or comes from the user's own folder
            return compose("config", overrides=[], return_hydra_config=True)
