"""Where a run computes: device and threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mtlrun.errors import UserError


def device_of(name: str) -> torch.device:
    """The device that ``engine.device`` names.

    Raises:
        UserError: where there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"engine.device={name}: use auto, cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"engine.device={name}: use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"engine.device={name}, and torch sees {torch.cuda.device_count()} CUDA devices here. "
            "Use engine.device=cpu, or install a CUDA build of torch."
        )
    return device


SMALL_STEP = 2e8
"""Floating-point operations of a forward pass below which one thread is as fast as more."""


def threads_of(setting: object, flops: float) -> int:
    """The number of CPU threads that ``engine.threads`` means.

    Args:
        setting: ``auto`` or a number.
        flops: floating-point operations of one training step's forward pass. Handing work to other
            threads costs more than it saves where operators are small, so ``auto`` uses one thread
            below :data:`SMALL_STEP`.

    Raises:
        UserError: for anything else.
    """
    if setting == "auto":
        return 1 if flops < SMALL_STEP else _cores()
    if isinstance(setting, int) and not isinstance(setting, bool) and setting >= 1:
        return setting
    raise UserError(f"engine.threads={setting}: use auto, or a number of threads from 1 on.")


def _cores() -> int:
    """The cores of this process, or as many as OMP_NUM_THREADS grants it where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    granted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(granted)) if granted.isdecimal() else cores)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute on ``count`` threads; afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
