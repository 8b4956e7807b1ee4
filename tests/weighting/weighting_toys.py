"""The toy problems of published code, rebuilt to be trained through our weightings."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from weighting_driver import reference, task_infos

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.gradnorm import GradNorm
from mtlrun.weighting.uncertainty import Uncertainty

Positions = dict[int, Tensor]
Directions = Callable[[Tensor, Tensor], Tensor]
"""From the gradients [T, P] and losses [T] of one point to its direction [P]."""


def toy2d(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients [N, 2 tasks, 2] and losses [N, 2] at each point, [N, 2].

    The definition is in reference/weighting_toy2d.json; its lower bound inside the logarithms is
    never met here.
    """
    x, y = positions.numpy().T
    slope = 1 / np.cosh(y) ** 2
    inside1 = 0.5 * (-x - 7) + np.tanh(y)
    inside2 = 0.5 * (-x + 3) - np.tanh(y) + 2
    log1, log2 = np.log(np.abs(inside1)) + 6, np.log(np.abs(inside2)) + 6
    square1 = ((7 - x) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20
    square2 = ((7 + x) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20
    half = np.tanh(0.5 * y)
    above, below = np.maximum(half, 0), np.maximum(-half, 0)
    above_slope = np.where(y >= 0, 0.5 * (1 - half**2), 0.0)  # at 0 both, as torch's clamp has it
    below_slope = np.where(y <= 0, -0.5 * (1 - half**2), 0.0)
    across = 0.02 * (y + 8) * below
    losses = [log1 * above + square1 * below, log2 * above + square2 * below]
    gradients = [
        [
            -0.5 / inside1 * above - (7 - x) / 5 * below,
            slope / inside1 * above + log1 * above_slope + across + square1 * below_slope,
        ],
        [
            -0.5 / inside2 * above + (7 + x) / 5 * below,
            -slope / inside2 * above + log2 * above_slope + across + square2 * below_slope,
        ],
    ]
    scale = torch.tensor([0.1, 1.0], dtype=torch.float64)
    jacobians = torch.from_numpy(np.array(gradients)).permute(2, 0, 1)
    return jacobians * scale[:, None], torch.from_numpy(np.array(losses)).T * scale


def walk_toy2d(
    starts: Sequence[Sequence[float]], directions: Sequence[Directions], steps: int
) -> dict[int, Tensor]:
    """Walk from each start along its own directions, all side by side, by Adam.

    Returns:
        for the step numbers of the reference the positions, [N, 2].
    """
    positions = torch.tensor(starts, dtype=torch.float64)
    optimizer = torch.optim.Adam([positions], lr=1e-3)
    seen = {}
    for step in range(1, steps + 1):
        moves = zip(directions, *toy2d(positions), strict=True)
        positions.grad = torch.stack(
            [direct(gradients, losses) for direct, gradients, losses in moves]
        )
        optimizer.step()
        if step in (1, 10, 100, 500, 1000, 2000):
            seen[step] = positions.clone()
    return seen


def toy2d_reference(name: str) -> dict[tuple[float, ...], Positions]:
    return {
        tuple(trajectory["init"]): {
            int(step): torch.tensor(position, dtype=torch.float64)
            for step, position in trajectory["positions"].items()
        }
        for trajectory in reference("weighting_toy2d")["trajectories"][name]
    }


def run_gradnorm_toy(iterations: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Task weights after, and losses in, each iteration; see reference/weighting_gradnorm_toy.json.

    Draws are those of the published port: NumPy's for the data (epsilons before B), torch's for the
    network (trunk before heads).
    """
    draws = np.random.RandomState(123)
    epsilons = draws.normal(scale=3.5, size=(2, 100, 250)).astype(np.float32)
    base = draws.normal(scale=10, size=(100, 250)).astype(np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        trunk = nn.ModuleList([nn.Linear(250, 100), *(nn.Linear(100, 100) for _ in range(3))])
        heads = nn.ModuleList([nn.Linear(100, 100) for _ in range(2)])
    weighting = GradNorm(alpha=0.12, learning_rate=1e-4, tasks=task_infos(2))
    network = [*trunk.parameters(), *heads.parameters()]
    optimizer = torch.optim.Adam(
        [{"params": network}, {"params": weighting.parameters(), "lr": weighting.learning_rate}],
        lr=1e-4,
    )
    last_layer = trunk[-1].weight
    seen = {}
    for iteration in range(iterations):
        inputs = draws.uniform(-1, 1, size=(100, 250)).astype(np.float32)
        inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
        features = torch.from_numpy(inputs)
        for layer in trunk:
            features = layer(features).relu()
        losses = []
        for head, sigma, epsilon in zip(heads, (1, 100), epsilons, strict=True):
            target = np.float32(sigma) * np.tanh(inputs @ (base + epsilon).T)
            losses.append(F.mse_loss(head(features), torch.from_numpy(target)))
        rows = [
            torch.autograd.grad(loss, last_layer, retain_graph=True)[0].flatten() for loss in losses
        ]
        jacobian = torch.stack(rows).double()
        weighting.step = StepInfo(0, 0, iteration, (0, 1))
        optimizer.zero_grad()
        shown = torch.stack(losses).detach()
        weights = weighting.weights(jacobian @ jacobian.T, shown.double())
        torch.autograd.backward(losses, list(weights.float()))
        optimizer.step()
        weighting.after_step()
        seen[iteration] = (weighting.task_weights.detach().clone(), shown)
    return seen


def run_uncertainty_notebook() -> Mapping[str, list[float]]:
    """What the notebook learns; see reference/weighting_uncertainty_notebook.json."""
    draws = np.random.RandomState(0)
    inputs = draws.randn(100, 1)
    first = inputs * 2.0 + 8.0 + 10.0 * draws.randn(100, 1)
    second = inputs * 3.0 + 3.0 + draws.randn(100, 1)
    data = np.concatenate([inputs, first, second], axis=1).astype(np.float32)
    found = {"first_inputs": inputs[:3, 0].tolist(), "first_targets": first[:3, 0].tolist()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk, *heads = nn.Linear(1, 1024), nn.Linear(1024, 1), nn.Linear(1024, 1)
    both_heads = nn.Linear(1024, 2)  # as one layer, which halves the time
    with torch.no_grad():
        both_heads.weight.copy_(torch.cat([head.weight for head in heads]))
        both_heads.bias.copy_(torch.cat([head.bias for head in heads]))
    weighting = Uncertainty(form="notebook", tasks=task_infos(2))
    weighting.step = StepInfo(0, 0, 0, (0, 1))
    modules = nn.ModuleList([trunk, both_heads, weighting])
    optimizer = torch.optim.Adam(modules.parameters(), fused=True)
    epoch_losses = []
    for _ in range(2000):
        order = np.arange(100)
        draws.shuffle(order)
        data = data[order]
        total = torch.zeros(())
        for batch in torch.from_numpy(data).split(20):
            predictions = both_heads(trunk(batch[:, :1]).relu())
            losses = (predictions - batch[:, 1:]).square().mean(dim=0)
            objective = weighting.objective(list(losses.unbind()))
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
            total += objective.detach()
        epoch_losses.append(total.item() / 5)
    found["epoch_losses"] = [epoch_losses[0], epoch_losses[-1]]
    found["standard_deviations"] = (weighting.log_scale.detach() / 2).exp().tolist()
    return found
