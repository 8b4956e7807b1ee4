"""Cosines between the gradients of what a sampler draws, for samplers that learn from them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.engine.backward import Forward, kept
from mtlrun.engine.loader import TrainLoader, label_masks
from mtlrun.randomness import generator, seed_global_step
from mtlrun.sampling.units import Unit


class GradientProbe:
    """Takes one batch of each unit and compares their gradients on the shared parameters.

    A unit's gradient is that of the sum of its tasks' losses. The batches are drawn at random,
    addressed by the step; running statistics stay as they are, and dropout masks are the step's.
    The units' training gradients are held at once.

    Args:
        forward: how the network is called.
        loader: of the training batches.
        split: whose gradients they are compared with, ``train`` or ``val``.
    """

    def __init__(self, forward: Forward, loader: TrainLoader, split: str) -> None:
        self.forward = forward
        self.loader = loader
        self.split = split
        self.dataset = loader.dataset
        self.placement = loader.placement
        self.masks = {
            name: label_masks(self.dataset.splits[name], self.dataset.streams, forward.tasks)
            for name in {"train", split}
        }
        self.shared = forward.model.shared_parameters()

    def cosines(self, units: Sequence[Unit], epoch: int, step: int) -> Tensor:
        """See :meth:`~mtlrun.sampling.base.Sampler.refresh`; 0 where a gradient is 0 or not finite.

        Args:
            units: what the sampler draws.
            epoch: counted from 0.
            step: steps done, over the whole run.
        """
        with kept(list(self.forward.model.buffers())):
            training = [self._gradient(unit, "train", "probe", epoch, step) for unit in units]
            rows = []
            for unit in units:
                other = self._gradient(unit, self.split, "probe against", epoch, step)
                rows.append(torch.stack([_cosine(other, own) for own in training]))
        return torch.stack(rows).cpu()

    def _gradient(
        self, unit: Unit, split: str, purpose: str, epoch: int, step: int
    ) -> list[Tensor | None]:
        source = self.dataset.splits[split][unit.stream]
        mask = self.masks[split].get(unit.tasks[0]) if len(unit.tasks) == 1 else None
        rows = torch.arange(len(source)) if mask is None else mask.nonzero().flatten()
        draws = generator(self.loader.seed, purpose, unit.name, step)
        chosen = rows[torch.randperm(len(rows), generator=draws)[: unit.batch_size]]
        present = tuple(
            task
            for task in unit.tasks
            if task not in self.masks[split] or bool(self.masks[split][task][chosen].any())
        )
        if not present:
            return [None for _ in self.shared]
        read = {unit.stream: source.rows(chosen)}
        batch = self.placement.batch(self.dataset, read, {unit.stream: present}, lambda _: None)
        if split == "train" and self.forward.distillation is not None:
            batch[unit.stream].rows = chosen
            self.forward.distillation.teach(batch)
        seed_global_step(self.loader.seed, "dropout", epoch, step)
        indices = [self.forward.names.index(task) for task in present]
        losses = self.forward.losses(batch, indices)
        return list(torch.autograd.grad(torch.stack(losses).sum(), self.shared, allow_unused=True))


def _cosine(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> Tensor:
    """Of two gradients, given parameter by parameter; in float64."""
    inner = _inner(first, second)
    scale = (_inner(first, first) * _inner(second, second)).sqrt()
    cosine = inner / scale.clamp(min=torch.finfo(scale.dtype).tiny)
    return torch.where((scale > 0) & cosine.isfinite(), cosine, 0.0)


def _inner(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> Tensor:
    parts = [
        (a.double() * b.double()).sum()
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None
    ]
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)
