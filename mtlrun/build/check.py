"""Every group's settings against the signature of its class, before any data is read."""

from mtlrun.build.components import check_arguments
from mtlrun.build.data import declared_tasks, primary_names, task_names
from mtlrun.build.network import ARCHITECTURE_FACTS, INPUT_FACTS, head_settings
from mtlrun.build.training import STOPPING_FACTS, sampler_settings
from mtlrun.config import Config


def check_settings(config: Config) -> None:
    """Compare every group's settings with its class, before any data is read.

    Raises:
        UserError: the first that does not fit.
    """
    dataset = {key: value for key, value in config.dataset.items() if key != "tasks"}
    check_arguments(dataset, "dataset", ("carve_validation", "tasks"))
    check_arguments(config.backbone, "backbone", INPUT_FACTS)
    for where, settings in head_settings(config):
        check_arguments(settings, where, ("in_channels", "out_channels", "layout", "size"))
    check_arguments(config.architecture, "architecture", ARCHITECTURE_FACTS)
    check_arguments(config.weighting, "weighting", ("tasks", "layers", "channels"))
    facts = ("units", "epochs", "seed", "levels")
    check_arguments(sampler_settings(config), "sampler", facts)
    check_arguments(config.optimizer, "optimizer", ("params",))
    if config.scheduler.get("_target_"):
        check_arguments(config.scheduler, "scheduler", ("optimizer",))
    if config.stopping.get("_target_"):
        check_arguments(config.stopping, "stopping", STOPPING_FACTS)
    declared = declared_tasks(config)
    for name in task_names(config):  # the data may bring some of a task's arguments, or its kind
        where = f"dataset.tasks.{name}"
        if "_target_" in declared[name]:
            check_arguments(declared[name], where, ("name",), complete=False)
    primary_names(config)
