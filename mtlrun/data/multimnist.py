"""MultiMNIST: two handwritten digits, one over the other."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlrun.data.base import Dataset, NewInputs, Targets, TensorSource, carve, check_share
from mtlrun.data.files import find_root, plain_or_gzip, read_idx
from mtlrun.data.images import decode, grey, one_image
from mtlrun.errors import UserError
from mtlrun.randomness import generator

CANVAS = 36
DIGIT = 28
MEAN, DEVIATION = 0.1307, 0.3081
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class MultiMNIST(Dataset):
    """Two MNIST digits overlaid, each to be recognised (Sener & Koltun, NeurIPS 2018, section 5.1).

    - ``left``: the digit at the top left, ten classes;
    - ``right``: the digit at the bottom right, ten classes.

    Each MNIST image is the left digit once; its right digit is drawn at random, with replacement,
    from the same split. On a canvas of 36x36 the left digit starts in the corner, the right one
    ``offset`` pixels further down and right, and the brighter of both counts where they overlap.
    Images stay uint8 in memory, [1, H, W], and are brought to [0, 1] and normalised by MNIST's mean
    and standard deviation on the device.

    Where the paper and its published loader leave a choice: the loader moves the right digit by 6
    pixels (the canvas then ends in 2 empty ones; the paper's text says the corner, which is 8), and
    scales the canvas to 28x28 by nearest neighbours, which ``size=[28,28]`` does here too. We keep
    the canvas' 36x36 by default, as most later work does.

    Args:
        root: folder with the four original files, plain or compressed; None for
            ``$MTLRUN_DATA/mnist``, else ``data/mnist``.
        size: height and width of the images.
        offset: of the right digit against the left, 0 to 8 pixels. Less is harder.
        validation: share of the 60,000 training rows to carve out for validation.
        train_rows: make training and validation rows from the first so many training images only,
            for quick trials; None for all.
        seed: of the pairs and of the split; not the run's, so that all runs see the same data.
        carve_validation: whether to carve at all.

    Raises:
        UserError: a file is missing or damaged.
    """

    new_inputs = "images"

    def __init__(
        self,
        root: str | None = None,
        size: Sequence[int] = (CANVAS, CANVAS),
        offset: int = 6,
        validation: float = 0.1,
        train_rows: int | None = None,
        seed: int = 0,
        *,
        carve_validation: bool = True,
    ) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size={list(size)}: must be [height, width] in pixels")
        if not 0 <= offset <= CANVAS - DIGIT:
            raise ValueError(f"offset={offset}: must be from 0 to {CANVAS - DIGIT}")
        check_share("validation", validation)
        if train_rows is not None and train_rows < 2:
            raise ValueError(f"train_rows={train_rows}: must be at least 2, or null for all rows")
        folder = find_root("mnist", root)
        sources: dict[str, TensorSource] = {}
        for split in FILES:
            images, digits = _read(folder, split)
            if split == "train" and train_rows is not None:
                images, digits = images[:train_rows], digits[:train_rows]
            draws = generator(seed, "multimnist", split, len(images))
            partners = torch.randint(len(images), (len(images),), generator=draws)
            canvas = _resize(overlay(images, images[partners], offset), size)
            sources[split] = TensorSource(canvas, {"left": digits, "right": digits[partners]})
        if carve_validation:
            kept, carved = carve(len(sources["train"]), validation, seed)
            sources["val"] = sources["train"].subset(carved)
            sources["train"] = sources["train"].subset(kept)

        names = [str(number) for number in range(10)]
        self.splits = {split: {"multimnist": source} for split, source in sources.items()}
        self.streams = {"multimnist": ("left", "right")}
        self.input_shape = {"multimnist": (1, *size)}
        self.normalisation = {"mean": [MEAN], "deviation": [DEVIATION]}
        self.facts = {task: {"classes": 10, "class_names": names} for task in ("left", "right")}

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """Pixels to float32, normalised; no augmentation. See :meth:`Dataset.transform`."""
        del stream, draws
        # (pixel / 255 - mean) / deviation, in one pass over the batch
        scale = 1 / (255 * DEVIATION)
        return inputs.float().mul_(scale).sub_(MEAN / DEVIATION), targets

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """An image, scaled to the canvas of 36x36, and from there to ``size``.

        As in MNIST, writing is bright on black. See :meth:`Dataset.encode`.
        """
        del column
        canvas = grey(decode(file, str(file), (CANVAS, CANVAS)))
        _, height, width = self.input_shape[stream]
        return one_image(_resize(canvas.unsqueeze(0), (height, width))[0])


def overlay(left: Tensor, right: Tensor, offset: int) -> Tensor:
    """Two digits on one canvas; where they overlap, the brighter one counts.

    Args:
        left: uint8 [N, 28, 28], drawn at the top left.
        right: likewise, drawn ``offset`` pixels down and right of it.
        offset: 0 to 8.

    Returns:
        uint8 [N, 1, 36, 36].
    """
    canvas = torch.zeros(len(left), 1, CANVAS, CANVAS, dtype=torch.uint8)
    canvas[:, 0, :DIGIT, :DIGIT] = left
    window = canvas[:, 0, offset : offset + DIGIT, offset : offset + DIGIT]
    torch.maximum(window, right, out=window)
    return canvas


def _resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images [N, 1, H, W] scaled to ``size`` by nearest neighbours."""
    if tuple(size) == tuple(images.shape[2:]):
        return images
    return F.interpolate(images, size=tuple(size), mode="nearest-exact")


def _read(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """MNIST's images, uint8 [N, 28, 28], and labels, int64 [N], of one split."""
    found = [plain_or_gzip(folder, name) for name in FILES[split]]
    image_file, label_file = found
    if image_file is None or label_file is None:
        raise UserError(_missing(folder))
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if images.shape[1:] != (DIGIT, DIGIT):
        height, width = images.shape[1:]
        raise UserError(f"{image_file} has images of {height}x{width}; MNIST's are 28x28.")
    if len(images) != len(labels):
        raise UserError(
            f"{image_file} has {len(images)} images and {label_file} {len(labels)} labels: they do "
            "not belong together. Copy or download both again."
        )
    if len(images) == 0:
        raise UserError(f"{image_file} has no images. Copy or download it again.")
    if labels.max() > 9:
        row = int(labels.argmax())
        raise UserError(
            f"{label_file} has the label {int(labels[row])} in row {row}, and digits go from 0 to "
            "9. Copy or download it again."
        )
    return images, labels.long()


def _missing(folder: Path) -> str:
    names = [name for files in FILES.values() for name in files]
    absent = [name for name in names if plain_or_gzip(folder, name) is None]
    state = "does not exist" if not folder.is_dir() else f"lacks {', '.join(absent)}"
    return (
        f"MultiMNIST is made from MNIST's four original files, and the folder {folder} {state}. "
        f"Get {', '.join(f'{name}.gz' for name in names)} from yann.lecun.com/exdb/mnist or one of "
        "its mirrors, and put them there, compressed or not; or name the folder that has them by "
        "dataset.root=FOLDER, or its parent by the environment variable MTLRUN_DATA (which then "
        "needs a folder mnist). They are read as they are: nothing has to be prepared."
    )
