"""From configuration to parts."""

from mtlrun.build.check import check_settings
from mtlrun.build.components import component
from mtlrun.build.data import dataset_and_tasks, primary_tasks, task_infos, task_names
from mtlrun.build.network import model
from mtlrun.build.training import (
    annealing,
    bare_weighting,
    counted_flops,
    forward_flops,
    optimizer,
    sampler,
    scheduler,
    stopping,
    weighting,
)

__all__ = [
    "annealing",
    "bare_weighting",
    "check_settings",
    "component",
    "counted_flops",
    "dataset_and_tasks",
    "forward_flops",
    "model",
    "optimizer",
    "primary_tasks",
    "sampler",
    "scheduler",
    "stopping",
    "task_infos",
    "task_names",
    "weighting",
]
