"""One run, readable as a recipe: build, check, fit, test, write the result."""

import errno
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console

from mtlrun import build, teachers
from mtlrun.baseline import changes_against
from mtlrun.config import Config, validate, without_effect
from mtlrun.engine.affinity import Affinity
from mtlrun.engine.compatibility import check_compatible, check_rules, resolve_place
from mtlrun.engine.device import cpu_threads, device_of, threads_of
from mtlrun.engine.engine import Engine, Parts, Schedule
from mtlrun.engine.evaluation import headline
from mtlrun.engine.loader import Placement, TrainLoader
from mtlrun.engine.noise import NoiseScale
from mtlrun.engine.step import TrainingStep
from mtlrun.errors import UserError
from mtlrun.models.architectures.base import Architecture
from mtlrun.result import Labels, Result, summary
from mtlrun.sampling.units import small_units
from mtlrun.tracking import folder as run_folder
from mtlrun.tracking.console import display, result_table
from mtlrun.tracking.files import write_json
from mtlrun.tracking.status import Displays, Reported, StatusFile
from mtlrun.tracking.tables import ALWAYS
from mtlrun.tracking.tracker import Description, Tracker
from mtlrun.types import TaskInfo
from mtlrun.weighting.base import GramianWeighting


def run(config: Config, folder: Path, labels: Labels, console: Console) -> Result:
    """Do a run, go on with it, or give back what it found before.

    Args:
        config: what to run.
        folder: the run folder.
        labels: how it is called.
        console: where progress and the result are shown.

    Raises:
        UserError: a setting, a file or the disk needs attention; nothing finished is lost.
        Interrupted: asked to stop; the checkpoint is written.
    """
    with run_folder.locked(folder), _log_file(folder) as log, _full_disk_explained(folder):
        validate(config)
        if config.toy is not None:
            from mtlrun.toy.recipe import draw_toy  # other runs need not load what it draws with

            return draw_toy(config, config.toy, folder, console)
        run_folder.claim(folder, asdict(config), without_effect(config.stopping), asdict(Config()))
        result = run_folder.finished(folder)
        if result is not None:
            console.print(f"Already finished, nothing to do: {folder}", highlight=False)
        else:
            with Reported(folder, config.epochs):
                result = _train(config, folder, labels, console, log)
                write_json(folder / run_folder.RESULT, result)
        _show(result, folder, config, console)
        return result


def _train(
    config: Config, folder: Path, labels: Labels, console: Console, log: logging.Logger
) -> Result:
    build.check_settings(config)
    teachers.check(config)
    dataset, tasks = build.dataset_and_tasks(config)
    _say(dataset.remarks, log, console)
    infos = build.task_infos(dataset, tasks)
    parts, threads, flops = _build_parts(config, labels, dataset, tasks, infos)
    small = small_units(parts.loader.sampler.units)
    taught = teachers.remarks(parts.step.distillation)
    _say([*parts.model.remarks, *small, *taught], log, console)
    schedule = Schedule(
        epochs=config.epochs,
        select_on="val" if config.select_on == "validation" else "test",
        log_every=config.engine.log_every,
        checkpoint_minutes=config.engine.checkpoint_minutes,
        skip_nonfinite=config.engine.on_nonfinite == "skip",
        images=config.tracking.images,
    )
    steps = config.epochs * parts.loader.steps_per_epoch
    shown = Displays(
        [
            display(config.tracking.progress, console, config.epochs, steps, 0),
            StatusFile(folder, config.epochs, steps),
        ]
    )
    tracker = Tracker(
        folder,
        tuple(tasks),
        tensorboard=config.tracking.tensorboard,
        display=shown,
        description=Description(
            OmegaConf.to_yaml(OmegaConf.create(asdict(config))),
            _hyperparameters(config, labels),
            {name: headline(task) for name, task in tasks.items()},
            delta_m=f"{schedule.select_on}/delta_m",
            delta_m_tracked=config.tracking.baseline is not None,
        ),
        files=_files(parts.model.architecture, config.engine.affinity),
    )
    against = config.tracking.baseline
    alone = parts.weighting.baseline
    engine = Engine(
        parts,
        schedule,
        folder / "checkpoints",
        tracker,
        log,
        baseline=(
            changes_against("tracking.baseline", against, parts.primary) if against else None
        ),
        alone=changes_against("weighting.baseline", alone, tasks) if alone else None,
    )
    with closing(parts.loader), tracker:
        with cpu_threads(threads):
            engine.fit()
            test = engine.test()
        result = summary(config, labels, engine, infos, test, threads, flops)
        tracker.finished(result, engine.steps)
    return result


def _affinity(config: Config, step: TrainingStep) -> list[Affinity]:
    """What measures the affinity of the tasks, where it is asked for."""
    kind = config.engine.affinity
    if kind == "none":
        return []
    return [Affinity(kind, config.engine.affinity_every, step.backward)]  # type: ignore[arg-type]  # validated


def _files(architecture: Architecture, affinity: str) -> list[str]:
    """The CSV files of a run: some hang on what the architecture has to tell."""
    files = [*ALWAYS, *(["terms.csv"] if architecture.terms else [])]
    learns = type(architecture).structure is not Architecture.structure
    files += ["structure.csv"] if learns else []
    return [*files, *(["affinity.csv"] if affinity != "none" else [])]


def _say(remarks: Sequence[str], log: logging.Logger, console: Console) -> None:
    """What the user should know of the data, on the console and in the log."""
    for remark in remarks:
        log.info(remark)
        console.print(remark, highlight=False, soft_wrap=True)


