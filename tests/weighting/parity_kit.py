"""What the parity rows share: how to compare with published code and exact answers.

Rows are in the files ``parity_*.py`` beside this one; :mod:`test_parity` finds them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from weighting_driver import Drive, build, reference
from weighting_toys import toy2d_reference, walk_toy2d

from mtlrun.weighting.base import GramianWeighting, LossWeighting, StepInfo


class Row(NamedTuple):
    """One method: where its figures come from, and the check."""

    method: str
    source: str
    check: Callable[[], None]


def close(got: Tensor, expected: Tensor | Sequence[float], tolerance: float) -> None:
    """Each figure within ``tolerance``, absolute."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)


def aggregator_cases() -> list[tuple[Tensor, Tensor, dict[str, Any]]]:
    """Gradients [T, P], losses [T] and what is known of each case."""
    return [
        (
            torch.tensor(case["gradients"], dtype=torch.float64),
            torch.tensor(case["losses"], dtype=torch.float64),
            case,
        )
        for case in reference("weighting_aggregators")["cases"].values()
    ]


def first_step(
    method: str, key: str, *, tolerance: float, kind: str = "published", **changes: object
) -> None:
    """The first step's direction on each aggregator case."""
    for jacobian, losses, case in aggregator_cases():
        drive = Drive(build(method, len(losses), **changes), len(losses))
        close(drive.step(jacobian, losses), case[kind][key]["direction"], tolerance)


def toy2d(
    method: str,
    change: Callable[[Tensor], Tensor] = lambda weights: weights,
    only: Sequence[tuple[float, float]] | None = None,
    **changes: object,
) -> None:
    """Positions on the 2-D toy within 1e-4 up to step 2000.

    Args:
        change: what becomes of the weights.
        only: the starts to walk from; None for all three.
    """
    known = toy2d_reference(method)
    starts = list(known if only is None else only)
    weighting = build(method, 2, **changes)
    weighting.step = StepInfo(0, 0, 0, (0, 1))

    def direction(jacobian: Tensor, losses: Tensor) -> Tensor:
        if isinstance(weighting, LossWeighting):
            leaves = [loss.requires_grad_() for loss in losses.clone().unbind()]
            weights = torch.stack(torch.autograd.grad(weighting.objective(leaves), leaves))
        else:
            assert isinstance(weighting, GramianWeighting)
            weights = weighting.weights(jacobian @ jacobian.T, losses)
        return change(weights) @ jacobian

    found = walk_toy2d(starts, [direction] * len(starts), 2000)
    for number, start in enumerate(starts):
        for step, position in known[start].items():
            close(found[step][number], position, 1e-4)
