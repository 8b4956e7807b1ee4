"""One number, or several, for each row."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.tasks.base import Metric, Statistics, Task, masked_mean
from mtlrun.tasks.constants import Constants
from mtlrun.tasks.soft_targets import mean, precise
from mtlrun.tasks.values import as_matrix, known_rows

RegressionLoss = Literal["mse", "l1", "huber"]


class Regression(Task):
    """One number for each row, or several.

    Targets are float [N], or [N, outputs], with NaN where the value is missing, in their own units.
    The network predicts ``(value - center) / scale``, and losses are on that scale; metrics are in
    the target's units. A target whose spread is far from 1 calls for a ``center`` and ``scale``,
    or for a weighting that evens the losses out.

    Metrics: ``r2``, the share of variance explained, 1 - SS_residual / SS_total over the whole
    split, the mean over outputs (NaN where it is undefined: fewer than two different labels);
    ``rmse`` and ``mae``, over all labelled values. The normalised error (nMSE) of papers on robot
    dynamics is 1 - ``r2``. With several outputs ``rmse`` and ``mae`` pool the errors of all of
    them, so the output of the largest errors rules them: where units or scales differ they are not
    the error of any one output, and ``r2``, which weighs outputs alike, is the figure to read.

    Args:
        name: the task's name.
        outputs: numbers for each row.
        loss: ``mse``, ``l1`` or ``huber`` (Huber 1964).
        delta: where the Huber loss turns from quadratic to linear, on the standardised scale; 1
            where not given. For ``loss="huber"`` only.
        center: what the network's 0 stands for, for all outputs or for each.
        scale: what the network's 1 is above that, for all outputs or for each; above 0.

    Raises:
        ValueError: a setting is wrong, or there is not one ``center`` or ``scale`` an output.
    """

    metrics: Mapping[str, Metric] = {
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
        center: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
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
        centers, scales = _each("center", center, outputs), _each("scale", scale, outputs)
        if not all(map(math.isfinite, centers)):
            raise ValueError(f"center={center}: must be finite")
        if not all(0 < value < math.inf for value in scales):
            raise ValueError(f"scale={scale}: must be above 0 and finite")
        self.standardised = any(centers) or any(value != 1 for value in scales)
        self.center = Constants(centers, torch.float64)
        self.scale = Constants(scales, torch.float64)
        self.output_size = outputs
        self.kind = loss
        self.delta = 1.0 if delta is None else delta
        # The base declares it for the class, and here the chosen loss decides it.
        self.likelihood = "laplace" if loss == "l1" else "gaussian"

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean over labelled values, on the standardised scale, in float32 or better.

        Args:
            prediction: [N, outputs], standardised.
            target: [N] or [N, outputs], in its own units, NaN where missing.
        """
        return self._mean_error(prediction, *self._known(prediction, target))

    def _mean_error(self, prediction: Tensor, values: Tensor, known: Tensor) -> Tensor:
        """The loss against values in the target's units, [N, outputs], where they are known."""
        if self.standardised:
            center, scale = self.center.on(values.device), self.scale.on(values.device)
            values = ((values.double() - center) / scale).to(values.dtype)
        # The Huber loss, unlike the others, is else computed in the prediction's precision.
        prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        if self.kind == "mse":
            errors = F.mse_loss(prediction, values, reduction="none")
        elif self.kind == "l1":
            errors = F.l1_loss(prediction, values, reduction="none")
        else:
            errors = F.huber_loss(prediction, values, reduction="none", delta=self.delta)
        return masked_mean(errors, known)

    def soft_targets(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """The mean, in the target's units, [N, outputs]. See :meth:`Task.soft_targets`."""
        del temperature
        mean_prediction = mean([precise(prediction) for prediction in predictions])
        if not self.standardised:
            return mean_prediction
        device = mean_prediction.device
        values = mean_prediction.double() * self.scale.on(device) + self.center.on(device)
        return values.to(mean_prediction.dtype)

    def soft_loss(
        self, prediction: Tensor, soft: Tensor, target: Tensor, temperature: float
    ) -> Tensor:
        """See :meth:`Task.soft_loss`."""
        del temperature
        _, known = self._known(prediction, target)
        return self._mean_error(prediction, soft, known)

    def labelled(self, target: Tensor) -> Tensor:
        """See :meth:`Task.labelled`."""
        return known_rows(target)

    def elements(self, target: Tensor) -> Tensor:
        """Labelled values. See :meth:`Task.elements`."""
        return (~target.isnan()).sum()

    def statistics(self, prediction: Tensor, target: Tensor) -> Statistics:
        """For each output the number of the labels, the sum and sum of squares of their distances
        to the center, and the sums of squared and absolute errors, in the target's units: float64
        [outputs] each.

        Args:
            prediction: [N, outputs], standardised.
            target: [N] or [N, outputs], in its own units, NaN where missing.
        """
        values, known = self._known(prediction, target)
        values = values.double()  # 0 where missing
        predicted = prediction.double()
        if self.standardised:
            # Far from 0 the variance would drown in the squares; from the center it does not.
            center, scale = self.center.on(values.device), self.scale.on(values.device)
            values = torch.where(known, values - center, 0.0)
            predicted = predicted * scale
        errors = torch.where(known, predicted - values, 0.0)
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
        target = as_matrix(self.name, prediction, target)
        known = ~target.isnan()
        # NaN must not enter the loss at all: its gradient is NaN even where it is masked out.
        return torch.where(known, target, 0.0), known


def _each(argument: str, given: float | Sequence[float], outputs: int) -> tuple[float, ...]:
    """One number for each output, from one for all or one for each."""
    if not isinstance(given, Sequence):
        return (float(given),) * outputs
    if len(given) != outputs:
        raise ValueError(
            f"{argument}={list(given)}: needs one number for all outputs, or one for each of "
            f"{outputs}"
        )
    return tuple(map(float, given))
