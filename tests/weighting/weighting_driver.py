"""Finds every weighting through its YAML file, and drives one through steps without an engine."""

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from mtlrun.types import Evaluation, MetricValue
from mtlrun.weighting.base import (
    GramianWeighting,
    JacobianWeighting,
    LossWeighting,
    StepInfo,
    TaskInfo,
    Weighting,
)

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "weighting"
MODULES = ROOT / "mtlrun" / "weighting"
NOT_METHODS = {"base", "solvers"}
LIKELIHOODS = ("gaussian", "classification", "laplace")
LAYERS = 2
"""Parts that the columns of a Jacobian are dealt out to, for methods that look at each layer."""
CHANNELS = 2
"""Of features [N, CHANNELS] that columns stand for, in methods that look at the representation."""


def configured() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def written() -> list[str]:
    stems = {path.stem for path in MODULES.glob("*.py")}
    return sorted(stem for stem in stems - NOT_METHODS if not stem.startswith("_"))


def task_infos(count: int) -> list[TaskInfo]:
    return [
        TaskInfo(f"task{i}", LIKELIHOODS[i % 3], initial_loss=1.0 + i / 10, train_rows=100 + i)
        for i in range(count)
    ]


def read_config(name: str) -> tuple[type[Weighting], dict[str, Any]]:
    """The class that a YAML file names, and its settings."""
    settings = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert isinstance(settings, dict)
    module, _, attribute = settings.pop("_target_").rpartition(".")
    cls = getattr(importlib.import_module(module), attribute)
    return cls, {str(key): value for key, value in settings.items() if key[0] != "_"}


def build(name: str, tasks: int | Sequence[TaskInfo], **changes: object) -> Weighting:
    """The method ``name`` as its YAML file has it, with some settings changed."""
    cls, settings = read_config(name)
    arguments = {**settings, **changes}
    infos = task_infos(tasks) if isinstance(tasks, int) else tasks
    facts = {"tasks": infos, "layers": LAYERS, "channels": CHANNELS}
    known = inspect.signature(cls).parameters
    arguments.update({key: fact for key, fact in facts.items() if key in known})
    return cls(**arguments)


def evaluation(losses: Sequence[float]) -> Evaluation:
    """A made-up evaluation: accuracies from losses, and changes against training alone."""
    accuracies = [1 / (1 + max(0.0, loss)) for loss in losses]
    names = [f"task{i}" for i in range(len(losses))]
    metrics = {
        name: {"loss": MetricValue(loss, False), "accuracy": MetricValue(accuracy, True)}
        for name, loss, accuracy in zip(names, losses, accuracies, strict=True)
    }
    changes = {name: 10 * (a - 0.5) for name, a in zip(names, accuracies, strict=True)}
    return Evaluation(metrics, dict.fromkeys(names, "accuracy"), changes)


def fallen(losses: Tensor) -> Tensor:
    """Made-up losses after further steps: large ones have fallen by more."""
    share = losses / losses.abs().sum().clamp(min=1e-30)
    return losses * (1 - 0.1 * share)


