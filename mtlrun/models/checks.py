"""Do the parts of a network fit together? Errors say what to choose instead."""

from collections.abc import Sequence

from mtlrun.types import Layout


def expect_image(choice: str, input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width of an input that must be an image.

    Args:
        choice: what the user chose, for example ``backbone=cnn``.
        input_shape: shape of one input, without the batch.

    Raises:
        ValueError: where the input is not [C, H, W].
    """
    if len(input_shape) != 3:
        raise ValueError(
            f"{choice} reads images [channels, height, width], and this input has shape "
            f"{list(input_shape)}: use backbone=mlp"
        )
    channels, height, width = input_shape
    return channels, height, width


def expect_rows(choice: str, size: Sequence[int] | None) -> None:
    """A head that gives one vector a row needs a task that wants one.

    Args:
        choice: what the user chose, for example ``heads=linear``.
        size: (H, W) of a dense task's prediction, None for a task with one prediction a row.

    Raises:
        ValueError: where the task is dense.
    """
    if size is not None:
        raise ValueError(
            f"{choice} gives one vector a row, and this task predicts for each pixel: "
            "use heads=conv or heads=deeplab"
        )


def expect_maps(choice: str, layout: Layout, size: Sequence[int] | None) -> tuple[int, int]:
    """Height and width of the prediction of a head that gives a map.

    Args:
        choice: what the user chose, for example ``heads=conv``.
        layout: of the features.
        size: (H, W) of a dense task's prediction, None for a task with one prediction a row.

    Raises:
        ValueError: where the task is not dense, or the features are no maps.
    """
    if size is None:
        raise ValueError(
            f"{choice} predicts a map, and this task wants one vector a row: "
            "use heads=linear or heads=mlp"
        )
    if layout != "map":
        raise ValueError(
            f"{choice} reads maps, and this backbone ends in {layout}s: use a backbone that keeps "
            "maps (such as backbone=cnn, resnet18, segnet or vit)"
        )
    height, width = size
    return height, width


def expect_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ValueError where ``value`` is none of the words that ``argument`` takes."""
    if value not in choices:
        raise ValueError(f"{argument}={value!r} is none of {', '.join(choices)}")


def expect_widths(argument: str, widths: Sequence[int], empty: bool = False) -> tuple[int, ...]:
    """The widths of layers, as a tuple.

    Raises:
        ValueError: where one is below 1, or there is none although ``empty`` is False.
    """
    if any(width < 1 for width in widths) or not (widths or empty):
        raise ValueError(f"{argument}={list(widths)} must name the width (1 or more) of each layer")
    return tuple(widths)


def expect_probability(argument: str, value: float) -> None:
    """Raise a ValueError where ``value`` is no dropout rate, 0 <= value < 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{argument}={value} must be at least 0 and below 1")


def expect_stages(argument: str, stages: Sequence[int] | None, count: int) -> list[int]:
    """The stages of a backbone that a setting names, counted from 0; all of them for None.

    Args:
        argument: the setting, for the message.
        stages: counted from 1.
        count: how many the backbone has.

    Raises:
        ValueError: there is no such stage, or none is named.
    """
    if stages is None:
        return list(range(count))
    if not stages or not all(1 <= stage <= count for stage in stages):
        raise ValueError(
            f"architecture.{argument}={list(stages)}: this backbone has the stages 1 to {count}. "
            "Use some of these, or null for all"
        )
    return sorted({stage - 1 for stage in stages})
