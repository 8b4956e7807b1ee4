"""A finished run put together again, with the weights of its selected epoch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mtlrun import build
from mtlrun.data.base import Dataset
from mtlrun.engine import checkpoint
from mtlrun.engine.backward import Forward
from mtlrun.engine.device import device_of, threads_of
from mtlrun.engine.evaluation import Figures, evaluate
from mtlrun.engine.loader import EvaluationLoader, Placement
from mtlrun.errors import UserError
from mtlrun.inference.stored import StoredRun, misfit
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task

FILES = {"best": checkpoint.BEST, "last": checkpoint.LAST}
Epoch = int | dict[str, int]


@dataclass(frozen=True)
class TrainedRun:
    """A trained network, its dataset and its tasks.

    Attributes:
        stored: the run.
        dataset: its dataset.
        tasks: its tasks.
        model: in evaluation mode.
        forward: how the network is called.
        placement: where batches go.
        batch_size: rows of a batch in evaluation.
        threads: that the CPU computes on.
        epoch: that the weights are of; where networks are independent, each one's by its first
            task.
    """

    stored: StoredRun
    dataset: Dataset
    tasks: Mapping[str, Task]
    model: MultiTaskModel
    forward: Forward
    placement: Placement
    batch_size: int
    threads: int
    epoch: Epoch

    def evaluate(self, split: str) -> Figures:
        """Metrics over a split, as the run itself computes them.

        Raises:
            UserError: there is no such split.
        """
        if split not in self.dataset.splits:
            raise UserError(
                f"--split {split}: this run has {', '.join(self.dataset.splits)}. It selected on "
                f"the {self.stored.config.select_on} split, and none was carved beside it."
            )
        loader = EvaluationLoader(
            self.dataset,
            split,
            self.tasks,
            batch_size=self.batch_size,
            placement=self.placement,
        )
        return evaluate(self.forward, loader)


def rebuild(stored: StoredRun, which: str = "best") -> TrainedRun:
    """The network of a finished run, from its configuration and a checkpoint alone.

    Args:
        stored: the run.
        which: ``best``, the selected epoch of each independent network; or ``last``.

    Raises:
        UserError: the data or the checkpoint is missing, or does not fit.
    """
    config, folder = stored.config, stored.folder
    path = folder / "checkpoints" / FILES[which]
    if not path.is_file():
        raise UserError(_without_checkpoint(folder, which))
    dataset, tasks = _data(stored)
    model, state = network_of(stored, path, dataset, tasks)
    device = device_of(config.engine.device)
    model.to(device).eval()
    if config.engine.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    return TrainedRun(
        stored,
        dataset,
        tasks,
        model,
        Forward(model, tasks, config.engine.amp == "bf16", config.engine.compile),
        Placement(device, config.engine.channels_last, config.engine.keep_data_on_device),
        config.engine.evaluation_batch_size or 2 * config.batch_size,
        _threads(stored),
        _epoch(state, model),
    )


def network_of(
    stored: StoredRun, path: Path, dataset: Dataset, tasks: Mapping[str, Task]
) -> tuple[MultiTaskModel, dict[str, Any]]:
    """The network of a finished run, on the CPU, and the checkpoint that its weights are from.

    Args:
        stored: the run.
        path: of the checkpoint.
        dataset: the run's, with the run's tasks.
        tasks: these.

    Raises:
        UserError: the checkpoint does not fit.
    """
    model = build.model(stored.config, dataset, tasks)
    infos = build.task_infos(dataset, tasks)
    build.weighting(stored.config, infos, model)  # it may add to the network
    return model, _load(stored, path, model)


def _data(stored: StoredRun) -> tuple[Dataset, dict[str, Task]]:
    """The run's dataset and tasks."""
    try:
        return build.dataset_and_tasks(stored.config)
    except UserError as error:
        if not {"root", "path"} & set(stored.config.dataset):
            raise
        raise UserError(
            f"{error} If the data of this run lies elsewhere now, add --data PATH."
        ) from error


def _without_checkpoint(folder: Path, which: str) -> str:
    found = [name for name, file in FILES.items() if (folder / "checkpoints" / file).is_file()]
    if found:
        return (
            f"{folder} has no checkpoints/{FILES[which]}, and the network's weights are in it. It "
            f"has another one: --checkpoint {found[0]}."
        )
    return (
        f"{folder} has no checkpoints (checkpoints/{FILES[which]} is missing): they were deleted "
        "or not copied along, and the network's weights are in them. Copy them, or train the run "
        "again."
    )


def _load(stored: StoredRun, path: Path, model: MultiTaskModel) -> dict[str, Any]:
    """Fill the network; the checkpoint."""
    try:
        return checkpoint.load_model(path, model)
    except checkpoint.DamagedCheckpointError:
        raise
    except UserError as error:  # of another format
        raise misfit(stored.folder, stored.result, str(error)) from error
    except RuntimeError as error:
        kept, own = checkpoint.read(path)["model"], model.state_dict()
        differences = [
            *(f"{name} is new" for name in own if name not in kept),
            *(f"{name} is gone" for name in kept if name not in own),
            *(
                f"{name} is {list(kept[name].shape)} there and {list(own[name].shape)} here"
                for name in own
                if name in kept and kept[name].shape != own[name].shape
            ),
        ]
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise misfit(
            stored.folder,
            stored.result,
            f"the network in {path} is another one than its settings and its data make now "
            f"({'; '.join(differences[:3])}{more}); or the data is not what it was trained on",
        ) from error


def _threads(stored: StoredRun) -> int:
    """As many as the run had, so that sums come out alike, but no more than there are cores."""
    setting = stored.config.engine.threads
    if setting != "auto":
        return threads_of(setting, 0.0)
    return max(1, min(int(stored.result.get("threads") or 1), os.cpu_count() or 1))


def _epoch(state: Mapping[str, Any], model: MultiTaskModel) -> Epoch:
    """The epoch, or the epochs, that a checkpoint's weights are of."""
    epochs = state["epoch"]
    if not isinstance(epochs, list):
        return int(epochs)
    if len(epochs) == 1:
        return int(epochs[0])
    groups = model.independent_groups()
    return {group[0]: int(epoch) for group, epoch in zip(groups, epochs, strict=True)}