class Drive:
    """Shows a weighting one step after the other, as the engine does.

    Args:
        weighting: the method.
        tasks: tasks of the run.
        learning_rate: the network's, for the method's own parameters where it names none.
    """

    def __init__(self, weighting: Weighting, tasks: int, learning_rate: float = 0.01) -> None:
        self.weighting = weighting
        self.tasks = tasks
        self.number = 0
        self.learning_rate = learning_rate
        self.tracked: Tensor | None = None
        own = [p for p in weighting.parameters() if p.requires_grad]
        rate = weighting.learning_rate
        rate = learning_rate if rate is None else rate
        self.optimizer = torch.optim.Adam(own, lr=rate) if own else None

    def step(
        self,
        jacobian: Tensor,
        losses: Tensor,
        present: Sequence[int] | None = None,
        *,
        epoch: int = 0,
        seed: int = 0,
    ) -> Tensor:
        """One step; gives the direction [P] that the shared parameters would take.

        Args:
            jacobian: gradients of the tasks present, [T, P], float64.
            losses: of the tasks present, [T], float64.
            present: indices of these tasks; None for all.
        """
        present = tuple(range(self.tasks)) if present is None else tuple(present)
        assert len(present) == len(jacobian) == len(losses)
        self.weighting.step = StepInfo(seed, epoch, self.number, present, self.learning_rate)
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        direction = self._direction(jacobian, losses)
        if self.optimizer is not None:
            self.optimizer.step()
        self.weighting.after_step()
        if isinstance(self.weighting, LossWeighting) and self.weighting.reevaluates:
            self.weighting.reevaluated(fallen(losses).float())
        self.number += 1
        return direction

    def _direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        weighting = self.weighting
        if isinstance(weighting, LossWeighting):
            leaves = [loss.clone().requires_grad_() for loss in losses.float()]
            objective = weighting.objective(leaves)
            assert objective.shape == ()
            objective.backward()
            zero = torch.zeros(())
            weights = torch.stack([zero if x.grad is None else x.grad for x in leaves])
            return weights.to(jacobian) @ jacobian
        with torch.no_grad():
            if isinstance(weighting, GramianWeighting):
                return self._combined(weighting, jacobian, losses)
            assert isinstance(weighting, JacobianWeighting)
            shown = jacobian.float()
            if weighting.sees_representation:
                shown = F.pad(shown, (0, shown.shape[1] % CHANNELS))
                values = torch.linspace(-1, 1, shown.shape[1])
                weighting.representation = values.view(-1, CHANNELS)
            before = shown.clone()
            direction = weighting.direction(shown, losses.float())
            assert torch.equal(shown, before)  # the buffer is the engine's
            assert direction.dtype == shown.dtype
            assert direction.shape == shown.shape[1:]
            return direction[: jacobian.shape[1]].to(jacobian)

    def _combined(self, weighting: GramianWeighting, jacobian: Tensor, losses: Tensor) -> Tensor:
        """What the engine does for a method that sees Gramians. Further batches are 10 % apart."""
        tasks, size = jacobian.shape
        if weighting.tracks_rows:
            if self.tracked is None:
                self.tracked = torch.zeros(self.tasks, size, dtype=torch.float64)
            scales, rates = weighting.tracking(losses)
            rows = self.tracked[list(weighting.step.present)]
            jacobian = rows + rates[:, None] * (scales[:, None] * jacobian - rows)
            self.tracked[list(weighting.step.present)] = jacobian
        if weighting.per_layer:
            parts = jacobian.tensor_split(LAYERS, dim=1)
            gramian = torch.stack([part @ part.T for part in parts])
            weights = weighting.weights(gramian, losses)
            assert weights.shape == (LAYERS, tasks)
            return torch.cat([w @ part for w, part in zip(weights, parts, strict=True)])
        batches = [jacobian * (1 + number / 10) for number in range(weighting.batches)]
        rows = torch.cat(batches)
        if weighting.inner_steps:
            weighting.inner_losses = fallen(losses)
        weights = weighting.weights(rows @ rows.T, losses.repeat(weighting.batches))
        assert weights.dtype == torch.float64
        used = jacobian if weighting.lookahead else rows
        assert weights.shape == (len(used),)
        return weights @ used

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "weighting": self.weighting.state_dict(),
            "number": self.number,
            "tracked": self.tracked,
        }
        if self.optimizer is not None:
            state["optimizer"] = self.optimizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weighting.load_state_dict(state["weighting"])
        self.number = state["number"]
        self.tracked = state["tracked"]
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])


def random_problem(tasks: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gradients [T, P] with conflicts among them, and positive losses [T]."""
    draws = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(tasks, size, generator=draws, dtype=torch.float64)
    losses = torch.rand(tasks, generator=draws, dtype=torch.float64) + 0.5
    return jacobian, losses


def reference(name: str) -> Any:
    """Figures from outside, see ``about`` in each file."""
    return json.loads((ROOT / "tests" / "reference" / f"{name}.json").read_text())
