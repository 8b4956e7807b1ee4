"""A folder of images and a table of their labels, of the user's own."""

import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mtlrun.data.base import Dataset, NewInputs, Source, Targets, TensorSource
from mtlrun.data.files import find_root
from mtlrun.data.images import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    augmented,
    decode,
    decode_many,
    normalised,
    one_image,
)
from mtlrun.data.originals import Layout
from mtlrun.data.prepared import ArraySpec, PreparedSource, finished_plan
from mtlrun.data.preparing import (
    Array,
    InMemory,
    Preparation,
    Size,
    checked_in_memory,
    checked_size,
    holds,
)
from mtlrun.data.table.dataset import MISSING
from mtlrun.data.table.names import Names, check_choice, check_uses, names_of
from mtlrun.data.table.reading import ABSENT, Paths, Sheet, read_sheet
from mtlrun.data.table.remarks import listed, split_remark, unlabelled_remarks
from mtlrun.data.table.splits import SplitSettings, split_rows
from mtlrun.data.table.targets import Target, TargetSettings, read_target
from mtlrun.errors import UserError

STREAM = "images"
ROWS_A_READ = 1024
SHIFT = 8
"""Training images are shifted by up to one part in so many of their shorter side."""

Moments = tuple[tuple[float, ...], tuple[float, ...]]


class LabelledImages(Dataset):
    """Images whose labels for one or more tasks stand in a table: a row an image.

    One column of the table names the image's file; the declared tasks name others. Their kinds and
    the splits are as in :class:`~mtlrun.data.table.Table`. All other columns are left alone. Images
    are decoded to RGB at one size, upright, stay uint8, and are augmented and normalised on the
    device.

    Args:
        root: the folder; None for ``$MTLRUN_DATA/images``, else ``data/images``.
        labels: the table, CSV or parquet; a path in ``root``, a list of them, or one for
            each split.
        file: the column of the images' paths in ``root``.
        size: [H, W] of the images.
        crop: scale an image so that it just covers ``size``, and cut out its middle; else stretch
            it.
        augment: True shifts training images by up to an eighth of their shorter side, black moving
            in, and flips them at random; ``shift`` does not flip; False leaves them as they are.
        normalise: by mean and standard deviation of ImageNet (``imagenet``), or of the training
            images (``train``).
        in_memory: hold all images in memory; or read them from a folder of decoded images, which is
            made on first use; ``auto``: in memory where they take up to 2 GiB.
        prepared: that folder; None is ``prepared_HxW`` in ``root``, else one in the user's cache.
        encoding: of the table.
        missing: cells that, besides empty ones, say that nothing is known.
        separator: stands between several labels in one cell.
        classes: for some targets their classes in order.
        unseen: a class that no training row has: ``refuse``, or count the label as ``missing``.
        split: a column that says train, val or test; None to draw.
        validation: share of the training rows to carve out for validation, where none are named.
        test: share of all rows to test on, where none are named.
        group: a column whose rows of one value stay in one split.
        seed: of the draws. It is not the run's, so that all runs see the same rows.
        tasks: for each target column its kind, or None.
        carve_validation: whether a validation split is wanted.

    Raises:
        UserError: a file, a column or a cell needs attention.
        ValueError: a setting is none of its values.
    """

    new_inputs = "images"

    def __init__(
        self,
        root: str | None = None,
        labels: Paths = "labels.csv",
        file: str = "file",
        size: Sequence[int] = (64, 64),
        crop: bool = False,
        augment: bool | str = True,
        normalise: str = "imagenet",
        in_memory: InMemory = "auto",
        prepared: str | None = None,
        encoding: str = "utf-8",
        missing: Names = MISSING,
        separator: str = ";",
        classes: Mapping[str, Names] | None = None,
        unseen: str = "refuse",
        split: str | None = None,
        validation: float = 0.1,
        test: float = 0.2,
        group: str | None = None,
        seed: int = 0,
        *,
        tasks: Mapping[str, str | None],
        carve_validation: bool = True,
    ) -> None:
        self.size = checked_size(size)
        checked_in_memory(in_memory)
        if augment not in (True, False, "shift"):
            raise ValueError(f"augment={augment}: choose one of true, shift, false")
        check_choice("normalise", normalise, ("imagenet", "train"))
        self.augment = augment
        self.crop = crop
        target_settings = TargetSettings(classes or {}, separator, unseen)
        split_settings = SplitSettings(split, validation, test, group, seed)
        folder = find_root("images", root)
        own_use = {"file": file, "split": split, "group": group}
        sheet = read_sheet(
            _inside(folder, labels),
            setting="dataset.labels",
            encoding=encoding,
            missing=names_of(missing),
            as_text=[*tasks, *(column for column in own_use.values() if column is not None)],
        )
        check_uses(sheet, tasks, own_use, classes=target_settings.classes)
        rows, source = split_rows(sheet, split_settings, None, carve_validation)
        training = np.zeros(len(sheet), dtype=bool)
        training[rows["train"]] = True
        found = {
            task: read_target(sheet, task, kind, training, target_settings)
            for task, kind in tasks.items()
        }
        paths, numbers = _image_files(sheet, file, folder)
        images = _Images(folder, paths, self.size, crop)
        made = None if holds(images.total_bytes, in_memory) else images.prepared(prepared or None)

        self.splits = {}
        for name, own in rows.items():
            index = torch.from_numpy(own)
            targets = {task: target.values[index] for task, target in found.items()}
            labelled = _masks(found, index)
            if made is None:
                pixels = decode_many([paths[number] for number in numbers[own]], self.size, crop)
                self.splits[name] = {STREAM: TensorSource(pixels, targets, labelled)}
            else:
                stored = PreparedSource(
                    made, torch.from_numpy(numbers[own]), inputs="image", targets={}, labelled={}
                )
                self.splits[name] = {STREAM: ImageSource(stored, targets, labelled)}
        self.streams = {STREAM: tuple(found)}
        self.input_shape = {STREAM: (3, *self.size)}
        self.facts = {task: dict(target.facts) for task, target in found.items()}
        moments: Moments = (IMAGENET_MEAN, IMAGENET_DEVIATION)
        self.mean, self.deviation = (
            _moments(self.splits["train"][STREAM]) if normalise == "train" else moments
        )
        self.normalisation = {"mean": self.mean, "deviation": self.deviation}
        place = "in memory" if made is None else f"from {made}"
        self.remarks = [
            f"Read {sheet.title}: {len(sheet):,} images, {self.size[0]} x {self.size[1]}, {place}.",
            f"Targets: {listed([target.remark for target in found.values()])}.",
            split_remark(rows, source),
            *unlabelled_remarks(found, rows),
        ]

    @classmethod
    def possible_tasks(cls, settings: Mapping[str, Any]) -> list[str]:
        """The columns of the labels. See :meth:`Dataset.possible_tasks`.

        Raises:
            UserError: the file is missing or no table.
        """
        path = _inside(find_root("images", settings.get("root")), settings["labels"])
        encoding = settings.get("encoding", "utf-8")
        columns = read_sheet(path, setting="dataset.labels", encoding=encoding).columns
        return [column for column in columns if column != settings.get("file")]

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """Pixels to float32, normalised; shifted and flipped first where that is wanted.

        See :meth:`Dataset.transform`.
        """
        del stream
        if self.augment and draws is not None:
            shift = min(self.size) // SHIFT
            inputs = augmented(inputs, draws, shift, flip=self.augment is True)
        return normalised(inputs, self.mean, self.deviation), targets

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """An image, scaled or cut as the dataset's own. See :meth:`Dataset.encode`."""
        del stream, column
        return one_image(decode(file, str(file), self.size, crop=self.crop))


