"""Randomness is addressed, not consumed.

Each consumer (initial weights, shuffling, augmentation, dropout, a method's own draws) seeds a
generator from (seed, purpose, where it is in training). So resuming needs no history of generators,
and figures depend neither on the number of workers nor on what is logged.
"""

from hashlib import blake2b

import torch


def address_seed(seed: int, purpose: str, *address: int | str) -> int:
    """A 63-bit seed for one use of randomness.

    Args:
        seed: the run's seed.
        purpose: who draws, for example ``"shuffle"``.
        address: where in training, for example epoch and step.
    """
    text = "/".join([str(seed), purpose, *map(str, address)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(
    seed: int, purpose: str, *address: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator on ``device``, seeded by :func:`address_seed`."""
    return torch.Generator(device=device).manual_seed(address_seed(seed, purpose, *address))


def seed_global(seed: int, purpose: str, *address: int | str) -> None:
    """Seed torch's global generators, for code that takes no generator (initialisers, dropout)."""
    value = address_seed(seed, purpose, *address)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
