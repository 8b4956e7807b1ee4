"""Targets of one number a row, or several, with NaN where one is missing."""

from torch import Tensor


def as_matrix(name: str, prediction: Tensor, target: Tensor) -> Tensor:
    """Targets [N] or [N, outputs] as [N, outputs].

    Args:
        name: the task's name, for the error.
        prediction: [N, outputs].
        target: [N] or [N, outputs].

    Raises:
        ValueError: the shapes do not match.
    """
    matrix = target.view(len(target), -1)
    if prediction.shape != matrix.shape:
        raise ValueError(
            f"{name}: predictions of shape {list(prediction.shape)} and targets of shape "
            f"{list(target.shape)} do not match: the task predicts {prediction.shape[1]} values "
            "for each row"
        )
    return matrix


def known_rows(target: Tensor) -> Tensor:
    """Which rows of targets [N] or [N, outputs] have a value: bool [N]."""
    return ~target.isnan() if target.dim() == 1 else ~target.isnan().all(1)
