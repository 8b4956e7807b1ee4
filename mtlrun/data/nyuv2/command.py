"""``mtlrun data prepare nyuv2``."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from mtlrun.data.nyuv2.prepare import destination_of, prepare


def prepare_command(arguments: Sequence[str]) -> int:
    """Convert NYUv2 once into the arrays that training reads.

    Args:
        arguments: what follows ``mtlrun data prepare nyuv2``.

    Returns:
        the exit code.

    Raises:
        UserError: see :func:`mtlrun.data.nyuv2.prepare.prepare`.
    """
    parser = argparse.ArgumentParser(
        prog="mtlrun data prepare nyuv2",
        description="Convert NYUv2 (official .mat file, MTAN folders or image folders) once into "
        "the memory-mapped arrays that training reads. Stopped, it goes on where it was.",
    )
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="PATH",
                        help="the folder, or nyu_depth_v2_labeled.mat")  # fmt: skip
    parser.add_argument("--to", dest="destination", type=Path, metavar="DIR",
                        help="the folder to write; PATH/prepared_HxW where not given, or one in "
                        "the user's cache where that cannot be written")  # fmt: skip
    parser.add_argument("--size", type=int, nargs=2, default=(288, 384), metavar=("H", "W"),
                        help="height and width of the frames; 288 384 where not given")  # fmt: skip
    given = parser.parse_args(arguments)
    if min(given.size) < 1:
        parser.error(f"--size {given.size[0]} {given.size[1]}: both must be at least 1")
    source: Path = given.source.expanduser()
    size = (given.size[0], given.size[1])
    named: Path | None = given.destination.expanduser() if given.destination else None
    folder = named or destination_of(source, size)

    started = time.monotonic()
    plan = prepare(source, folder, size)
    seconds = time.monotonic() - started
    where = f"dataset.root={source}" if named is None else f"dataset.prepared={folder}"
    print(
        f"{folder} has {plan.facts['train']} training and {plan.facts['test']} test frames of "
        f"{size[0]} x {size[1]}: {plan.total_bytes / 1e9:.2f} GB, {seconds:.0f} s.\n"
        f"Train on it: mtlrun dataset=nyuv2 dataset.size=[{size[0]},{size[1]}] {where}"
    )
    return 0
