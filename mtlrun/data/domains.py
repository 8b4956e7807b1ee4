"""Images of the same classes in several domains, each domain a stream and a task of its own."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mtlrun.data.base import Dataset, NewInputs, Targets, carve, check_share
from mtlrun.data.files import find_root
from mtlrun.data.images import (
    IMAGE_SUFFIXES,
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    augmented,
    decode,
    normalised,
    one_image,
)
from mtlrun.data.originals import Layout, listed
from mtlrun.data.prepared import ArraySpec, PreparedSource, finished_plan
from mtlrun.data.preparing import (
    Array,
    InMemory,
    Preparation,
    Size,
    checked_in_memory,
    checked_size,
    held,
)
from mtlrun.errors import UserError

LEFT_BY_SYSTEMS = ("Thumbs.db", "desktop.ini")
SHIFT = 8
"""In training an image is shifted by up to its smaller side divided by this."""


class DomainFolders(Layout):
    """``<domain>/<class>/<image>``, or ``<domain>/images/<class>/<image>``.

    Upper and lower case, spaces, ``-`` and ``_`` in a domain's folder make no difference.

    Args:
        path: the folder of the domains.
        domains: their names.
        title: the dataset's name, for errors.
        where_from: where to get it, for errors.

    Attributes:
        class_names: the names of the classes' folders, sorted, the same in all domains.
        split: for each domain its images, as (path, class).

    Raises:
        UserError: a domain is missing or there twice, domains differ in their classes, or a class
            has no images.
    """

    kind = "domain folders"
    split: Mapping[str, Sequence[tuple[Path, int]]]

    def __init__(self, path: Path, domains: Sequence[str], title: str, where_from: str) -> None:
        super().__init__(path)
        if not path.is_dir():
            raise UserError(f"{title} is not at {path.absolute()} (dataset.root). {where_from}")
        folders = {domain: _folders_of(path, domain) for domain in domains}
        missing = [domain for domain, found in folders.items() if not found]
        if missing:
            raise UserError(
                f"{path.absolute()} (dataset.root) {listed(path)}: {title} has no folder "
                f"{missing[0]} there. {where_from}"
            )
        for domain, found in folders.items():
            if len(found) > 1:
                raise UserError(
                    f"{found[0]} and {found[1].name} are both {title}'s domain {domain}. Remove "
                    "one of them."
                )
        roots = {domain: _inner(found[0]) for domain, found in folders.items()}
        self.class_names = _common_classes(roots)
        self.split = {
            domain: [
                (image, number)
                for number, name in enumerate(self.class_names)
                for image in _images(root / name)
            ]
            for domain, root in roots.items()
        }

    def files(self) -> Iterable[Path]:
        """See :meth:`Layout.files`."""
        for images in self.split.values():
            for image, _ in images:
                yield image


class DomainPreparation(Preparation[DomainFolders]):
    """Rows are the images of one domain after the other, class by class. Per row:

    - ``image`` uint8 [3, H, W], scaled without keeping its proportions;
    - ``label`` int64, the place of its class among the sorted names.

    Attributes:
        domains: their names.
        published: the numbers of classes and images that the publisher has.
        where_from: where to get the files, in words.
    """

    version = 1
    domains: ClassVar[tuple[str, ...]]
    published: ClassVar[tuple[int, int]]
    where_from: ClassVar[str]

    def detect(self, path: Path) -> DomainFolders:
        """See :class:`DomainFolders`."""
        return DomainFolders(path, self.domains, self.title, self.where_from)

    def arrays(self, layout: DomainFolders, size: Size) -> Mapping[str, ArraySpec]:
        """See :meth:`Preparation.arrays`."""
        del layout
        return {"image": ArraySpec((3, *size), "uint8"), "label": ArraySpec((), "int64")}

    def facts(self, layout: DomainFolders) -> Mapping[str, Any]:
        """The classes' names."""
        return {"class_names": list(layout.class_names)}

    def row(
        self, layout: DomainFolders, part: str, key: tuple[Path, int], size: Size
    ) -> Mapping[str, Array]:
        """See :meth:`Preparation.row`."""
        del layout, part
        path, number = key
        return {"image": decode(path, str(path), size).numpy(), "label": np.array(number)}

    def remark(self, layout: DomainFolders) -> str | None:
        """That this is not all that is published, where it is not."""
        found = (len(layout.class_names), sum(map(len, layout.split.values())))
        if found == self.published:
            return None
        return (
            f"Note: {layout.path} has {found[1]} images of {found[0]} classes; {self.title} as "
            f"published has {self.published[1]} of {self.published[0]}."
        )


