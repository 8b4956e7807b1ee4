"""Cityscapes as a dataset: one stream, two dense tasks."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mtlrun.data.augment import Resampler
from mtlrun.data.cityscapes.prepare import CITYSCAPES, DEPTHS
from mtlrun.data.cityscapes.tables import CLASSES, class_names
from mtlrun.data.files import find_root
from mtlrun.data.frames import PreparedFrames, check_validation, frame_splits
from mtlrun.data.prepared import PreparedSource, finished_plan
from mtlrun.data.preparing import InMemory, checked_in_memory, checked_size
from mtlrun.errors import UserError

STREAM = "cityscapes"
FARTHEST_SHOWN = {"inverse": 0.3, "metres": 80.0}
"""Depth at and beyond which pictures look alike; of inverse depth that is what is nearest."""


class Cityscapes(PreparedFrames):
    """Cityscapes: street scenes with a class and depth for each pixel.

    Cordts, Omran, Ramos, Rehfeld, Enzweiler, Benenson, Franke, Roth, Schiele: The Cityscapes
    Dataset for Semantic Urban Scene Understanding, CVPR 2016. 2975 frames to train on; the 500 of
    ``val`` are the test split here, as in the multi-task literature, since the official test split
    has no public labels. One stream, ``cityscapes``, with the tasks

    - ``segmentation``: 7 categories or 19 classes, 255 where void (also what the benchmark does not
      evaluate);
    - ``depth``: by stereo matching, 0 where unknown. ``inverse`` is the target of MTAN (Liu et al.,
      CVPR 2019), LibMTL and those who follow them: inverse depth, the value of the official 16-bit
      disparity image over 65535, without a unit and from 0 to about 0.5, so that the task's errors
      are no metres. ``metres`` is baseline * focal length / disparity, by the calibration of each
      frame where the folder ``camera`` is there, else by most cities' (0.209313 m, 2262.52 pixels),
      and unknown beyond 80 m.

    The files may have any of the layouts that :func:`mtlrun.data.cityscapes.detect.detect` names.
    They are converted once; see :class:`mtlrun.data.cityscapes.prepare.CityscapesPreparation`.

    In training frames are cropped, stretched back and flipped as :class:`PreparedFrames` says; what
    is magnified comes nearer, so metres are divided by the scale and inverse depth is multiplied.
    MTAN's and LibMTL's Cityscapes code does not augment.

    Args:
        root: the folder; None is ``$MTLRUN_DATA/cityscapes``, else ``data/cityscapes``.
        size: [H, W] of the frames.
        classes: 7 or 19.
        depth_target: ``inverse`` or ``metres``.
        validation: share of the training frames to carve out for validation, at random.
        seed: of that choice. It is not the run's, so that all runs see the same frames.
        augment: whether to augment in training.
        prepared: the folder of prepared frames to use, or to make; None looks in ``root`` and then
            in the user's cache.
        in_memory: whether to hold all frames in memory (True) or to read them from the prepared
            files (False); "auto" holds up to 2 GiB in memory.
        carve_validation: whether to carve at all.

    Raises:
        UserError: Cityscapes is not there, is damaged, or does not have so many classes.
    """

    def __init__(
        self,
        root: str | None = None,
        size: Sequence[int] = (128, 256),
        classes: int = 7,
        depth_target: Literal["inverse", "metres"] = "inverse",
        validation: float = 0.1,
        seed: int = 0,
        augment: bool = True,
        prepared: str | None = None,
        in_memory: InMemory = "auto",
        *,
        carve_validation: bool = True,
    ) -> None:
        height_width = checked_size(size)
        if classes not in CLASSES:
            raise ValueError(f"classes={classes}: Cityscapes has 7 categories, or 19 classes")
        if depth_target not in DEPTHS:
            raise ValueError(f"depth_target={depth_target}: must be inverse or metres")
        check_validation(validation)
        checked_in_memory(in_memory)
        self.depth_target = depth_target
        self.folder = CITYSCAPES.find_or_prepare(
            find_root("cityscapes", root), height_width, prepared
        )
        super().__init__(
            STREAM,
            height_width,
            augment,
            self._sources(classes, validation if carve_validation else 0.0, seed),
            in_memory,
            facts={
                "segmentation": {"classes": classes, "class_names": list(class_names(classes))},
                "depth": {"farthest_shown": FARTHEST_SHOWN[depth_target]},
            },
        )

    def _sources(self, classes: int, validation: float, seed: int) -> dict[str, PreparedSource]:
        """The frames of each split, on the disk."""
        plan = finished_plan(self.folder)
        stored = plan.facts["classes"]
        if classes not in stored:
            raise UserError(
                f"dataset.classes={classes} needs labels of {classes} classes, and {self.folder} "
                f"was prepared from {plan.facts['layout']}, which have {stored[0]}. Use "
                f"dataset.classes={stored[0]}, or another layout of Cityscapes."
            )
        names = {"segmentation": f"segmentation_{classes}", "depth": f"depth_{self.depth_target}"}
        frames = PreparedSource(
            self.folder,
            torch.arange(plan.rows),
            inputs="image",
            targets=names,
            labelled={task: f"{name}_labelled" for task, name in names.items()},
        )
        return frame_splits(frames, plan.facts["train"], validation, seed)

    def dense_target(self, task: str, stored: Tensor, resampler: Resampler | None) -> Tensor:
        """See :meth:`PreparedFrames.dense_target`.

        Returns:
            segmentation int64 [N, H, W]; depth float32 [N, H, W], inverse or in metres.
        """
        if task == "segmentation":
            return stored.long()
        depth = stored.float()
        if resampler is None:
            return depth
        if self.depth_target == "metres":
            return depth.div_(resampler.scale)
        return depth.mul_(resampler.scale)
