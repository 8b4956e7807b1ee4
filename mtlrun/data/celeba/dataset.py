"""CelebA as a dataset: one stream, forty attributes of a face."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mtlrun.data.base import Dataset, NewInputs, Targets
from mtlrun.data.celeba.files import ATTRIBUTES, SPLITS
from mtlrun.data.celeba.prepare import CELEBA
from mtlrun.data.files import find_root
from mtlrun.data.images import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    augmented,
    decode,
    normalised,
    one_image,
)
from mtlrun.data.prepared import PreparedSource, finished_plan
from mtlrun.data.preparing import InMemory, checked_in_memory, checked_size, held

STREAM = "celeba"


class CelebA(Dataset):
    """202,599 faces of celebrities, each with 40 attributes that it has or has not.

    Liu, Luo, Wang, Tang: Deep Learning Face Attributes in the Wild, ICCV 2015. One stream,
    ``celeba``, with a task of two classes for each attribute, by its official name.

    The official split has 162,770 training, 19,867 validation and 19,962 test images, and its
    validation split is ours. Nothing is carved, and nothing added either: with
    ``carve_validation=False`` the training rows are the same, and the validation split is left out.

    Images are the publisher's aligned ones, the whole of each stretched to ``size``, as Sener and
    Koltun's code does (NeurIPS 2018, 64x64). They are converted once, on first use or by
    ``mtlrun data prepare celeba``; see :class:`mtlrun.data.celeba.prepare.CelebAPreparation`. They
    are then normalised by ImageNet's mean and standard deviation.

    Args:
        root: the folder; None is ``$MTLRUN_DATA/celeba``, else ``data/celeba``.
        size: [H, W] of the images.
        augment: whether training images are flipped at random; no attribute has sides.
        prepared: the folder of prepared images to use, or to make; None looks in ``root`` and then
            in the user's cache.
        in_memory: whether to hold all images in memory (True) or to read them from the prepared
            files (False); "auto" holds up to 2 GiB in memory. At 64x64 they take 2.3 GiB.
        carve_validation: whether there is a validation split.

    Raises:
        UserError: CelebA is not there or is damaged.
    """

    new_inputs = "images"

    def __init__(
        self,
        root: str | None = None,
        size: Sequence[int] = (64, 64),
        augment: bool = False,
        prepared: str | None = None,
        in_memory: InMemory = "auto",
        *,
        carve_validation: bool = True,
    ) -> None:
        height, width = checked_size(size)
        checked_in_memory(in_memory)
        self.augment = augment
        folder = CELEBA.find_or_prepare(find_root("celeba", root), (height, width), prepared)
        plan = finished_plan(folder)
        rows = torch.arange(plan.rows).split([plan.facts[split] for split in SPLITS])
        sources = {
            split: {STREAM: FaceSource(folder, index, ATTRIBUTES)}
            for split, index in zip(SPLITS, rows, strict=True)
            if split != "val" or carve_validation
        }
        self.splits = held(sources, in_memory)
        self.streams = {STREAM: ATTRIBUTES}
        self.input_shape = {STREAM: (3, height, width)}
        self.normalisation = {"mean": IMAGENET_MEAN, "deviation": IMAGENET_DEVIATION}
        self.facts = {
            name: {"classes": 2, "class_names": [f"not {name}", name]} for name in ATTRIBUTES
        }

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """Pixels to float32, normalised, flipped at random first where that is wanted.

        See :meth:`Dataset.transform`.
        """
        del stream
        if self.augment and draws is not None:
            inputs = augmented(inputs, draws, padding=0)
        return normalised(inputs, IMAGENET_MEAN, IMAGENET_DEVIATION), targets

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """A face, framed as the publisher's aligned images are. See :meth:`Dataset.encode`."""
        del column
        _, height, width = self.input_shape[stream]
        return one_image(decode(file, str(file), (height, width)))


class FaceSource(PreparedSource):
    """Faces of a prepared folder; the targets of all tasks are columns of one array.

    Args:
        folder: a finished prepared folder.
        index: the rows of the folder that this source has, int64 [rows].
        tasks: names of attributes.
    """

    def __init__(self, folder: Path, index: Tensor, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        super().__init__(
            folder, index, inputs="image", targets={"attributes": "attributes"}, labelled={}
        )

    def rows(self, indices: Tensor) -> tuple[Tensor, Targets]:
        """See :meth:`Source.rows`."""
        images, stored = super().rows(indices)
        columns = stored["attributes"].t()[[ATTRIBUTES.index(task) for task in self.tasks]]
        return images, dict(zip(self.tasks, columns.long(), strict=True))

    def _with(self, index: Tensor, tasks: Sequence[str]) -> "FaceSource":
        return FaceSource(self.folder, index, tasks)

    def select(self, tasks: Sequence[str]) -> "FaceSource":
        """See :meth:`Source.select`."""
        return self._with(self.index, tasks)

    def subset(self, indices: Tensor) -> "FaceSource":
        """The rows named, as a source of its own."""
        return self._with(self.index[indices], self.tasks)
