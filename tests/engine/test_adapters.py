import pytest
import torch
from engine_toys import task_infos, toy_tasks
from torch import Tensor

from mtlrun.engine.adapters import LossesAsGramian
from mtlrun.types import StepInfo
from mtlrun.weighting.base import LossWeighting
from mtlrun.weighting.static import Static
from mtlrun.weighting.uncertainty import Uncertainty


def test_weights_and_own_gradients_are_those_of_the_objective() -> None:
    inner = Uncertainty(tasks=task_infos(toy_tasks()))
    with torch.no_grad():
        inner.log_scale.copy_(torch.tensor([0.3, -0.5, 1.0]))
    inner.begin_step(StepInfo(0, 0, 0, (0, 2)))
    losses = torch.tensor([0.7, 3.0], dtype=torch.float64)
    leaves = [loss.float().requires_grad_() for loss in losses]
    inner.objective(leaves).backward()
    wanted = [leaf.grad.item() for leaf in leaves], inner.log_scale.grad.clone()
    inner.log_scale.grad = None

    adapter = LossesAsGramian(inner)
    with torch.no_grad():
        weights = adapter.weights(torch.eye(2, dtype=torch.float64), losses)
    assert weights.dtype == torch.float64
    assert weights.tolist() == pytest.approx(wanted[0])
    assert torch.equal(inner.log_scale.grad, wanted[1])


def test_the_method_keeps_its_heads_and_its_place_in_the_checkpoint() -> None:
    class Plain(LossWeighting):
        heads = "unweighted"

        def objective(self, losses: list[Tensor]) -> Tensor:
            return losses[0] * 2  # and nothing of the others

    inner = Plain()
    inner.begin_step(StepInfo(0, 0, 0, (0, 1, 2)))
    adapter = LossesAsGramian(inner)
    assert adapter.heads == "unweighted"
    assert adapter.weights(torch.eye(3), torch.ones(3).double()).tolist() == [2, 0, 0]
    held = LossesAsGramian(Static(tasks=task_infos(toy_tasks())))
    assert held.heads == "weighted"
    assert [*held.parameters(), *held.buffers(), *held.children()] == []
