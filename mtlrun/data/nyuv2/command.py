"""``mtlrun data prepare nyuv2``."""

from collections.abc import Sequence

from mtlrun.data.nyuv2.prepare import NYUV2


def prepare_command(arguments: Sequence[str]) -> int:
    """Convert NYUv2 once into the arrays that training reads.

    Args:
        arguments: what follows ``mtlrun data prepare nyuv2``.

    Returns:
        the exit code.

    Raises:
        UserError: see :meth:`mtlrun.data.preparing.Preparation.prepare`.
    """
    return NYUV2.command(
        arguments,
        (288, 384),
        "the folder (MTAN folders or image folders), or nyu_depth_v2_labeled.mat",
    )
