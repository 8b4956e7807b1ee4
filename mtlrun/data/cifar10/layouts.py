"""The layouts that CIFAR-10 comes in: the publisher's batches, or class folders; plain or in a tar.

Whatever the layout, a split is read as uint8 images [N, 3, 32, 32] and labels, int64 [N].
"""

import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from mtlrun.data.cifar10.batches import SIDE, check_names, read_batch
from mtlrun.data.files import read_bytes
from mtlrun.data.images import decode_many
from mtlrun.errors import UserError, did_you_mean

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
BATCHES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
META = "batches.meta"
BATCH_FILES = (*BATCHES["train"], *BATCHES["test"], META)
BATCH_FOLDER = "cifar-10-batches-py"
BATCH_ARCHIVE = "cifar-10-python.tar.gz"
PICTURES = (".jpg", ".jpeg", ".png")
ARCHIVES = (".tar", ".tar.gz", ".tgz")

Rows = tuple[Tensor, Tensor]
Files = Mapping[PurePosixPath, Path | bytes]
"""Files by their path below the folder or in the archive: where they are, or their content."""


def read_splits(root: Path) -> dict[str, Rows]:
    """Images and labels of the splits ``train`` and ``test``.

    Rows of the batches are in their order; those of class folders are sorted by class and name.

    Args:
        root: a folder that is, or holds, one of the layouts; or a tar file of one.

    Raises:
        UserError: nothing is there, several archives are, or a file is missing or damaged.
    """
    where = _located(root)
    files = _in_folder(where) if where.is_dir() else _in_archive(where)
    batches = {path.name: path for path in files if path.name in BATCH_FILES}
    if batches:
        return _from_batches(where, files, batches)
    if not files:
        raise UserError(f"{where} holds no CIFAR-10. {_layouts()}")
    return {split: _from_class_folders(where, files, split) for split in BATCHES}


def _located(root: Path) -> Path:
    """The folder or archive to read: ``root``, or what is in it."""
    if root.is_file():
        if not root.name.endswith(ARCHIVES):
            raise UserError(f"{root} is not an archive ({', '.join(ARCHIVES)}). {_layouts()}")
        return root
    if not root.is_dir():
        raise UserError(f"CIFAR-10 is not there: the folder {root} does not exist. {_layouts()}")
    if any((root / name).is_file() for name in BATCH_FILES):
        return root
    if (root / BATCH_FOLDER).is_dir():
        return root / BATCH_FOLDER
    if (root / BATCH_ARCHIVE).is_file():
        return root / BATCH_ARCHIVE
    if any((root / split).is_dir() for split in BATCHES):
        return root
    archives = sorted(path for path in root.iterdir() if path.name.endswith(ARCHIVES))
    if len(archives) > 1:
        raise UserError(
            f"{root} has several archives: {', '.join(path.name for path in archives)}. Say which "
            f"one to read, for example dataset.root={archives[0]}."
        )
    if not archives:
        raise UserError(f"CIFAR-10 is not there: {root} has none of its layouts. {_layouts()}")
    return archives[0]


def _layouts() -> str:
    folder = f"{BATCH_FOLDER} (with {', '.join(BATCH_FILES)})"
    return (
        f"Get {BATCH_ARCHIVE} from www.cs.toronto.edu/~kriz/cifar.html and put it there, packed or "
        f"unpacked to {folder}; or class folders train/CLASS/*.png and test/CLASS/*.png (or .jpg), "
        "plain or in one tar file. Name another folder or an archive by dataset.root=PATH, or the "
        "folder's parent by the environment variable MTLRUN_DATA (which then needs a folder "
        "cifar10). Nothing has to be prepared."
    )


def _wanted(path: PurePosixPath) -> bool:
    """Whether it is a batch, or a picture in a class folder of a split."""
    if path.name in BATCH_FILES:
        return True
    picture = path.suffix.lower() in PICTURES and not path.name.startswith(".")
    return picture and len(path.parts) >= 3 and path.parts[-3] in BATCHES


def _in_folder(where: Path) -> dict[PurePosixPath, Path | bytes]:
    candidates = [where / name for name in BATCH_FILES if (where / name).is_file()]
    if not candidates:
        candidates = [path for split in BATCHES for path in (where / split).glob("*/*")]
    found = {PurePosixPath(path.relative_to(where).as_posix()): path for path in candidates}
    return {place: path for place, path in found.items() if _wanted(place)}


def _in_archive(where: Path) -> dict[PurePosixPath, Path | bytes]:
    contents: dict[PurePosixPath, Path | bytes] = {}
    try:
        with tarfile.open(where) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if member.isfile() and _wanted(path):
                    file = archive.extractfile(member)
                    assert file is not None  # it is, for whatever isfile() is true of
                    contents[path] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"{where} is not a whole tar archive ({error}). Copy or download it again."
        ) from error
    return contents


def _from_batches(
    where: Path, files: Files, batches: Mapping[str, PurePosixPath]
) -> dict[str, Rows]:
    """The splits from the publisher's pickles, by their names."""
    absent = [name for name in BATCH_FILES if name not in batches]
    if absent:
        raise UserError(f"{where} lacks {', '.join(absent)}. Copy or unpack CIFAR-10 again.")

    def content(name: str) -> bytes:
        file = files[batches[name]]
        return file if isinstance(file, bytes) else read_bytes(file)

    check_names(content(META), str(where / batches[META]), CLASSES)
    splits = {}
    for split, names in BATCHES.items():
        parts = [read_batch(content(name), str(where / batches[name])) for name in names]
        images, labels = zip(*parts, strict=True)
        splits[split] = torch.cat(images), torch.cat(labels)
    return splits


def _from_class_folders(where: Path, files: Files, split: str) -> Rows:
    """One split from pictures, sorted by class and name."""
    paths = sorted(path for path in files if path.parts[-3] == split)
    for path in paths:
        if path.parts[-2] not in CLASSES:
            raise UserError(
                f"{where / path} is in a folder {path.parts[-2]}, and CIFAR-10 has no such class. "
                f"{did_you_mean(path.parts[-2], CLASSES)}"
            )
    absent = [name for name in CLASSES if not any(path.parts[-2] == name for path in paths)]
    if absent:
        raise UserError(
            f"{where} has no pictures (.jpg or .png) of {', '.join(absent)} in the class folders "
            f"of {split}/. CIFAR-10 has ten classes. Copy or unpack it again."
        )
    folders = sorted({str(PurePosixPath(*path.parts[:-2])) for path in paths})
    if len(folders) > 1:
        raise UserError(f"{where} has several {split} splits: {', '.join(folders)}. Keep one.")
    paths.sort(key=lambda path: (CLASSES.index(path.parts[-2]), path.name))
    names = [str(where / path) for path in paths]
    images = decode_many([_opened(files[path]) for path in paths], names=names)
    if images.shape[2:] != (SIDE, SIDE):
        height, width = images.shape[2:]
        raise UserError(f"{names[0]} has {width} x {height} pixels; CIFAR-10's have 32 x 32.")
    labels = torch.tensor([CLASSES.index(path.parts[-2]) for path in paths])
    return images, labels


def _opened(file: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(file) if isinstance(file, bytes) else file
