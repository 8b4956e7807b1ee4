"""Image files to whole batches of pixels, and what whole batches go through before the network."""

import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from mtlrun.data.base import NewInputs, TensorSource
from mtlrun.errors import UserError

# Of ImageNet's training images, which pretrained backbones expect; red, green, blue from 0 to 1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
)
"""What pillow raises on files that are cut off, damaged, or no images."""

UPRIGHT, FIRST_ON_ITS_SIDE = 1, 5
"""Values of EXIF's orientation; from the second on width and height are swapped."""

ROWS_A_JOB = 32
"""Files that a thread decodes in one go, so that handing out work costs little beside the work."""

PIXELS_A_THREAD_PAYS = 128 * 128
"""Below it, a file's header takes pillow longer than its pixels, and threads only wait for each
other: only pixels are decoded by several at once."""

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]


def decode(
    source: Path | BinaryIO, name: str, size: Size | None = None, *, crop: bool = False
) -> Tensor:
    """The pixels of an image file: uint8 [3, H, W], red, green, blue.

    Grey, palette and other 8-bit images become RGB; a transparent image keeps the colours that lie
    under its transparency. Scaling is bilinear with antialiasing. A JPEG of many times the size
    wanted is decoded at a fraction of its scale, at least twice the size wanted, and scaled from
    there. Photographs are turned upright as the camera noted (EXIF).

    Args:
        source: the file, or something to read it from.
        name: how errors call it, a path for example.
        size: (H, W) to scale to; None keeps the image's own.
        crop: scale so that the image just covers ``size``, and cut out its middle, which keeps its
            proportions; False stretches it.

    Raises:
        UserError: the file is missing, damaged, no image, or has more than 8 bits a channel.
    """
    return torch.from_numpy(_pixels(source, name, size, crop))


def decode_many(
    sources: Sequence[Path | BinaryIO],
    size: Size | None = None,
    crop: bool = False,
    names: Sequence[str] | None = None,
) -> Tensor:
    """The pixels of many image files: uint8 [N, 3, H, W]. See :func:`decode`.

    Files are decoded by threads, one for each core, where the first of them is large.

    Args:
        sources: the files, at least one.
        size: (H, W); None where all files have the same.
        crop: see :func:`decode`.
        names: how errors call the files; None where ``sources`` are paths.

    Raises:
        UserError: see :func:`decode`; or, with ``size=None``, two files differ in size.
    """
    called = [str(source) for source in sources] if names is None else names
    first = _pixels(sources[0], called[0], size, crop)
    images = np.empty((len(sources), *first.shape), dtype=np.uint8)
    images[0] = first

    def fill(start: int) -> None:
        for row in range(start, min(start + ROWS_A_JOB, len(sources))):
            pixels = _pixels(sources[row], called[row], size, crop)
            if pixels.shape != first.shape:
                raise UserError(
                    f"{called[row]} has {_size(pixels)} pixels, and {called[0]} {_size(first)}: "
                    "all images must have the same size."
                )
            images[row] = pixels

    with ThreadPoolExecutor(_threads(sources[0], called[0])) as pool:
        jobs = [pool.submit(fill, start) for start in range(1, len(sources), ROWS_A_JOB)]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return torch.from_numpy(images)


def _threads(source: Path | BinaryIO, name: str) -> int:
    """How many threads to decode files like this one with."""
    with _reading(name), Image.open(source) as image:
        small = image.width * image.height < PIXELS_A_THREAD_PAYS
    if small:
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def augmented(images: Tensor, draws: torch.Generator, padding: int, flip: bool = True) -> Tensor:
    """Each image shifted at random, with black moving in at its edges, and flipped at random.

    It is the random crop of its own size from the image with a border of ``padding`` black pixels
    (He et al., CVPR 2016, section 4.2, with 4 pixels on CIFAR-10), drawn anew for each row.

    Args:
        images: uint8 [N, C, H, W], not normalised yet, so that 0 is black.
        draws: generator on the CPU: a GPU run sees the same images as a CPU run.
        padding: pixels that an image moves at most, up, down, left and right.
        flip: whether to swap left and right with probability 1/2.
    """
    rows, channels, height, width = images.shape
    shifts = torch.randint(2 * padding + 1, (2, rows), generator=draws)
    flips = torch.randint(2, (1, rows), generator=draws)
    drawn = torch.cat([shifts, flips]).unsqueeze(2)
    if images.is_cuda:  # from pinned memory the copy makes nobody wait
        drawn = drawn.pin_memory().to(images.device, non_blocking=True)
    down = torch.arange(height, device=images.device) + drawn[0]  # [N, H], row of the border's
    across = torch.arange(width, device=images.device).expand(rows, -1)
    if flip:
        across = torch.where(drawn[2] > 0, width - 1 - across, across)
    padded = F.pad(images, (padding, padding, padding, padding))
    places = down.unsqueeze(2) * padded.shape[3] + (across + drawn[1]).unsqueeze(1)  # [N, H, W]
    places = places.flatten(1).unsqueeze(1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, places).view(images.shape)


