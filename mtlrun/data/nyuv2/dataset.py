"""NYUv2 as a dataset: one stream, three dense tasks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlrun.data.augment import Resampler
from mtlrun.data.files import find_root
from mtlrun.data.frames import PreparedFrames, check_validation, frame_splits
from mtlrun.data.nyuv2.prepare import NORMAL_STEPS, NYUV2, TASKS
from mtlrun.data.nyuv2.tables import class_names, table_40_to_13
from mtlrun.data.prepared import PreparedSource, finished_plan
from mtlrun.data.preparing import InMemory, checked_in_memory, checked_size
from mtlrun.errors import UserError

STREAM = "nyuv2"


class NYUv2(PreparedFrames):
    """NYU Depth v2: indoor frames with classes, depth and surface normals for each pixel.

    Silberman, Hoiem, Kohli, Fergus: Indoor Segmentation and Support Inference from RGBD Images,
    ECCV 2012. The official split has 795 training and 654 test frames. One stream, ``nyuv2``, with
    the tasks

    - ``segmentation``: 13 or 40 classes, 255 where void;
    - ``depth``: metres, 0 where unknown;
    - ``normals``: unit vectors (x right, y up, z towards the camera), 0 where unknown; from depth
      by fitted planes where the files have none, else as the files have them.

    The files may have any of the layouts that :func:`mtlrun.data.nyuv2.detect.detect` names. They
    are converted once, on first use; see :class:`mtlrun.data.nyuv2.prepare.NYUv2Preparation`.

    In training frames are cropped, stretched back and flipped as :class:`PreparedFrames` says, with
    depth divided by the scale, and the sign of the normals' x changed where a frame is flipped. As
    in MTAN's and LibMTL's code, normals are not turned otherwise when a crop is magnified.

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
        in_memory: InMemory = "auto",
        *,
        carve_validation: bool = True,
    ) -> None:
        height_width = checked_size(size)
        if classes not in (13, 40):
            raise ValueError(f"classes={classes}: NYUv2 has 13 classes, or 40")
        check_validation(validation)
        checked_in_memory(in_memory)
        self.folder = NYUV2.find_or_prepare(find_root("nyuv2", root), height_width, prepared)
        super().__init__(
            STREAM,
            height_width,
            augment,
            self._sources(classes, validation if carve_validation else 0.0, seed),
            in_memory,
            facts={
                "segmentation": {"classes": classes, "class_names": list(class_names(classes))},
                "depth": {},
                "normals": {},
            },
        )

    def _sources(self, classes: int, validation: float, seed: int) -> dict[str, PreparedSource]:
        """The frames of each split, on the disk."""
        plan = finished_plan(self.folder)
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
        return frame_splits(rows, training, validation, seed)

    def dense_target(self, task: str, stored: Tensor, resampler: Resampler | None) -> Tensor:
        """See :meth:`PreparedFrames.dense_target`.

        Returns:
            segmentation int64 [N, H, W], depth float32 metres [N, H, W], normals float32
            [N, 3, H, W].
        """
        if task == "segmentation":
            return stored.long()
        if task == "depth":
            depth = stored.float()
            return depth if resampler is None else depth.div_(resampler.scale)
        normals = stored.float().div_(NORMAL_STEPS)
        if resampler is not None:
            normals[:, 0].mul_(resampler.sign)
        return normals
