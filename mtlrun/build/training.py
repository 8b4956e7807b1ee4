"""What trains the network: weighting, sampler, optimizer, scheduler, stopping, annealing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.flop_counter import FlopCounterMode

from mtlrun.baseline import headline_levels
from mtlrun.build.components import Settings, component, located
from mtlrun.config import Config
from mtlrun.data.base import Dataset
from mtlrun.engine.annealing import Annealing
from mtlrun.engine.loader import TrainLoader
from mtlrun.engine.step import parameter_groups
from mtlrun.engine.stopping import Stopping
from mtlrun.errors import UserError
from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global
from mtlrun.sampling.base import Sampler
from mtlrun.sampling.units import steps_of_epoch, units_of
from mtlrun.task_choice import chosen_tasks
from mtlrun.tasks.base import Task
from mtlrun.types import TaskInfo
from mtlrun.weighting.base import JacobianWeighting, Weighting


def weighting(config: Config, infos: Sequence[TaskInfo], network: MultiTaskModel) -> Weighting:
    """The method; its adapters become part of the network."""
    seed_global(config.seed, "init", "weighting")
    facts = {
        "tasks": infos,
        "layers": len(network.shared_layers()),
        "channels": network.architecture.out_channels(network.tasks[0]),
    }
    method = bare_weighting(config.weighting, "weighting", **facts)
    network.attach(method.adapters())
    return method


def bare_weighting(settings: Settings, where: str, **facts: Any) -> Weighting:
    """A weighting by itself, see :func:`component`.

    Raises:
        UserError: the settings do not fit the class; its own learning rate is of no use.
    """
    made: Weighting = component(settings, where, Weighting, **facts)
    rate = made.learning_rate
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise UserError(
            f"{where}.learning_rate={rate}: use a number above 0, or null for the network's."
        )
    return made


LOADING = ("of", "epoch", "batch_sizes")
"""Settings of the group ``sampler`` that all share: what is drawn, and how much of it."""


def sampler_settings(config: Config) -> dict[str, Any]:
    """A sampler's own settings."""
    return {key: value for key, value in config.sampler.items() if key not in LOADING}


def sampler(config: Config, dataset: Dataset, infos: Sequence[TaskInfo]) -> Sampler:
    """The sampler, over the streams or the tasks of the dataset."""
    settings = sampler_settings(config)
    joint = getattr(located(settings, "sampler"), "joint", False)
    rows = {stream: len(dataset.splits["train"][stream]) for stream in dataset.streams}
    labelled = {info.name: info.train_rows for info in infos}
    if joint:  # it reads all rows, whoever has labels there
        labelled = {task: rows[stream] for stream in rows for task in dataset.streams[stream]}
    try:
        units = units_of(
            dataset.streams,
            rows,
            labelled,
            of="streams" if joint else config.sampler.get("of", "auto"),
            batch_size=config.batch_size,
            batch_sizes=config.sampler.get("batch_sizes"),
        )
        facts = {"units": units, "epochs": config.epochs, "seed": config.seed}
        headlines = {info.name: next(iter(info.metrics)) for info in infos}
        baseline = settings.get("baseline")
        levels = headline_levels("sampler.baseline", baseline, headlines) if baseline else {}
        chosen: Sampler = component(settings, "sampler", Sampler, **facts, levels=levels)
        steps_of_epoch(units, config.sampler.get("epoch", "longest"), per_step=1, accumulate=1)
    except ValueError as error:
        raise UserError(f"sampler: {error}.") from error
    sizes = {unit.batch_size for unit in units}
    if chosen.several and len(units) > len(dataset.streams) and len(sizes) > 1:
        raise UserError(
            "sampler.batch_sizes gives tasks of one stream batches of different sizes, and this "
            "sampler trains several of them on the same rows. Leave it out."
        )
    return chosen


def forward_flops(network: MultiTaskModel, loader: TrainLoader) -> float:
    """Floating-point operations of a row's forward pass, for one of middle length."""
    inputs = {}
    source = loader.dataset.splits["train"]
    for stream in loader.dataset.streams:
        lengths, row = source[stream].lengths, 0
        if lengths is not None:
            row = int(lengths.argsort()[len(lengths) // 2])
        raw, targets = source[stream].rows(torch.tensor([row]))
        inputs[stream], _ = loader.dataset.transform(stream, raw, targets, None)
    return counted_flops(network, inputs)


def counted_flops(network: MultiTaskModel, inputs: Mapping[str, Tensor]) -> float:
    """Floating-point operations of a forward pass in evaluation, by torch's own counter."""
    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs, network.tasks)
    network.train(training)
    return float(counter.get_total_flops())


def optimizer(
    config: Config,
    network: MultiTaskModel,
    method: Weighting,
    beside: Iterable[nn.Parameter] = (),
) -> Optimizer:
    """The optimizer over the network's and the method's parameters, and those beside the network's.

    See :func:`~mtlrun.engine.step.parameter_groups`.
    """
    rate = config.optimizer.get("lr")
    groups = parameter_groups(network, method, 1e-3 if rate is None else rate, beside)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError("The network has no parameters to train: every one of them is frozen.")
    chosen: Optimizer = component(config.optimizer, "optimizer", Optimizer, params=groups)
    return chosen


def scheduler(config: Config, chosen: Optimizer) -> LRScheduler | None:
    """The scheduler, stepped once an epoch; a length of null means the run's epochs."""
    settings = dict(config.scheduler)
    if not settings.get("_target_"):
        return None
    for length in ("T_max", "total_iters"):
        if length in settings and settings[length] is None:
            settings[length] = config.epochs
    made: LRScheduler = component(settings, "scheduler", LRScheduler, optimizer=chosen)
    return made


STOPPING_FACTS = ("tasks", "primary", "baseline")
"""What a stopping may take, see :class:`~mtlrun.engine.stopping.Stopping`."""


def stopping(config: Config, tasks: Mapping[str, Task], primary: Sequence[str]) -> Stopping | None:
    """What ends training before the last epoch, where anything is to.

    Args:
        config: the run's configuration.
        tasks: the run's.
        primary: names of those that the run is for.
    """
    if not config.stopping.get("_target_"):
        return None
    facts = {"tasks": tasks, "primary": primary, "baseline": config.tracking.baseline}
    made: Stopping = component(config.stopping, "stopping", Stopping, **facts)
    return made


def annealing(
    config: Config, tasks: Sequence[str], primary: Sequence[str], method: Weighting, steps: int
) -> Annealing | None:
    """What fades auxiliary tasks out, where the run asks for it.

    Args:
        config: the run's configuration.
        tasks: names of the run's.
        primary: names of those that the run is for.
        method: gives the weights that fade.
        steps: of the whole run.

    Raises:
        UserError: the method gives no weights.
    """
    share = chosen_tasks(config.tasks).anneal
    if share is None:
        return None
    if isinstance(method, JacobianWeighting) and not method.is_weighted_sum:
        raise UserError(
            f"tasks.anneal={share:g} fades the weights of tasks, and {type(method).__name__} gives "
            "none: it combines the task gradients entry by entry. Leave it out, or choose another "
            "method (mtlrun list weighting)."
        )
    # As it is written: 0.55 of 100 steps are 55, not some rounding more
    return Annealing(tasks, primary, float(Fraction(str(share)) * steps))
