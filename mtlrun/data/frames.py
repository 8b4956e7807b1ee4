"""Frames with a target for each pixel, read from a prepared folder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlrun.data.augment import Resampler, draw_crops
from mtlrun.data.base import Dataset, NewInputs, Targets, carve
from mtlrun.data.images import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    decode,
    normalised,
    one_image,
)
from mtlrun.data.originals import scaled
from mtlrun.data.prepared import PreparedSource
from mtlrun.data.preparing import InMemory, Size, held

SCALES = (1.0, 1.2, 1.5)


class PreparedFrames(Dataset, ABC):
    """One stream of frames with dense targets.

    In training each row is cropped at random to 1, 1/1.2 or 1/1.5 of its height and width and
    stretched back, and flipped with probability 1/2: the augmentation of MTAN's and LibMTL's NYUv2
    code. Images are sampled bilinearly, targets by nearest neighbour. Images are then normalised by
    ImageNet's mean and standard deviation.

    Args:
        stream: its name.
        size: (H, W) of the frames.
        augment: whether to augment in training.
        sources: for each split its frames, on the disk.
        in_memory: see :func:`mtlrun.data.preparing.held`.
        facts: see :class:`~mtlrun.data.base.Dataset`.
    """

    new_inputs = "images"

    def __init__(
        self,
        stream: str,
        size: Size,
        augment: bool,
        sources: Mapping[str, PreparedSource],
        in_memory: InMemory,
        facts: dict[str, dict[str, Any]],
    ) -> None:
        self.size = size
        self.augment = augment
        self.splits = held({split: {stream: s} for split, s in sources.items()}, in_memory)
        self.streams = {stream: tuple(facts)}
        self.input_shape = {stream: (3, *size)}
        self.normalisation = {"mean": IMAGENET_MEAN, "deviation": IMAGENET_DEVIATION}
        self.facts = facts

    @abstractmethod
    def dense_target(self, task: str, stored: Tensor, resampler: Resampler | None) -> Tensor:
        """A target as its task reads it, from what the prepared arrays hold.

        Args:
            task: its name.
            stored: [N, ...], already cropped and flipped, where there is a resampler.
            resampler: what did it; None in evaluation.
        """

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """See :meth:`Dataset.transform`.

        Args:
            stream: the only one.
            inputs: uint8 [N, 3, H, W].
            targets: of any of the tasks, as stored.
            draws: see :meth:`Dataset.transform`.

        Returns:
            normalised float32 images [N, 3, H, W]; targets as their tasks read them.
        """
        del stream
        resampler = None
        if self.augment and draws is not None:
            crops = draw_crops(len(inputs), self.size, SCALES, draws)
            resampler = Resampler(crops, self.size, inputs.device)
        images = inputs if resampler is None else resampler.bilinear(inputs)
        images = normalised(images, IMAGENET_MEAN, IMAGENET_DEVIATION)
        dense = {}
        for task, target in targets.items():
            moved = target if resampler is None else resampler.nearest(target)
            dense[task] = self.dense_target(task, moved, resampler)
        return images, dense

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """An image, decoded in full and scaled as frames are when they are prepared.

        See :meth:`Dataset.encode`.
        """
        del stream, column
        whole = decode(file, str(file)).permute(1, 2, 0).contiguous().numpy()
        return one_image(torch.from_numpy(scaled(whole, self.size).copy()).permute(2, 0, 1))


def check_validation(share: float) -> None:
    """Refuse a share of the training frames that leaves none of them.

    Raises:
        ValueError: it is below 0, or not below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"validation={share}: a share of the training frames, 0 to 1")


def frame_splits(
    frames: PreparedSource, training: int, validation: float, seed: int
) -> dict[str, PreparedSource]:
    """The splits of a folder that has the training frames first and then the test frames.

    Args:
        frames: all of them.
        training: how many are for training.
        validation: share of those to carve out; with 0 there is no split ``val``.
        seed: of that choice.
    """
    kept, carved = carve(training, validation, seed)
    sources = {
        "train": frames.subset(kept),
        "test": frames.subset(torch.arange(training, len(frames))),
    }
    if len(carved):
        sources["val"] = frames.subset(carved)
    return sources