def normalised(images: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """(pixel / 255 - mean) / deviation of each channel, in one pass over the batch.

    Args:
        images: [N, C, H, W], uint8 or float, from 0 to 255.
        mean: of each channel, from 0 to 1.
        deviation: standard deviation of each channel, likewise.

    Returns:
        float32 [N, C, H, W].
    """
    gain, offset = _normalisation(tuple(mean), tuple(deviation), images.device)
    return torch.addcmul(offset, images, gain)


def one_image(pixels: Tensor) -> NewInputs:
    """A new image, [C, H, W], as the one row of its file."""
    return NewInputs(TensorSource(pixels.unsqueeze(0), {}))


def grey(pixels: Tensor) -> Tensor:
    """Brightness of red, green and blue (ITU-R BT.601, as pillow rounds it): uint8 [1, H, W].

    Args:
        pixels: uint8 [3, H, W].
    """
    red, green, blue = pixels.int()
    brightness: Tensor = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    pixels = brightness.to(torch.uint8)
    return pixels.unsqueeze(0)


def _pixels(source: Path | BinaryIO, name: str, size: Size | None, crop: bool) -> Pixels:
    """An image file as uint8 [3, H, W]; see :func:`decode`."""
    with _reading(name), Image.open(source) as image:
        if image.mode.startswith(("I", "F")):
            raise UserError(
                f"{name} has more than 8 bits a channel (mode {image.mode}). Convert it to 8."
            )
        orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
        if size is not None:
            # Only JPEGs can do it, and only by whole fractions; others stay as they are
            height, width = size if orientation < FIRST_ON_ITS_SIDE else size[::-1]
            image.draft(None, (2 * width, 2 * height))
        image.info.pop("transparency", None)  # pillow warns of it, and colours do not depend on it
        picture = image if image.mode == "RGB" else image.convert("RGB")
        picture.load()
        if orientation != UPRIGHT:
            picture = ImageOps.exif_transpose(picture)
    if size is not None and picture.size != (size[1], size[0]):
        box = _middle(picture.size, size) if crop else None
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Errors of reading the image file ``name``, in the user's words."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{name} is missing.") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} is too large to be read. Scale it down. {error}") from error
    except DAMAGE as error:
        raise UserError(f"{name} is damaged or is no image ({error}). Copy it again.") from error


def _middle(extent: tuple[int, int], size: Size) -> tuple[float, float, float, float]:
    """The largest box in the middle of an image that has the proportions of ``size``.

    Args:
        extent: the image's width and height.
        size: (H, W) wanted.

    Returns:
        left, top, right, bottom.
    """
    width, height = extent
    scale = min(width / size[1], height / size[0])
    kept_width, kept_height = size[1] * scale, size[0] * scale
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return left, top, left + kept_width, top + kept_height


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[2]} x {pixels.shape[1]}"


@cache
def _normalisation(
    mean: tuple[float, ...], deviation: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Gain and offset that turn 0..255 into normalised values, [C, 1, 1]; kept on the device."""
    means, deviations = np.array(mean), np.array(deviation)
    gain, offset = 1 / (255 * deviations), -means / deviations
    return (
        torch.tensor(gain, dtype=torch.float32, device=device).view(-1, 1, 1),
        torch.tensor(offset, dtype=torch.float32, device=device).view(-1, 1, 1),
    )