def _build_parts(
    config: Config, labels: Labels, dataset: Any, tasks: Any, infos: list[TaskInfo]
) -> tuple[Parts, int, float]:
    device = device_of(config.engine.device)
    placement = Placement(device, config.engine.channels_last, config.engine.keep_data_on_device)
    primary = build.primary_tasks(config, dataset)
    stopping = build.stopping(config, tasks, primary)
    model = build.model(config, dataset, tasks)
    weighting = build.weighting(config, infos, model)
    sampler = build.sampler(config, dataset, infos)
    place = resolve_place(weighting, config.gradients.at, config.gradients.every)
    check_rules(weighting, config.gradients.smoothing, config.gradients.rescale)
    check_compatible(
        weighting=weighting,
        weighting_name=labels.choices.get("weighting", "?"),
        architecture_name=labels.choices.get("architecture", "?"),
        sampler_name=labels.choices.get("sampler", "?"),
        model=model,
        sampler=sampler,
        place=place,
        device=device,
        settings={**asdict(config.engine), **asdict(config.gradients)},
        select_on=config.select_on,
        stopping=stopping,
    )
    loader = TrainLoader(
        dataset,
        tasks,
        sampler,
        length=config.sampler.get("epoch", "longest"),
        accumulate=config.engine.accumulate * weighting.batches,
        seed=config.seed,
        placement=placement,
        workers=config.engine.workers,
    )
    flops = build.forward_flops(model, loader)
    largest = max(queue.size for queue in loader.queues.values())
    threads = threads_of(config.engine.threads, flops * largest)
    model.to(device)
    if config.engine.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    if not isinstance(weighting, GramianWeighting):  # those compute on the host
        weighting.to(device)
    steps = config.epochs * loader.steps_per_epoch
    distillation = teachers.distillation(config, dataset, tasks, model, device, steps)
    annealing = build.annealing(config, tuple(tasks), primary, weighting, steps)
    loader.annealing = annealing
    beside = [] if distillation is None else distillation.parameters()
    optimizer = build.optimizer(config, model, weighting, beside)
    step = TrainingStep(
        model,
        tasks,
        weighting,
        optimizer,
        seed=config.seed,
        place=place,
        every=config.gradients.every,
        smoothing=config.gradients.smoothing,
        rescale=config.gradients.rescale,  # type: ignore[arg-type]  # validated
        memory=config.gradients.memory_gb * 2**30,
        amp=config.engine.amp == "bf16",
        accumulate=config.engine.accumulate,
        clip_norm=config.engine.clip_norm,
        # Looking at each loss makes a GPU wait. Without it a bad loss is found when figures are
        # read back, before the next checkpoint; on the CPU it costs next to nothing.
        check=device.type == "cpu" or config.engine.on_nonfinite == "skip",
        compiled=config.engine.compile,
        distillation=distillation,
        annealing=annealing,
    )
    step.watchers.append(NoiseScale(step.backward.forward, loader.masks))
    step.watchers += _affinity(config, step)
    scheduler = build.scheduler(config, optimizer)
    rows = config.engine.evaluation_batch_size or 2 * config.batch_size
    parts = Parts(
        dataset,
        tasks,
        model,
        weighting,
        optimizer,
        scheduler,
        loader,
        step,
        placement,
        rows,
        primary,
        stopping,
    )
    return parts, threads, flops


def _hyperparameters(config: Config, labels: Labels) -> dict[str, Any]:
    """The run's row of the HParams page: the same columns for all runs, then what was changed."""
    names = ("weighting", "architecture", "backbone", "sampler")
    chosen = {name: labels.choices.get(name, "none") for name in names}
    changed = {key: value for key, value in labels.changed.items() if key not in chosen}
    return {
        **chosen,
        "changed": ", ".join(f"{key}={value}" for key, value in changed.items()) or "nothing",
        "seed": str(config.seed),  # numbers are shown with four decimals
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "lr": config.optimizer.get("lr"),
        **changed,
    }


def _show(result: Result, folder: Path, config: Config, console: Console) -> None:
    console.print(result_table(result))
    console.print(
        f"Files: {folder}\nCurves: mtlrun tensorboard {config.outputs}\n"
        f"Table of runs: mtlrun compare {config.outputs}",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def _full_disk_explained(folder: Path) -> Iterator[None]:
    def ended(thread: threading.ExceptHookArgs) -> None:
        if not _is_full_disk(thread.exc_value):
            report(thread)

    # TensorBoard's writing thread reports its error here; it is raised again where it is closed.
    report, threading.excepthook = threading.excepthook, ended
    try:
        yield
    except OSError as error:
        if not _is_full_disk(error):
            raise
        raise UserError(
            f"No space is left on the disk of {folder}. Every epoch finished before is safe: free "
            "some space and repeat the same command, and the run goes on from there."
        ) from error
    finally:
        threading.excepthook = report


def _is_full_disk(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class _LogFile(logging.FileHandler):
    """A log that a full disk cuts short, and nothing more: the run itself says what happened."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Leave the record out."""
        del record

    def close(self) -> None:
        """Close, whether or not the last record fits."""
        with suppress(OSError):
            super().close()


@contextmanager
def _log_file(folder: Path) -> Iterator[logging.Logger]:
    """The run's log, with the error that ended it, if one did."""
    log = logging.Logger("mtlrun")
    handler = _LogFile(folder / "run.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield log
    except UserError as error:
        log.error("%s", error)
        raise
    except KeyboardInterrupt as error:
        log.warning("%s", error or "stopped at once")
        raise
    except Exception:
        log.exception("the run failed")
        raise
    finally:
        handler.close()