class DomainImages(Dataset):
    """One stream and one task a domain; the classes are the same in all of them.

    Each domain is split at random into training, validation and test rows. In training an image is
    shifted by up to an eighth of its smaller side, with black moving in, and flipped with
    probability 1/2. Images are normalised by ImageNet's mean and standard deviation.

    Args:
        root: the folder of the domains; None is ``$MTLRUN_DATA/<dataset>``, else
            ``data/<dataset>``.
        size: [H, W] of the images.
        validation: share of all rows of each domain to carve out for validation.
        test: share of all rows of each domain to test on.
        seed: of the splits. It is not the run's, so that all runs see the same rows.
        augment: whether to augment in training.
        prepared: the folder of prepared images to use, or to make; None looks in ``root`` and then
            in the user's cache.
        in_memory: whether to hold all images in memory (True) or to read them from the prepared
            files (False); "auto" holds up to 2 GiB in memory.
        carve_validation: whether to carve at all; validation rows join training where not.

    Raises:
        UserError: files are missing or damaged, or a domain has too few for its splits.
    """

    new_inputs = "images"
    preparation: ClassVar[DomainPreparation]

    def __init__(
        self,
        root: str | None = None,
        size: Sequence[int] = (224, 224),
        validation: float = 0.2,
        test: float = 0.2,
        seed: int = 0,
        augment: bool = True,
        prepared: str | None = None,
        in_memory: InMemory = "auto",
        *,
        carve_validation: bool = True,
    ) -> None:
        self.size = checked_size(size)
        check_share("test", test)
        if not 0 <= validation < 1 - test:
            raise ValueError(
                f"validation={validation}: a share of the rows, from 0, that leaves some for "
                f"training beside test={test}"
            )
        checked_in_memory(in_memory)
        self.augment = augment
        found = find_root(self.preparation.dataset, root)
        self.folder = self.preparation.find_or_prepare(found, self.size, prepared)

        plan = finished_plan(self.folder)
        splits: dict[str, dict[str, PreparedSource]] = {"train": {}, "val": {}, "test": {}}
        start = 0
        for domain in self.preparation.domains:
            rows = PreparedSource(
                self.folder,
                torch.arange(start, start + plan.facts[domain]),
                inputs="image",
                targets={domain: "label"},
                labelled={},
            )
            start += len(rows)
            parts = three_way(len(rows), validation if carve_validation else 0.0, test, seed)
            for split, indices in parts.items():
                if not len(indices):
                    raise UserError(
                        f"{self.preparation.title}: the domain {domain} has {len(rows)} images, "
                        f"which leaves none for {split}. Change dataset.validation, dataset.test, "
                        "or the images."
                    )
                splits[split][domain] = rows.subset(indices)
        self.splits = held({split: parts for split, parts in splits.items() if parts}, in_memory)
        domains = self.preparation.domains
        names = plan.facts["class_names"]
        self.streams = {domain: (domain,) for domain in domains}
        self.input_shape = dict.fromkeys(domains, (3, *self.size))
        self.normalisation = {"mean": IMAGENET_MEAN, "deviation": IMAGENET_DEVIATION}
        self.facts = {d: {"classes": len(names), "class_names": list(names)} for d in domains}

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """See :meth:`Dataset.transform`.

        Args:
            stream: the domain.
            inputs: uint8 [N, 3, H, W].
            targets: int64 [N].
            draws: see :meth:`Dataset.transform`.

        Returns:
            normalised float32 images [N, 3, H, W]; targets as they were.
        """
        del stream
        if self.augment and draws is not None:
            inputs = augmented(inputs, draws, min(self.size) // SHIFT)
        return normalised(inputs, IMAGENET_MEAN, IMAGENET_DEVIATION), targets

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """An image, scaled without keeping its proportions. See :meth:`Dataset.encode`."""
        del stream, column
        return one_image(decode(file, str(file), self.size))


def three_way(rows: int, validation: float, test: float, seed: int) -> dict[str, Tensor]:
    """Row numbers for training, testing and, where ``validation`` is above 0, validation.

    The test rows do not depend on ``validation``.

    Args:
        rows: how many there are.
        validation: share of all of them.
        test: share of all of them.
        seed: of the choice.
    """
    kept, tested = carve(rows, test, seed)
    if not validation:
        return {"train": kept, "test": tested}
    share = min(round(rows * validation) / len(kept), 1)
    if share == 1:  # too few rows for three parts
        return {"train": kept[:0], "val": kept, "test": tested}
    trained, validated = carve(len(kept), share, seed)
    return {"train": kept[trained], "val": kept[validated], "test": tested}


def _folders_of(path: Path, domain: str) -> list[Path]:
    """The folders in ``path`` that a domain may be in."""
    return sorted(
        entry for entry in path.iterdir() if entry.is_dir() and _plain(entry.name) == _plain(domain)
    )


def _plain(name: str) -> str:
    return name.lower().translate(str.maketrans("", "", " -_"))


def _inner(domain: Path) -> Path:
    """The folder of a domain's classes."""
    return domain / "images" if (domain / "images").is_dir() else domain


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without what operating systems leave behind."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.name not in LEFT_BY_SYSTEMS
    )


def _common_classes(roots: Mapping[str, Path]) -> list[str]:
    """The names of the classes' folders, sorted; an error where domains differ in them."""
    classes = {
        domain: {entry.name for entry in _visible(root) if entry.is_dir()}
        for domain, root in roots.items()
    }
    everything = set.union(*classes.values())
    for domain, names in classes.items():
        lacking = sorted(everything - names)
        if lacking:
            other = next(d for d, others in classes.items() if lacking[0] in others)
            raise UserError(
                f"{roots[domain]} has no folder {lacking[0]}, and {roots[other]} has. All domains "
                "have the same classes: copy what is missing, or remove what is too much."
            )
    if len(everything) < 2:
        raise UserError(f"{next(iter(roots.values()))} has no folders of two classes or more.")
    return sorted(everything)


def _images(folder: Path) -> list[Path]:
    """A class' images, sorted."""
    found = _visible(folder)
    for file in found:
        if file.suffix.lower() not in IMAGE_SUFFIXES or not file.is_file():
            raise UserError(
                f"{file} is no image by its name ({', '.join(IMAGE_SUFFIXES)}). Remove it from "
                "there."
            )
    if not found:
        raise UserError(f"{folder} holds no images. Copy it again.")
    return found
