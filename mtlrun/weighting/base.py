"""The contract of loss balancing: what a method needs to see, and what it gives back.

A method says what it needs by the class that it extends, and how heads are trained by ``heads``.
The engine obeys and never asks for a method by name. State lives in parameters and buffers, so that
checkpoints are complete.

Only the tasks with labels in a step are shown: vectors and matrices have the T tasks of
``self.step.present``. A method that keeps state for each task picks and writes that state with
:meth:`Weighting.pick` and :meth:`Weighting.put`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mtlrun.randomness import generator
from mtlrun.types import StepInfo, TaskInfo

Place = Literal["parameters", "representation", "last_layer"]


class Weighting(nn.Module):
    """Turns what a step shows about the tasks into the update of the shared parameters.

    A method's ``__init__`` takes its settings and, where it wants them, the runtime facts ``tasks``
    (a sequence of :class:`~mtlrun.types.TaskInfo`) as a keyword.

    Attributes:
        heads: how heads (and other parameters of one task) are trained: ``"weighted"``, by the
            task's weight times its loss, or ``"unweighted"``, by the plain loss.
        step: where training stands; set by the engine before it shows a step.
        learning_rate: of the method's own trainable parameters; None means the network's. They are
            never decayed and never clipped.
    """

    heads: ClassVar[Literal["weighted", "unweighted"]]
    learning_rate: float | None = None
    step: StepInfo

    def __init__(self) -> None:  # a module's own takes anything, and so would hide a wrong setting
        super().__init__()

    def begin_step(self, step: StepInfo) -> None:
        """Say where training stands. The engine calls it before it shows a step."""
        self.__dict__["step"] = step  # a module's own way to set an attribute costs microseconds

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for this step's draws; the same each time it is asked for."""
        return generator(self.step.seed, f"weighting/{purpose}", self.step.epoch, self.step.step)

    def pick(self, state: Tensor) -> Tensor:
        """The entries of this step's tasks in ``state``, which has one for each task of the run."""
        if len(self.step.present) == len(state):
            return state
        return state[list(self.step.present)]

    def put(self, state: Tensor, values: Tensor) -> None:
        """Write the entries of this step's tasks into the buffer ``state``."""
        with torch.no_grad():
            if len(self.step.present) == len(state):
                state.copy_(values)
            else:
                state[list(self.step.present)] = values.to(state.dtype)

    def start_epoch(self, mean_losses: Sequence[Tensor]) -> None:
        """Called before each epoch.

        Args:
            mean_losses: for each finished epoch the tasks' mean training losses, [tasks of the
                run], float64 on the CPU; NaN for a task that had no label in it.
        """

    def after_step(self) -> None:
        """Called after the optimizer has moved the parameters, the method's own among them."""


class LossWeighting(Weighting):
    """Sees losses only: one plain backward pass through everything.

    Attributes:
        linear: whether :meth:`objective` is linear in the losses given the method's state. Only
            then may a step be accumulated over several micro-batches: the engine asks for the
            weights with losses of 1 beforehand, so such an objective changes no state.
    """

    heads: ClassVar[Literal["weighted", "unweighted"]] = "weighted"
    linear: ClassVar[bool] = True

    @abstractmethod
    def objective(self, losses: list[Tensor]) -> Tensor:
        """The scalar to minimise. The weights that apply are its derivatives by the losses.

        Args:
            losses: the scalar loss of each of this step's tasks, part of the graph.
        """


class GramianWeighting(Weighting):
    """Sees the inner products of the task gradients. Lives on the CPU, computes in float64.

    Attributes:
        place: where gradients are taken by default (``gradients.at=auto``).
    """

    heads: ClassVar[Literal["weighted", "unweighted"]] = "unweighted"
    place: ClassVar[Place] = "parameters"

    @abstractmethod
    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Task weights w: the shared parameters get the gradient w_1 g_1 + ... + w_T g_T.

        A method with trainable parameters fills their ``.grad`` here, in closed form.

        Args:
            gramian: inner products of the task gradients, [T, T], float64.
            losses: [T], float64.

        Returns:
            [T], float64.
        """


class JacobianWeighting(Weighting):
    """Sees the task gradients themselves, where their inner products are not enough."""

    heads: ClassVar[Literal["weighted", "unweighted"]] = "unweighted"
    place: ClassVar[Place] = "parameters"

    @abstractmethod
    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        """The gradient that the shared parameters get, [P].

        Args:
            jacobian: task gradients, [T, P], float32. A buffer of the engine's: do not keep it.
            losses: [T], detached.
        """


__all__ = [
    "GramianWeighting",
    "JacobianWeighting",
    "LossWeighting",
    "Place",
    "StepInfo",
    "TaskInfo",
    "Weighting",
]
