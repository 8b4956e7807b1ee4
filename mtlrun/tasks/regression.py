"""One number, or several, for each row."""

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.tasks.base import Metric, Statistics, Task, masked_mean

RegressionLoss = Literal["mse", "l1", "huber"]


class Regression(Task):
    """One number for each row, or several.

    Targets are float [N], or [N, outputs], with NaN where the value is missing. Losses and errors
    are in the target's units, so a target whose spread is far from 1 calls for standardising it in
    the dataset, or for a weighting that evens the losses out.

    Metrics: ``r2``, the share of variance explained, 1 - SS_residual / SS_total over the whole
    split, the mean over outputs (NaN where it is undefined: fewer than two different labels);
    ``rmse`` and ``mae``, over all labelled values.

    Args:
        name: the task's name.
        outputs: numbers for each row.
        loss: ``mse``, ``l1`` or ``huber`` (Huber 1964).
        delta: where the Huber loss turns from quadratic to linear, in the target's units; 1 where
            not given. For ``loss="huber"`` only.
    """

    metrics: ClassVar = {
        "r2": Metric(True, 1.0),
        "rmse": Metric(False, 0.0),
        "mae": Metric(False, 0.0),
    }

    def __init__(
        self,
        *,
        name: str,
        outputs: int = 1,
        loss: RegressionLoss = "mse",
        delta: float | None = None,
    ) -> None:
        super().__init__(name=name)
        if outputs < 1:
            raise ValueError(f"outputs={outputs}: a regression has at least one output")
        if loss not in get_args(RegressionLoss):
            raise ValueError(f"loss={loss!r}: choose one of {', '.join(get_args(RegressionLoss))}")
        if delta is not None and loss != "huber":
            raise ValueError(f"delta={delta}: only loss=huber has it, and the loss is {loss}")
        if delta is not None and delta <= 0:
            raise ValueError(f"delta={delta}: must be above 0")
        self.output_size = outputs
        self.kind = loss
        self.delta = 1.0 if delta is None else delta
        # The base declares it for the class, and here the chosen loss decides it.
        self.likelihood = "laplace" if loss == "l1" else "gaussian"

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean over labelled values.

        Args:
            prediction: [N, outputs].
            target: [N] or [N, outputs], NaN where missing.
        """
        values, known = self._known(prediction, target)
        if self.kind == "mse":
            errors = F.mse_loss(prediction, values, reduction="none")
        elif self.kind == "l1":
            errors = F.l1_loss(prediction, values, reduction="none")
        else:
            errors = F.huber_loss(prediction, values, reduction="none", delta=self.delta)
        return masked_mean(errors, known)

    def labelled(self, target: Tensor) -> Tensor:
        """See :meth:`Task.labelled`."""
        return ~target.isnan() if target.dim() == 1 else ~target.isnan().all(1)

    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """For each output the number, sum and sum of squares of the labels, and the sums of squared
        and absolute errors: float64 [outputs] each.

        Args:
            prediction: [N, outputs].
            target: [N] or [N, outputs], NaN where missing.
        """
        values, known = self._known(prediction, target)
        values = values.double()  # 0 where missing
        errors = torch.where(known, prediction.double() - values, 0.0)
        return {
            "count": known.sum(0).double(),
            "sum": values.sum(0),
            "sum_squares": values.square().sum(0),
            "squared_error": errors.square().sum(0),
            "absolute_error": errors.abs().sum(0),
        }

    def compute(self, statistics: Statistics) -> dict[str, float]:
        """See :meth:`Task.compute`."""
        count, squared_error = statistics["count"], statistics["squared_error"]
        total = statistics["sum_squares"] - statistics["sum"].square() / count
        # What is left of equal labels is rounding, and no variance to explain.
        rounding = 1e-13 * statistics["sum_squares"]
        r2 = torch.where(total > rounding, 1 - squared_error / total, torch.nan)
        return {
            "r2": r2.nanmean().item(),
            "rmse": (squared_error.sum() / count.sum()).sqrt().item(),
            "mae": (statistics["absolute_error"].sum() / count.sum()).item(),
        }

    def _known(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Targets [N, outputs] with 0 for those missing, and which are known."""
        target = target.view(len(target), -1)
        if prediction.shape != target.shape:
            raise ValueError(
                f"{self.name}: predictions of shape {list(prediction.shape)} and targets of shape "
                f"{list(target.shape)} do not match; the task has outputs={self.output_size}"
            )
        known = ~target.isnan()
        # NaN must not enter the loss at all: its gradient is NaN even where it is masked out.
        return torch.where(known, target, 0.0), known
