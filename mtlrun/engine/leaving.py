"""Tasks that leave training before the others, and what they take with them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtlrun.engine.loader import TrainLoader
from mtlrun.engine.saving import entries_of
from mtlrun.engine.step import TrainingStep
from mtlrun.engine.stopping import Seen, Stopping


class Leaving:
    """Does what a stopping decides.

    Where it lets single tasks leave, the parameters and buffers of each task are kept from its best
    epoch. They are put back when the task leaves; from then on they get no gradient, so no
    optimizer moves or decays them, and their modules are in evaluation mode, so no running
    statistics drift. The loader leaves the task's labels out.

    Args:
        stopping: decides.
        step: of the training.
        loader: of the training batches.
    """

    def __init__(self, stopping: Stopping, step: TrainingStep, loader: TrainLoader) -> None:
        self.stopping = stopping
        self.model = model = step.model
        self.step = step
        self.loader = loader
        self.kept: dict[str, dict[str, Tensor]] = {}
        self._entries: dict[str, list[str]] = {}
        if stopping.per_task:
            groups = [(task,) for task in model.tasks]
            self._entries = dict(zip(model.tasks, entries_of(model, groups), strict=True))
        self._held: list[nn.Module] = []

    def after_epoch(self, seen: Seen) -> list[str]:
        """Take an epoch in; what the user is told."""
        change = self.stopping.after_epoch(seen)
        if self.stopping.per_task:
            for task in change.better:
                self._keep(task)
            for task in change.left:
                self._restore(task)
            self._hold()
        return change.said

    def active(self) -> dict[str, bool]:
        """For each task whether it is trained; empty where tasks do not leave one by one."""
        return {task: task not in self.stopping.stopped for task in self._entries}

    def _keep(self, task: str) -> None:
        state = self.model.state_dict()
        self.kept[task] = {key: state[key].to("cpu", copy=True) for key in self._entries[task]}

    @torch.no_grad()
    def _restore(self, task: str) -> None:
        state = self.model.state_dict()
        for key, value in self.kept.get(task, {}).items():  # one that never had a value has none
            state[key].copy_(value)

    def _hold(self) -> None:
        """Freeze the tasks that have left, and no others."""
        stopped = [task for task in self.model.tasks if task in self.stopping.stopped]
        before = {id(module) for module in self._held}
        frozen = [module for module in self.model.frozen if id(module) not in before]
        self._held = [module for task in stopped for module in self._modules_of(task)]
        self.model.frozen = [*frozen, *self._held]
        self.step.held = [p for task in stopped for p in self.model.own_parameters(task)]
        self.loader.stopped = frozenset(stopped)

    def _modules_of(self, task: str) -> list[nn.Module]:
        """The modules whose whole state is one task's, without those inside of others."""
        own, others = set(self._entries[task]), set[str]()
        for key in self.model.state_dict():
            if key not in own:
                others.update(_above(key))
        places = {place for key in own for place in _above(key) if place not in others}
        tops = [place for place in places if place.rpartition(".")[0] not in places]
        return [self.model.get_submodule(place) for place in sorted(tops)]

    def state_dict(self) -> dict[str, Any]:
        """What was decided, and what is kept."""
        return {"stopping": self.stopping.state_dict(), "kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state_dict`. The network itself is as it was saved."""
        self.stopping.load_state_dict(state["stopping"])
        self.kept = {task: dict(entries) for task, entries in state["kept"].items()}
        if self.stopping.per_task:
            self._hold()


def _above(key: str) -> list[str]:
    """The paths of the modules that hold an entry of a state dict, without the network itself."""
    parts = key.split(".")[:-1]
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
