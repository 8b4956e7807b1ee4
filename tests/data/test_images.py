import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtlrun.data.images import augmented, decode, decode_many, normalised
from mtlrun.errors import UserError
from mtlrun.randomness import generator


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_decode_gives_the_pixels_of_a_file_and_of_its_bytes(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    path = saved(tmp_path / "a.png", pixels)
    for source in (path, io.BytesIO(path.read_bytes())):
        image = decode(source, "a.png")
        assert image.dtype == torch.uint8
        assert np.array_equal(image.numpy(), pixels.transpose(2, 0, 1))


def test_grey_images_become_three_equal_channels(tmp_path: Path) -> None:
    pixels = noise(4, 4)
    image = decode(saved(tmp_path / "a.png", pixels), "a.png")
    assert image.shape == (3, 4, 4)
    assert all(np.array_equal(channel.numpy(), pixels) for channel in image)


def test_scaling_down_averages(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[::2] = 200  # stripes of one line: without antialiasing they would stay
    image = decode(saved(tmp_path / "a.png", pixels), "a.png", (8, 8))
    assert (image.float() - 100).abs().max() <= 10


def test_crop_takes_the_middle_and_keeps_proportions(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40, 0], wide[:, :20, 1], wide[:, 40:, 2] = 250, 250, 250
    path = saved(tmp_path / "a.png", wide)
    image = decode(path, "a.png", (20, 20), crop=True)
    assert torch.equal(image[0], torch.full((20, 20), 250, dtype=torch.uint8))
    assert not image[1:].any()
    stretched = decode(path, "a.png", (20, 21))
    assert stretched.shape == (3, 20, 21)
    assert stretched[1, 0, 0] == stretched[2, 0, -1] == 250
    tall = saved(tmp_path / "b.png", wide.transpose(1, 0, 2))
    assert torch.equal(decode(tall, "b.png", (10, 20), crop=True)[0].float().mean(1) > 240,
                       torch.ones(10, dtype=torch.bool))  # fmt: skip


def test_a_large_jpeg_scaled_early_is_close_to_one_scaled_late(tmp_path: Path) -> None:
    smooth = np.asarray(
        Image.fromarray(noise(8, 8, 3)).resize((512, 512), Image.Resampling.BICUBIC)
    )
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(path, quality=95)
    with Image.open(path) as image:
        late = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    difference = np.abs(decode(path, "a.jpg", (32, 32)).numpy().astype(int) - late)
    assert difference.max() <= 6
    assert difference.mean() < 1


@pytest.mark.parametrize("side", [16, 130])  # by one thread, by several
def test_decode_many_is_decode_in_order(tmp_path: Path, side: int) -> None:
    paths = [
        saved(tmp_path / f"{row}.png", np.roll(noise(side, side, 3), row, axis=0))
        for row in range(70)
    ]
    images = decode_many(paths)
    expected = torch.stack([decode(path, str(path)) for path in paths])
    assert torch.equal(images, expected)
    small = decode_many([io.BytesIO(path.read_bytes()) for path in paths[:3]], (4, 5), names="abc")
    assert torch.equal(small[2], decode(paths[2], "c", (4, 5)))


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.png", noise(40, 40, 3))
    damaged = {"cut.png": good.read_bytes()[:-2000], "text.png": b"hello", "empty.png": b""}
    for name, content in damaged.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path} is damaged or is no image"):
            decode_many([good] * 40 + [path] + [good] * 40)
    with pytest.raises(UserError, match=r"nothing\.png is missing"):
        decode_many([good, tmp_path / "nothing.png"])


def test_images_of_two_sizes_and_of_16_bits_are_refused(tmp_path: Path) -> None:
    first, second = (saved(tmp_path / f"{n}.png", noise(n, 9, 3)) for n in (8, 9))
    with pytest.raises(UserError, match=rf"{second} has 9 x 9 pixels, and {first} 9 x 8"):
        decode_many([first, second])
    deep = saved(tmp_path / "deep.png", noise(4, 4).astype(np.uint16) * 200)
    with pytest.raises(UserError, match=r"deep\.png has more than 8 bits"):
        decode(deep, str(deep))


def test_augmented_rows_are_windows_of_the_padded_image_flipped_or_not() -> None:
    images = torch.from_numpy(noise(40, 3, 6, 8)).clamp(min=1)
    changed = augmented(images, generator(0, "test"), padding=2)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    places = set()
    for row in range(40):
        found = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if torch.equal(
                changed[row],
                (window := padded[row, :, top : top + 6, left : left + 8])
                if not flip
                else window.flip(2),
            )
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 20
    assert {place[2] for place in places} == {False, True}


def test_augmented_draws_from_the_generator_alone() -> None:
    images = torch.from_numpy(noise(16, 3, 6, 6))
    first, again = (augmented(images, generator(1, "test"), 1) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augmented(images, generator(2, "test"), 1))
    assert torch.equal(augmented(images, generator(1, "test"), 0, flip=False), images)


def test_normalised_is_the_formula() -> None:
    images = torch.from_numpy(noise(5, 3, 4, 4))
    mean, deviation = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    expected = (images.double() / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(
        deviation
    ).double().view(3, 1, 1)
    result = normalised(images, mean, deviation)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(tmp_path: Path, orientation: int) -> None:
    picture = Image.new("RGB", (64, 32))
    picture.paste((255, 255, 255), (0, 0, 32, 16))  # the top left quarter as it is stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", exif=exif)
    size = (32, 64) if orientation < 5 else (64, 32)
    stands = decode(tmp_path / "a.jpg", "a.jpg")[0].float()
    assert stands.shape == size
    quarters = {
        (top, left): stands[rows, columns].mean() > 128
        for top, rows in ((True, slice(size[0] // 2)), (False, slice(size[0] // 2, None)))
        for left, columns in ((True, slice(size[1] // 2)), (False, slice(size[1] // 2, None)))
    }
    white = {1: (1, 1), 2: (1, 0), 3: (0, 0), 4: (0, 1), 5: (1, 1), 6: (1, 0), 7: (0, 0), 8: (0, 1)}
    assert [place for place, bright in quarters.items() if bright] == [white[orientation]]
    small = decode(tmp_path / "a.jpg", "a.jpg", (size[0] // 2, size[1] // 2))
    assert small.shape == (3, size[0] // 2, size[1] // 2)