class ImageSource(Source):
    """Images on the disk, with targets in memory.

    Args:
        images: the images of each row.
        targets: for each task, [rows, ...].
        labelled: see :class:`Source`.
    """

    def __init__(
        self, images: PreparedSource, targets: Mapping[str, Tensor], labelled: Mapping[str, Tensor]
    ) -> None:
        self.images = images
        self.targets = dict(targets)
        self.labelled = dict(labelled)

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, indices: Tensor) -> tuple[Tensor, Targets]:
        """See :meth:`Source.rows`."""
        pixels, _ = self.images.rows(indices)
        return pixels, {task: target[indices] for task, target in self.targets.items()}

    def select(self, tasks: Sequence[str]) -> "ImageSource":
        """See :meth:`Source.select`."""
        return ImageSource(
            self.images,
            {task: self.targets[task] for task in tasks},
            {task: mask for task, mask in self.labelled.items() if task in tasks},
        )


class _ImageLayout(Layout):
    """The images that a table names."""

    kind: ClassVar[str] = "image files"

    def __init__(self, path: Path, paths: Sequence[Path]) -> None:
        super().__init__(path)
        self.split = {"images": list(paths)}

    def files(self) -> Iterable[Path]:
        """See :meth:`Layout.files`."""
        return self.split["images"]

    def fingerprint(self) -> str:
        """See :meth:`Layout.fingerprint`; images may also lie outside the folder."""
        digest = blake2b(digest_size=8)
        for file in self.files():
            name = os.path.relpath(file, self.path)
            digest.update(f"{name}:{file.stat().st_size}\n".encode())
        return digest.hexdigest()


