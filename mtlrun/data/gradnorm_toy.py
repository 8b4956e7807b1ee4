"""GradNorm's toy: regressions that differ in scale alone."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.data.base import Dataset, Targets, TensorSource

STREAM = "gradnorm_toy"


class GradNormToy(Dataset):
    """Regressions of like difficulty and very different scale (Chen et al., ICML 2018, section 4).

        f_i(x) = sigma_i tanh((B + epsilon_i) x),    100 outputs of 250 inputs

    - ``f1``, ``f2``, ...: one task for each scale sigma_i, in its own units, so that the losses
      differ by the squares of the scales: about 0.93 and 9232 in an untrained network.

    B and the epsilons are normal; the paper's 10 and 3.5 are read as their standard deviations, as
    by all ports. The paper does not say how x is distributed. Here it is as in
    brianlan/pytorch-grad-norm, uniform from -1 to 1 and scaled to length 1, and all numbers are
    drawn in that port's order from NumPy's legacy generator (epsilons, B, then rows), so with
    ``seed=123`` rows 0 to 99 are its first batch, rows 100 to 199 its second.

    That port draws new inputs at each step. ``fresh`` does this in training, from the run's seed:
    an epoch then is ``train_rows`` new rows. Otherwise they are drawn once.

    Args:
        sigmas: the scales, one for each task declared in ``dataset.tasks``. The paper has (1, 100),
            and ten that it does not print.
        inputs: dimensions of x.
        outputs: dimensions of f.
        base_deviation: standard deviation of B's elements, what the tasks share.
        task_deviation: standard deviation of the epsilons' elements, what sets them apart.
        train_rows: rows to train on, drawn first; then those for validation and test.
        validation_rows: rows to validate on.
        test_rows: rows to test on.
        fresh: whether to draw new training rows at each step.
        seed: of B, the epsilons and the rows; not the run's, so that all runs see the same task.
        carve_validation: whether there is a validation split. It takes no rows from training.
        tasks: the declared tasks; None for as many as there are scales.
    """

    def __init__(
        self,
        sigmas: Sequence[float] = (1, 100),
        inputs: int = 250,
        outputs: int = 100,
        base_deviation: float = 10,
        task_deviation: float = 3.5,
        train_rows: int = 10000,
        validation_rows: int = 1000,
        test_rows: int = 1000,
        fresh: bool = False,
        seed: int = 123,
        *,
        carve_validation: bool = True,
        tasks: Mapping[str, str | None] | None = None,
    ) -> None:
        sizes = {
            "inputs": inputs,
            "outputs": outputs,
            "train_rows": train_rows,
            "validation_rows": validation_rows,
            "test_rows": test_rows,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size}: must be 1 or more")
        for name, deviation in (("base", base_deviation), ("task", task_deviation)):
            if not 0 <= deviation < math.inf:
                raise ValueError(f"{name}_deviation={deviation}: must be a number, 0 or more")
        names = _names(sigmas, tasks)
        draws = np.random.RandomState(seed)
        shape = (outputs, inputs)
        epsilons = draws.normal(scale=task_deviation, size=(len(names), *shape)).astype(np.float32)
        base = draws.normal(scale=base_deviation, size=shape).astype(np.float32)
        rows = {"train": train_rows, "val": validation_rows, "test": test_rows}
        uniform = draws.uniform(-1, 1, size=(sum(rows.values()), inputs)).astype(np.float32)

        self.fresh = fresh
        self.scales = dict(zip(names, map(float, sigmas), strict=True))
        self.maps = dict(zip(names, torch.from_numpy(base + epsilons), strict=True))
        points = _of_length_1(torch.from_numpy(uniform))
        everything = TensorSource(points, self._targets(points, names))
        parts = torch.arange(len(points)).split(list(rows.values()))
        self.splits = {
            split: {STREAM: everything.subset(part)}
            for split, part in zip(rows, parts, strict=True)
            if carve_validation or split != "val"
        }
        self.streams = {STREAM: names}
        self.input_shape = {STREAM: (inputs,)}
        self.facts = {name: {"kind": "regression", "outputs": outputs} for name in names}

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """New rows where ``fresh`` asks for them; see :meth:`Dataset.transform`."""
        del stream
        if draws is None or not self.fresh:
            return inputs, targets
        uniform = torch.rand(inputs.shape, generator=draws).mul_(2).sub_(1)
        points = _of_length_1(uniform).to(inputs.device)
        return points, self._targets(points, tuple(targets))

    def _targets(self, points: Tensor, names: Sequence[str]) -> Targets:
        """For each task its values, [N, outputs], at the points, [N, inputs]."""
        for name in names:
            self.maps[name] = self.maps[name].to(points.device)
        return {name: self.scales[name] * torch.tanh(points @ self.maps[name].T) for name in names}


def _of_length_1(points: Tensor) -> Tensor:
    return F.normalize(points, dim=1)


def _names(sigmas: Sequence[float], tasks: Mapping[str, str | None] | None) -> tuple[str, ...]:
    """The tasks, one for each scale.

    Raises:
        ValueError: a scale is 0 or no number, or the declared tasks are others.
    """
    if not sigmas or not all(0 < abs(sigma) < math.inf for sigma in sigmas):
        raise ValueError(f"sigmas={list(sigmas)}: must be one number or more, none of them 0")
    names = tuple(f"f{number}" for number in range(1, len(sigmas) + 1))
    if tasks is not None and tuple(tasks) != names:
        raise ValueError(
            f"sigmas={list(sigmas)}: a scale for each task, and dataset.tasks declares "
            f"{', '.join(tasks)}. Declare {', '.join(names)}"
        )
    return names
