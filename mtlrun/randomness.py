"""Randomness is addressed, not consumed.

Each consumer (initial weights, shuffling, augmentation, dropout, a method's own draws) seeds a
generator from (seed, purpose, where it is in training). So resuming needs no history of generators,
and figures depend neither on the number of workers nor on what is logged.
"""

from functools import lru_cache
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
    """Seed torch's global generators, for code that takes no generator (initialisers)."""
    _set_global(address_seed(seed, purpose, *address))


def seed_global_step(seed: int, purpose: str, epoch: int, step: int) -> None:
    """Seed torch's global generators for one step (dropout): :func:`seed_global`, but cheaper.

    The epoch's address is hashed once; steps are spread over the seeds by a multiplication with
    2^64 over the golden ratio, as in Fibonacci hashing.
    """
    _set_global((_cached_seed(seed, purpose, epoch) ^ (step * GOLDEN)) & LARGEST_SEED)


GOLDEN = 0x9E3779B97F4A7C15
LARGEST_SEED = (1 << 63) - 1
_cached_seed = lru_cache(maxsize=64)(address_seed)


def _set_global(value: int) -> None:
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
