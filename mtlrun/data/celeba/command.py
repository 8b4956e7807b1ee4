"""``mtlrun data prepare celeba``."""

from collections.abc import Sequence

from mtlrun.data.celeba.prepare import CELEBA


def prepare_command(arguments: Sequence[str]) -> int:
    """Convert CelebA once into the arrays that training reads.

    Args:
        arguments: what follows ``mtlrun data prepare celeba``.

    Returns:
        the exit code.

    Raises:
        UserError: see :meth:`mtlrun.data.preparing.Preparation.prepare`.
    """
    return CELEBA.command(
        arguments,
        (64, 64),
        "the folder of list_attr_celeba.txt, list_eval_partition.txt and img_align_celeba",
    )
