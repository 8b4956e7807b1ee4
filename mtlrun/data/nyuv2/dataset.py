"""NYUv2 as a dataset: one stream, three dense tasks."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mtlrun.data.augment import Resampler, draw_crops
from mtlrun.data.base import Dataset, Targets, carve
from mtlrun.data.files import find_root
from mtlrun.data.nyuv2.prepare import NORMAL_STEPS, TASKS, find_or_prepare
from mtlrun.data.nyuv2.tables import class_names, table_40_to_13
from mtlrun.data.prepared import PreparedSource, read_plan
from mtlrun.errors import UserError

STREAM = "nyuv2"
SCALES = (1.0, 1.2, 1.5)
MEMORY_LIMIT = 2 * 2**30
"""Bytes up to which ``in_memory="auto"`` holds all frames in memory."""

# Of ImageNet's training images, which pretrained backbones expect; red, green, blue from 0 to 1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class NYUv2(Dataset):
    """NYU Depth v2: indoor frames with classes, depth and surface normals for each pixel.

    Silberman, Hoiem, Kohli, Fergus: Indoor Segmentation and Support Inference from RGBD Images,
    ECCV 2012. The official split has 795 training and 654 test frames. One stream, ``nyuv2``, with
    the tasks

    - ``segmentation``: 13 or 40 classes, 255 where void;
    - ``depth``: metres, 0 where unknown;
    - ``normals``: unit vectors (x right, y up, z towards the camera), 0 where unknown; from depth
      by fitted planes where the files have none, else as the files have them.

    The files may have any of the layouts that :func:`mtlrun.data.nyuv2.detect.detect` names. They
    are converted once, on first use; see :func:`mtlrun.data.nyuv2.prepare.prepare`.

    In training each row is cropped at random to 1, 1/1.2 or 1/1.5 of its height and width and
    stretched back, with depth divided by the scale, and flipped with probability 1/2, with the sign
    of the normals' x: the augmentation of MTAN's and LibMTL's NYUv2 code. As there, normals are not
    turned otherwise when a crop is magnified. Images are sampled bilinearly, targets by nearest
    neighbour. Images are then normalised by ImageNet's mean and standard deviation.

    Args:
        root: the folder, or the .mat file; None is ``$MTLRUN_DATA/nyuv2``, else ``data/nyuv2``.
        size: [H, W] of the frames.
        classes: 13 or 40.
        validation: share of the training frames to carve out for validation.
        seed: of that choice. It is not the run's, so that all runs see the same frames.
        augment: whether to augment in training.
        prepared: the folder of prepared frames to use, or to make; None looks in ``root`` and then
            in the user's cache.
        in_memory: whether to hold all frames in memory (True) or to read them from the prepared
            files (False); "auto" holds up to 2 GiB in memory.
        carve_validation: whether to carve at all.

    Raises:
        UserError: NYUv2 is not there, is damaged, or does not have 40 classes.
    """

    def __init__(
        self,
        root: str | None = None,
        size: Sequence[int] = (288, 384),
        classes: int = 13,
        validation: float = 0.1,
        seed: int = 0,
        augment: bool = True,
        prepared: str | None = None,
        in_memory: bool | Literal["auto"] = "auto",
        *,
        carve_validation: bool = True,
    ) -> None:
        self.size = _checked_size(size)
        if classes not in (13, 40):
            raise ValueError(f"classes={classes}: NYUv2 has 13 classes, or 40")
        if not 0 <= validation < 1:
            raise ValueError(f"validation={validation}: a share of the training frames, 0 to 1")
        if in_memory not in (True, False, "auto"):
            raise ValueError(f"in_memory={in_memory!r}: auto, true or false")
        self.augment = augment
        wanted = None if prepared is None else Path(prepared).expanduser()
        self.folder = find_or_prepare(find_root("nyuv2", root), self.size, wanted)

        sources = self._sources(classes, validation if carve_validation else 0.0, seed)
        total = sum(len(source) * source.row_bytes for source in sources.values())
        hold = total <= MEMORY_LIMIT if in_memory == "auto" else in_memory
        self.splits = {
            split: {STREAM: source.in_memory() if hold else source}
            for split, source in sources.items()
        }
        self.streams = {STREAM: TASKS}
        self.input_shape = {STREAM: (3, *self.size)}
        self.facts = {
            "segmentation": {"classes": classes, "class_names": list(class_names(classes))},
            "depth": {},
            "normals": {},
        }

    def _sources(self, classes: int, validation: float, seed: int) -> dict[str, PreparedSource]:
        """The frames of each split, on the disk."""
        plan = read_plan(self.folder)
        assert plan is not None
        stored, training = plan.facts["classes"], plan.facts["train"]
        if classes > stored:
            raise UserError(
                f"dataset.classes={classes} needs labels of {classes} classes, and {self.folder} "
                f"was prepared from {plan.facts['layout']}, which have {stored}. Use "
                f"dataset.classes={stored}, or another layout of NYUv2."
            )
        rows = PreparedSource(
            self.folder,
            torch.arange(plan.rows),
            inputs="image",
            targets={task: task for task in TASKS},
            labelled={task: f"{task}_labelled" for task in TASKS},
            tables={"segmentation": table_40_to_13()} if classes < stored else {},
        )
        kept, carved = carve(training, validation, seed)
        sources = {
            "train": rows.subset(kept),
            "test": rows.subset(torch.arange(training, len(rows))),
        }
        if len(carved):
            sources["val"] = rows.subset(carved)
        return sources

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """See :meth:`Dataset.transform`.

        Args:
            stream: ``nyuv2``.
            inputs: uint8 [N, 3, H, W].
            targets: of any of the tasks, as stored.
            draws: see :meth:`Dataset.transform`.

        Returns:
            normalised float32 images [N, 3, H, W]; segmentation int64 [N, H, W], depth float32
            metres [N, H, W], normals float32 [N, 3, H, W].
        """
        del stream
        resampler = None
        if self.augment and draws is not None:
            crops = draw_crops(len(inputs), self.size, SCALES, draws)
            resampler = Resampler(crops, self.size, inputs.device)
        images = inputs.float() if resampler is None else resampler.bilinear(inputs)
        gain, offset = _normalisation(inputs.device)
        images = torch.addcmul(offset, images, gain)
        return images, {
            task: _dense_target(task, target, resampler) for task, target in targets.items()
        }


def _dense_target(task: str, stored: Tensor, resampler: Resampler | None) -> Tensor:
    """A target as its task reads it, from what the prepared arrays hold."""
    maps = stored if resampler is None else resampler.nearest(stored)
    if task == "segmentation":
        return maps.long()
    if task == "depth":
        return maps.float() if resampler is None else maps.float().div_(resampler.scale)
    normals = maps.float().div_(NORMAL_STEPS)
    if resampler is not None:
        normals[:, 0].mul_(resampler.sign)
    return normals


@cache
def _normalisation(device: torch.device) -> tuple[Tensor, Tensor]:
    """Gain and offset that turn 0..255 into normalised values, [3, 1, 1]; kept on the device."""
    mean, deviation = np.array(IMAGENET_MEAN), np.array(IMAGENET_DEVIATION)
    gain, offset = 1 / (255 * deviation), -mean / deviation
    return (
        torch.tensor(gain, dtype=torch.float32, device=device).view(3, 1, 1),
        torch.tensor(offset, dtype=torch.float32, device=device).view(3, 1, 1),
    )


def _checked_size(size: Sequence[int]) -> tuple[int, int]:
    numbers = tuple(int(number) for number in size)
    if len(numbers) != 2 or min(numbers) < 1:
        raise ValueError(f"size={list(size)}: two numbers, the height and width of the frames")
    return numbers[0], numbers[1]
