"""Random loss weighting."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from mtlrun.settings import REDUCTIONS, check_choice
from mtlrun.weighting.base import LossWeighting

Distribution = Literal["normal", "uniform", "dirichlet", "bernoulli", "one_task"]


def _softmax_of_normals(tasks: int, generator: torch.Generator) -> Tensor:
    return torch.softmax(torch.randn(tasks, generator=generator), dim=0)


def _softmax_of_uniforms(tasks: int, generator: torch.Generator) -> Tensor:
    return torch.softmax(torch.rand(tasks, generator=generator), dim=0)


def _dirichlet(tasks: int, generator: torch.Generator) -> Tensor:
    """Uniform on the simplex: exponential draws over their sum."""
    draws = torch.empty(tasks).exponential_(generator=generator)
    return draws / draws.sum()


def _bernoulli(tasks: int, generator: torch.Generator) -> Tensor:
    """Each task with probability 1/2, drawn again until there is one; equal weights."""
    chosen = torch.zeros(tasks)
    while not chosen.any():
        chosen = torch.randint(2, (tasks,), generator=generator).float()
    return chosen / chosen.sum()


def _one_task(tasks: int, generator: torch.Generator) -> Tensor:
    weights = torch.zeros(tasks)
    weights[torch.randint(tasks, (), generator=generator)] = 1
    return weights


DRAWS: Mapping[Distribution, Callable[[int, torch.Generator], Tensor]] = {
    "normal": _softmax_of_normals,
    "uniform": _softmax_of_uniforms,
    "dirichlet": _dirichlet,
    "bernoulli": _bernoulli,
    "one_task": _one_task,
}
"""For each distribution its draw: weights [T], 0 or more, that sum to 1."""


class RandomLossWeighting(LossWeighting):
    """Random loss weighting, RLW (Lin, Ye, Zhang and Tsang, TMLR 2022, algorithm 1).

    Each step draws new weights on the simplex and minimises the sum of w_i L_i, heads included. By
    the distribution (section 5.3):

    * ``normal``: the softmax of standard normal draws, the paper's choice;
    * ``uniform``: the softmax of uniform draws from [0, 1];
    * ``dirichlet``: a Dirichlet draw with concentration 1, uniform on the simplex;
    * ``bernoulli``: each task with probability 1/2, equal weights among these. The paper divides by
      their number and does not say what happens when none is drawn; here it is drawn again;
    * ``one_task``: one task, all with the same probability (the paper's c-Bernoulli).

    The expected weight is the same for all tasks, so this is equal weighting with noise: a method
    that does not beat it has shown little. The weights are over the tasks of the step. They depend
    on the run's seed, the epoch and the step only.

    Args:
        distribution: which of these.
        reduction: ``"mean"``, weights that sum to 1 (the paper; also Nash-MTL's code), or
            ``"sum"``, to the number of tasks, to compare with ``weighting=equal`` at the same
            learning rate.
    """

    compares = "losses"
    claims = frozenset({"homogeneous"})

    def __init__(
        self,
        distribution: Distribution = "normal",
        reduction: Literal["sum", "mean"] = "mean",
    ) -> None:
        super().__init__()
        check_choice("distribution", distribution, tuple(DRAWS))
        check_choice("reduction", reduction, REDUCTIONS)
        self.draw = DRAWS[distribution]
        self.reduction = reduction

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        weights = self.draw(len(losses), self.generator("random"))
        if self.reduction == "sum":
            weights = weights * len(losses)
        stacked = torch.stack(losses)
        return (weights.to(stacked.device, non_blocking=True) * stacked).sum()
