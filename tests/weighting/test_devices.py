"""Methods that live on the network's device work there, and never wait for it.

The ``meta`` device stands in for a GPU: its tensors hold no values, so reading one back raises, and
so does mixing them with tensors on the CPU.
"""

import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, build, configured, random_problem, read_config

from mtlrun.adam import Adam
from mtlrun.weighting.base import JacobianWeighting, LossWeighting, StepInfo, Weighting
from mtlrun.weighting.equal import Equal

WAITS = "go4align"
"""Finds groups on the host."""
LOSS_METHODS = [name for name in configured() if issubclass(read_config(name)[0], LossWeighting)]


def show(weighting: Weighting, present: tuple[int, ...]) -> None:
    """One step, late in training."""
    weighting.step = StepInfo(0, 9, 100, present)
    if isinstance(weighting, LossWeighting):
        leaves = [torch.ones((), device="meta").requires_grad_() for _ in present]
        weighting.objective(leaves).backward()
        if weighting.reevaluates:
            weighting.reevaluated(torch.ones(len(present), device="meta"))
    else:
        assert isinstance(weighting, JacobianWeighting)
        weighting.representation = torch.ones(4, 2, device="meta")
        jacobian = torch.ones(len(present), 8, device="meta")
        weighting.direction(jacobian, torch.ones(len(present), device="meta"))
    weighting.after_step()


@pytest.mark.parametrize("present", [(0, 1, 2), (0, 2)])
@pytest.mark.parametrize("name", [*(n for n in LOSS_METHODS if n != WAITS), "excess_mtl"])
def test_a_step_stays_on_the_device(name: str, present: tuple[int, ...]) -> None:
    show(build(name, 3).to("meta"), present)


@pytest.mark.parametrize("present", [(0, 1, 2), (0, 2)])
@pytest.mark.parametrize("name", ["great", "rotograd"])
def test_methods_at_the_representation_do_too(name: str, present: tuple[int, ...]) -> None:
    """After their first step, which may look whether it is the first."""
    weighting = build(name, 3)
    Drive(weighting, 3).step(*random_problem(3, 8))
    for adapter in weighting.adapters().values():  # part of the network
        adapter.to("meta")
    show(weighting.to("meta"), present)


def test_the_one_that_waits_says_so() -> None:
    weighting = build(WAITS, 3).to("meta")
    assert "waits for its losses" in (type(weighting).__doc__ or "")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        show(weighting, (0, 1, 2))


class OnTheHost(Equal):
    """Has a tensor on the CPU."""

    def objective(self, losses: list[Tensor]) -> Tensor:
        return (torch.ones(len(losses)) * torch.stack(losses)).sum()


class Reading(Equal):
    """Looks at a loss."""

    def objective(self, losses: list[Tensor]) -> Tensor:
        return losses[0] if losses[0] > 0 else losses[1]


@pytest.mark.parametrize("method", [OnTheHost, Reading])
def test_faults_are_seen(method: type[Equal]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        show(method(), (0, 1))


def test_adam_is_that_of_torch() -> None:
    start = torch.tensor([1.0, -2.0, 0.5])
    known = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([known], lr=0.03, weight_decay=0.1)
    ours, adam = start.clone(), Adam(start, 0.03, weight_decay=0.1)
    for step in range(50):
        gradient = torch.sin(torch.arange(3.0) + step) * 10.0 ** -torch.arange(0.0, 6, 2)
        known.grad = gradient.clone()
        optimizer.step()
        adam.step(ours, gradient)
        torch.testing.assert_close(ours, known.detach(), rtol=1e-5, atol=1e-7)
