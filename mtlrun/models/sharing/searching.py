"""Architectures that search for a structure, and then train the one that they found."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.models.sharing.reading import StageReading

WARMUP, SEARCH, FIXED = 0, 1, 2
"""The phases of a run, in their order."""


class Searching(StageReading):
    """A warm-up, a search that learns choices, and training of what was chosen.

    The phase follows from the epoch. It stands in a buffer as well, so that a checkpoint evaluates
    as the network did, and what was found is written down when the search ends: whatever the
    optimizer still does to the logits then is of no effect.

    Args:
        streams: for each stream its tasks.
        search_from: the first epoch of the search.
        fixed_from: the first epoch behind it.
        found: of the shape and kind of :meth:`picked`.
    """

    phase: Tensor
    started: Tensor
    found: Tensor

    def __init__(
        self,
        *,
        streams: Mapping[str, Sequence[str]],
        search_from: int,
        fixed_from: int,
        found: Tensor,
    ) -> None:
        super().__init__(streams=streams)
        self.search_from, self.fixed_from = search_from, fixed_from
        self.register_buffer("phase", torch.tensor(WARMUP))
        self.register_buffer("started", torch.tensor(-1))
        self.register_buffer("found", found)
        # What the buffers say, known without asking the device in each step
        self._phase, self._started = WARMUP, -1
        hook = self.register_load_state_dict_post_hook  # which torch gives no types
        hook(_reread)  # type: ignore[no-untyped-call]

    @abstractmethod
    def picked(self) -> Tensor:
        """What the logits say now is best."""

    @abstractmethod
    def adopt(self) -> None:
        """Read what was found from its buffer, to train and evaluate that alone."""

    def start_step(self, epoch: int, step: int) -> None:
        """See :meth:`Architecture.start_step`."""
        phase = SEARCH if epoch >= self.search_from else WARMUP
        if epoch >= self.fixed_from:
            phase = FIXED
        if phase == self._phase:
            return
        if phase == SEARCH:
            self._started = step
            self.started.fill_(step)
        if phase == FIXED:
            with torch.no_grad():
                self.found.copy_(self.picked())
            self.adopt()
        self._phase = phase
        self.phase.fill_(phase)

    def searched(self, step: int) -> int:
        """Steps of the search that were done before this one."""
        return step - self._started


def _reread(architecture: Searching, keys: object) -> None:
    """After a checkpoint was loaded."""
    del keys
    architecture._phase = int(architecture.phase)
    architecture._started = int(architecture.started)
    if architecture._phase == FIXED:
        architecture.adopt()


def gumbel_noise(*shape: int, device: torch.device) -> Tensor:
    """Draws from the standard Gumbel distribution, by torch's global generator."""
    smallest = torch.finfo(torch.float32).tiny
    return -torch.empty(shape, device=device).exponential_().clamp(min=smallest).log()


def gumbel_softmax(logits: Tensor, noise: Tensor, temperature: Tensor, hard: bool) -> Tensor:
    """Choices among the entries of the last dimension, drawn by their softmax.

    Jang, Gu and Poole (ICLR 2017). The entry with the largest logit plus noise is the choice, with
    just the softmax's probability at any temperature.

    Args:
        logits: [..., K].
        noise: see :func:`gumbel_noise`, of the same shape.
        temperature: a scalar.
        hard: whether the choice is exactly 1 and the others 0, with the gradient of the relaxed
            choice (straight through); else the relaxed choice itself, which sums to 1.
    """
    relaxed = ((logits + noise) / temperature).softmax(-1)
    # relaxed - relaxed.detach() is exactly 0, so that nothing is rounded
    return one_hot(relaxed) + (relaxed - relaxed.detach()) if hard else relaxed


def one_hot(values: Tensor) -> Tensor:
    """1 at the largest entry of the last dimension (the first of equal ones), and 0 elsewhere."""
    places = values.detach().argmax(-1, keepdim=True)
    return torch.zeros_like(values).scatter(-1, places, 1.0)