class _Images(Preparation[_ImageLayout]):
    """Decodes the images that a table names into a prepared folder."""

    dataset: ClassVar[str] = "images"
    title: ClassVar[str] = "images"
    version: ClassVar[int] = 1

    def __init__(self, root: Path, paths: Sequence[Path], size: Size, crop: bool) -> None:
        self.root = root
        self.paths = paths
        self.size = size
        self.crop = crop

    @property
    def total_bytes(self) -> int:
        """Of all images, decoded."""
        return len(self.paths) * 3 * self.size[0] * self.size[1]

    def prepared(self, folder: str | None) -> Path:
        """The prepared folder; made now where it is not.

        Raises:
            UserError: see :meth:`find_or_prepare`; or it holds other images, or cut otherwise.
        """
        found = self.find_or_prepare(self.root, self.size, folder)
        facts = finished_plan(found).facts
        wanted = {"fingerprint": self.detect(self.root).fingerprint(), "crop": self.crop}
        if any(facts.get(name) != fact for name, fact in wanted.items()):
            raise UserError(
                f"{found} was prepared from other images than dataset.labels names now, or with "
                "another dataset.crop. Remove it, or name another folder by dataset.prepared."
            )
        return found

    def detect(self, path: Path) -> _ImageLayout:
        """See :meth:`Preparation.detect`."""
        return _ImageLayout(path, self.paths)

    def arrays(self, layout: _ImageLayout, size: Size) -> Mapping[str, ArraySpec]:
        """See :meth:`Preparation.arrays`."""
        del layout
        return {"image": ArraySpec((3, *size), "uint8")}

    def row(self, layout: _ImageLayout, part: str, key: Any, size: Size) -> Mapping[str, Array]:
        """See :meth:`Preparation.row`."""
        del layout, part
        return {"image": decode(key, str(key), size, crop=self.crop).numpy()}

    def facts(self, layout: _ImageLayout) -> Mapping[str, Any]:
        """See :meth:`Preparation.facts`."""
        del layout
        return {"crop": self.crop}


def _inside(folder: Path, labels: Paths) -> Paths:
    """The paths of tables, which count from the folder."""
    if not folder.is_dir():
        raise UserError(
            f"The folder {folder} does not exist. Name the folder of your images by "
            "dataset.root=FOLDER, and the table of their labels in it by dataset.labels=labels.csv:"
            " a CSV file with a column file of paths in the folder, and a column for each task."
        )
    if isinstance(labels, str):
        return str(folder / Path(labels).expanduser())
    if isinstance(labels, Mapping):
        return {split: _inside(folder, name) for split, name in labels.items()}  # type: ignore[misc]  # a mapping of mappings is refused in reading
    return [str(folder / Path(name).expanduser()) for name in labels]


def _image_files(sheet: Sheet, column: str, folder: Path) -> tuple[list[Path], Array]:
    """The different image files, sorted, and for each row the number of its own.

    Raises:
        UserError: a cell is missing, or a file is.
    """
    levels = sheet.levels(column)
    if (levels.codes == ABSENT).any():
        row = int((levels.codes == ABSENT).argmax())
        raise UserError(f"{sheet.place(row, column)}: the cell names no image.")
    paths = [_path(folder, name) for name in levels.names]
    for code, path in enumerate(paths):
        if not path.is_file():
            row = int((levels.codes == code).argmax())
            raise UserError(
                f"{sheet.place(row, column)}: there is no image {path}. Paths count from "
                "dataset.root."
            )
    order = sorted(range(len(paths)), key=lambda code: paths[code])
    numbers = np.empty(len(paths), dtype=np.int64)
    numbers[order] = np.arange(len(paths))
    return [paths[code] for code in order], numbers[levels.codes]


def _path(folder: Path, name: str) -> Path:
    """A file by its name in the table, which may be written as on Windows."""
    path = folder / name
    return path if path.is_file() or "\\" not in name else folder / name.replace("\\", "/")


def _masks(found: Mapping[str, Target], index: Tensor) -> dict[str, Tensor]:
    """For each task some of whose labels are missing, which rows have one."""
    masks = {task: target.labelled[index] for task, target in found.items()}
    return {task: mask for task, mask in masks.items() if not bool(mask.all())}


def _moments(source: Source) -> Moments:
    """Mean and standard deviation of each channel over all images, from 0 to 1."""
    total = torch.zeros(3, dtype=torch.float64)
    squares = torch.zeros(3, dtype=torch.float64)
    pixels = 0
    for indices in torch.arange(len(source)).split(ROWS_A_READ):
        images, _ = source.rows(indices)
        values = images.transpose(0, 1).flatten(1).double() / 255  # [3, pixels]
        total += values.sum(1)
        squares += values.square().sum(1)
        pixels += values.shape[1]
    mean = total / pixels
    deviation = (squares / pixels - mean.square()).clamp(min=0).sqrt()
    deviation = torch.where(deviation > 1e-6, deviation, 1.0)  # of a channel that is all alike
    return tuple(mean.tolist()), tuple(deviation.tolist())
