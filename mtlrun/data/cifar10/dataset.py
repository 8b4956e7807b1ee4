"""CIFAR-10 as a dataset: one stream, which object it is and whether it is an animal."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.data.base import Dataset, NewInputs, Targets, TensorSource, carve, check_share
from mtlrun.data.cifar10.batches import SIDE
from mtlrun.data.cifar10.layouts import CLASSES, read_splits
from mtlrun.data.files import find_root
from mtlrun.data.images import augmented, decode, normalised, one_image

STREAM = "cifar10"
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")

# Of the 50,000 training images; red, green, blue from 0 to 1.
MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)

PADDING = 4
ROWS_A_RESIZE = 4096


class CIFAR10(Dataset):
    """60,000 images of 32x32 pixels (Krizhevsky, Learning Multiple Layers of Features from Tiny
    Images, 2009), of which 10,000 are the test split. One stream, ``cifar10``, with the tasks

    - ``object``: which of ten classes;
    - ``animal``: whether it is an animal (bird, cat, deer, dog, frog, horse) or not.

    Images stay uint8 in memory, and are normalised on the device by the mean and standard deviation
    of CIFAR-10's 50,000 training images, whatever rows there are: a run on a part of them sees the
    same pixels.

    The files may be the publisher's pickles, read by an unpickler that runs nothing they name, or
    class folders of pictures; see :func:`mtlrun.data.cifar10.layouts.read_splits`.

    Args:
        root: the folder or the archive; None is ``$MTLRUN_DATA/cifar10``, else ``data/cifar10``.
        size: [H, W] of the images; other than [32, 32] scales them, bilinearly with antialiasing.
        validation: share of the training rows to carve out for validation.
        seed: of that choice. It is not the run's, so that all runs see the same rows.
        augment: whether training images are shifted by up to 4 pixels (an eighth of a side where
            ``size`` is another), black moving in, and flipped (He et al., CVPR 2016, section 4.2).
        carve_validation: whether to carve at all.

    Raises:
        UserError: the files are not there or are damaged.
    """

    new_inputs = "images"

    def __init__(
        self,
        root: str | None = None,
        size: Sequence[int] = (SIDE, SIDE),
        validation: float = 0.1,
        seed: int = 0,
        augment: bool = False,
        *,
        carve_validation: bool = True,
    ) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size={list(size)}: must be [height, width] in pixels")
        check_share("validation", validation)
        self.augment = augment
        self.padding = PADDING * min(size) // SIDE
        animals = torch.tensor([name in ANIMALS for name in CLASSES]).long()
        sources = {
            split: TensorSource(_resized(images, size), {"object": label, "animal": animals[label]})
            for split, (images, label) in read_splits(find_root("cifar10", root)).items()
        }
        if carve_validation:
            kept, carved = carve(len(sources["train"]), validation, seed)
            sources["val"] = sources["train"].subset(carved)
            sources["train"] = sources["train"].subset(kept)

        self.splits = {split: {STREAM: source} for split, source in sources.items()}
        self.streams = {STREAM: ("object", "animal")}
        self.input_shape = {STREAM: (3, *size)}
        self.normalisation = {"mean": MEAN, "deviation": DEVIATION}
        self.facts = {
            "object": {"classes": len(CLASSES), "class_names": list(CLASSES)},
            "animal": {"classes": 2, "class_names": ["non-animal", "animal"]},
        }

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """Pixels to float32, normalised, shifted and flipped first where that is wanted.

        See :meth:`Dataset.transform`.
        """
        del stream
        if self.augment and draws is not None:
            inputs = augmented(inputs, draws, self.padding)
        return normalised(inputs, MEAN, DEVIATION), targets

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """An image, scaled to CIFAR-10's own 32x32, and from there to ``size``.

        See :meth:`Dataset.encode`.
        """
        del column
        pixels = decode(file, str(file), (SIDE, SIDE))
        return one_image(_resized(pixels.unsqueeze(0), self.input_shape[stream][1:])[0])


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """uint8 images [N, 3, 32, 32] scaled to ``size``."""
    if tuple(size) == (SIDE, SIDE):
        return images
    scaled = images.new_empty(len(images), 3, *size)
    for start in range(0, len(images), ROWS_A_RESIZE):
        part = images[start : start + ROWS_A_RESIZE]
        scaled[start : start + ROWS_A_RESIZE] = F.interpolate(
            part, size=tuple(size), mode="bilinear", antialias=True
        )
    return scaled
