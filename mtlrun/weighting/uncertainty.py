"""Weighting by homoscedastic uncertainty."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mtlrun.settings import check_choice
from mtlrun.types import Likelihood
from mtlrun.weighting._absent import KeepsAbsent
from mtlrun.weighting.base import LossWeighting, TaskInfo

Form = Literal["likelihood", "half", "unhalved", "notebook", "log_sigma", "log_sigma_clipped"]


class Term(NamedTuple):
    """One task's part of the objective, ``factor * exp(-rate * s) * L + penalty * s``.

    It is least at ``exp(rate * s) = factor * rate * L / penalty``, where the task's weight is
    ``penalty / (rate * L)``.
    """

    factor: float
    rate: float
    penalty: float


def _alike(term: Term) -> dict[Likelihood, Term]:
    return {"gaussian": term, "classification": term, "laplace": term}


FORMS: Mapping[Form, Mapping[Likelihood, Term]] = {
    "likelihood": {
        "gaussian": Term(0.5, 1.0, 0.5),
        "classification": Term(1.0, 1.0, 0.5),
        "laplace": Term(1.0, 0.5, 0.5),
    },
    "half": _alike(Term(0.5, 1.0, 0.5)),
    "unhalved": _alike(Term(1.0, 1.0, 0.5)),
    "notebook": _alike(Term(1.0, 1.0, 1.0)),
    "log_sigma": _alike(Term(1.0, 2.0, 1.0)),
    "log_sigma_clipped": _alike(Term(1.0, 2.0, 1.0)),
}
"""The published forms, see :class:`Uncertainty`."""

CLIP = (0.01, 10.0)
"""Where form ``log_sigma_clipped`` keeps its parameter."""


class Uncertainty(KeepsAbsent, LossWeighting):
    """Uncertainty weighting (Kendall, Gal and Cipolla, CVPR 2018, eq. 5 to 10).

    Each task has a learned noise scale sigma; its parameter is s = log sigma^2, as in the paper
    (section 3.2, end). Tasks are independent, so the objective is a sum of negative
    log-likelihoods. By the likelihood that the task's loss L belongs to:

    * gaussian (eq. 7), L a mean squared error: L / (2 sigma^2) + log sigma = e^-s L / 2 + s / 2;
    * classification (eq. 10), L a cross-entropy, the softmax at temperature sigma^2 and the paper's
      approximation of its normaliser: L / sigma^2 + log sigma = e^-s L + s / 2;
    * laplace (named under eq. 5 and not written out there), L a mean absolute error, with sigma the
      scale b of the density e^(-|y - f| / b) / (2 b): L / b + log b = e^(-s/2) L + s / 2.

    At its optimum s gives a task the weight 1 / (2 L), 1 / (2 L) and 1 / L.

    Published code departs from this by the form:

    * ``likelihood``: the above (the default);
    * ``half``: e^-s L / 2 + s / 2 for every task (lorenmt/mtan, where s starts from -0.5;
      lorenmt/auto-lambda, from -0.7; Nash-MTL, FAMO and FairGrad, from 0 with the learning rate
      0.025);
    * ``unhalved``: e^-s L + s / 2 for every task (SamsungLabs/MTL);
    * ``notebook``: e^-s L + s for every task (yaringal/multi-task-learning-example, by a co-author
      of the paper); twice ``half``, which matters under SGD;
    * ``log_sigma``: e^-2s L + s for every task, the parameter being s = log sigma;
    * ``log_sigma_clipped``: the same, but with s clipped to [0.01, 10] in the objective, so that
      weights are at most e^-0.02 and s has no gradient outside (Fifty et al., NeurIPS 2021, in
      google-research ``tag``, where s starts from 1; from the default of 0 it would never move,
      so that is refused).

    The objective may fall below 0. Weights have no upper bound while a loss goes to 0. A loss of 0
    or below says nothing about its noise: s has no gradient there, as it would fall without end.
    A task that is absent from a step keeps its s.

    Args:
        form: which of these.
        initial_value: what s starts from, for every task.
        learning_rate: of s. None trains it like the network, as the paper does; the GradNorm paper
            (section 5.1) and Nash-MTL use 0.025 for it. It is never decayed: that would pull
            weights back to where they started.
        tasks: the tasks of the run.

    Raises:
        ValueError: a form that there is not, or a start outside of what ``log_sigma_clipped`` clips
            to.
    """

    claims = frozenset({"homogeneous"})
    factor: Tensor
    rate: Tensor
    penalty: Tensor

    def __init__(
        self,
        form: Form = "likelihood",
        initial_value: float = 0.0,
        learning_rate: float | None = None,
        *,
        tasks: Sequence[TaskInfo],
    ) -> None:
        super().__init__()
        check_choice("form", form, tuple(FORMS))
        self.clipped = form == "log_sigma_clipped"
        if self.clipped and not CLIP[0] <= initial_value <= CLIP[1]:
            raise ValueError(
                f"initial_value={initial_value}: form={form} trains it between {CLIP[0]} and "
                f"{CLIP[1]} only; published code starts from 1"
            )
        self.learning_rate = learning_rate
        self.log_scale = nn.Parameter(torch.full((len(tasks),), float(initial_value)))  # s, [T]
        terms = [FORMS[form][task.likelihood] for task in tasks]
        for name, column in zip(Term._fields, zip(*terms, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(column), persistent=False)

    def objective(self, losses: list[Tensor]) -> Tensor:
        """See :meth:`LossWeighting.objective`."""
        stacked = torch.stack(losses)
        s = self.shown(self.log_scale)
        s = torch.where(stacked.detach() > 0, s, s.detach())
        if self.clipped:
            s = s.clamp(*CLIP)
        weights = self.pick(self.factor) * torch.exp(-self.pick(self.rate) * s)
        return (weights * stacked + self.pick(self.penalty) * s).sum()
