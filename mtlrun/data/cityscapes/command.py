"""``mtlrun data prepare cityscapes``."""

from collections.abc import Sequence

from mtlrun.data.cityscapes.prepare import CITYSCAPES


def prepare_command(arguments: Sequence[str]) -> int:
    """Convert Cityscapes once into the arrays that training reads.

    Args:
        arguments: what follows ``mtlrun data prepare cityscapes``.

    Returns:
        the exit code.

    Raises:
        UserError: see :meth:`mtlrun.data.preparing.Preparation.prepare`.
    """
    return CITYSCAPES.command(
        arguments, (128, 256), "the folder with leftImg8bit, gtFine, disparity; or MTAN's folders"
    )
