"""Images with a table of labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtlrun.data.images import IMAGENET_DEVIATION, IMAGENET_MEAN
from mtlrun.data.labelled_images import LabelledImages
from mtlrun.errors import UserError

ROWS = 20
TASKS = {"shape": None, "shade": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty grey images of 8x8, each of one shade, with labels; the last lacks its shade."""
    (tmp_path / "pictures").mkdir()
    lines = ["file,shape,shade,part"]
    for row in range(ROWS):
        name = f"pictures/{(row * 7) % ROWS:02}.png"
        Image.fromarray(np.full((8, 8), 10 * row, dtype=np.uint8)).save(tmp_path / name)
        shade = row / 2 if row < ROWS - 1 else ""
        part = "test" if row >= 16 else "val" if row >= 12 else "train"
        lines.append(f"{name},{('round', 'square')[row % 2]},{shade},{part}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


def images(folder: Path, tasks=TASKS, **own) -> LabelledImages:
    settings = {"size": [8, 8], "split": "part", **own}
    return LabelledImages(str(folder), tasks=tasks, **settings)


def everything(dataset: LabelledImages, split: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    source = dataset.splits[split]["images"]
    return source.rows(torch.arange(len(source)))


def test_rows_are_the_images_that_the_table_names(folder: Path) -> None:
    dataset = images(folder)
    for split, first, count in (("train", 0, 12), ("val", 12, 4), ("test", 16, 4)):
        pixels, targets = everything(dataset, split)
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (count, 3, 8, 8)
        expected = torch.arange(first, first + count)
        assert torch.equal(pixels[:, 0, 0, 0].long(), 10 * expected)
        assert torch.equal(targets["shape"].long(), expected % 2)
        known = targets["shade"][~targets["shade"].isnan()]
        assert torch.equal(known, expected[: len(known)] / 2)
    assert dataset.splits["test"]["images"].labelled["shade"].tolist() == [True, True, True, False]
    assert dataset.facts["shape"]["class_names"] == ["round", "square"]
    assert dataset.facts["shade"]["kind"] == "regression"
    assert dataset.input_shape == {"images": (3, 8, 8)}
    assert dataset.remarks == [
        f"Read {folder / 'labels.csv'}: 20 images, 8 x 8, in memory.",
        "Targets: shape (binary, 50 % square), shade (regression, 1 missing).",
        "Split: 12 train, 4 val, 4 test (by column part).",
    ]


def test_what_is_learnt_of_targets_is_learnt_from_training_rows(folder: Path) -> None:
    dataset = images(folder)
    shade = everything(dataset, "train")[1]["shade"]
    assert dataset.facts["shade"]["center"] == pytest.approx(shade.nanmean().item())


def test_from_the_disk_they_are_the_same(folder: Path) -> None:
    held, mapped = images(folder), images(folder, in_memory=False)
    assert (folder / "prepared_8x8" / "image.npy").is_file()
    for split in held.splits:
        for first, second in zip(everything(held, split), everything(mapped, split), strict=True):
            torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    mapped.select(["shade"])
    assert list(everything(mapped, "test")[1]) == ["shade"]
    assert mapped.splits["test"]["images"].labelled["shade"].sum() == 3

    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(lines[:1] + lines[:0:-1]))
    turned = images(folder, in_memory=False)  # another order, the same files
    assert everything(turned, "train")[0][:, 0, 0, 0].tolist() == list(range(110, -1, -10))
    for changed in ({"crop": True}, {"prepared": str(folder / "prepared_8x8"), "crop": True}):
        with pytest.raises(UserError, match=r"another dataset\.crop\. Remove it"):
            images(folder, in_memory=False, **changed)
    (folder / "labels.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match="prepared from"):
        images(folder, in_memory=False)
    with pytest.raises(UserError, match=r"other images than dataset\.labels names"):
        images(folder, in_memory=False, prepared=str(folder / "prepared_8x8"))


def test_paths_may_be_written_as_on_windows(folder: Path) -> None:
    before = everything(images(folder), "train")[0]
    change(folder, "pictures/", "pictures\\")
    assert torch.equal(everything(images(folder), "train")[0], before)


def test_normalisation(folder: Path) -> None:
    pixels, _ = everything(images(folder), "val")
    seen, targets = images(folder).transform("images", pixels, {"shape": pixels}, None)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    torch.testing.assert_close(seen, (pixels / 255 - mean) / deviation)
    assert targets["shape"] is pixels

    for in_memory in (True, False):
        own = images(folder, normalise="train", in_memory=in_memory)
        inputs, _ = everything(own, "train")
        seen, _ = own.transform("images", inputs, {}, None)
        torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(3))


def test_training_images_are_shifted_and_flipped(folder: Path) -> None:
    row = torch.arange(8, dtype=torch.uint8).expand(64, 3, 8, 8)
    gain = 255 * IMAGENET_DEVIATION[0]

    def seen(augment) -> set[tuple[int, ...]]:
        dataset = images(folder, augment=augment)
        changed, _ = dataset.transform("images", row, {}, torch.Generator().manual_seed(0))
        pixels = changed[:, 0, 4] * gain + 255 * IMAGENET_MEAN[0]
        return {tuple(values) for values in pixels.round().long().tolist()}

    plain, left, right = tuple(range(8)), (1, 2, 3, 4, 5, 6, 7, 0), (0, 0, 1, 2, 3, 4, 5, 6)
    assert seen(False) == {plain}
    assert seen("shift") == {plain, left, right}
    assert seen(True) == {turned for kept in (plain, left, right) for turned in (kept, kept[::-1])}


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "labels.csv"
    path.write_text(path.read_text().replace(old, new))


def test_what_is_not_there_is_named(folder: Path) -> None:
    table = folder / "labels.csv"
    change(folder, "pictures/14.png", "pictures/nine.png")
    with pytest.raises(
        UserError, match=rf"{table}, line 4, column file: there is no image {folder}"
    ):
        images(folder)
    change(folder, "pictures/nine.png", "")
    with pytest.raises(UserError, match=rf"{table}, line 4, column file: the cell names no image"):
        images(folder)
    change(folder, ",round,1.0", "pictures/07.png,round,1.0")  # twice the same one
    assert everything(images(folder), "train")[0][:3, 0, 0, 0].tolist() == [0, 10, 10]
    (folder / "pictures" / "07.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"pictures/07\.png is damaged or is no image"):
        images(folder)
    with pytest.raises(UserError, match=r"dataset\.file: .*labels\.csv has no column image\."):
        images(folder, file="image")
    with pytest.raises(UserError, match=r"dataset\.tasks and dataset\.file both name it"):
        images(folder, {"file": None})
    with pytest.raises(UserError, match=r"dataset\.labels=.*there is no such file.*labels\.csv\?"):
        images(folder, labels="label.csv")
    with pytest.raises(UserError, match=r"folder .*gone does not exist.*dataset\.root=FOLDER"):
        images(folder / "gone")


@pytest.mark.parametrize(
    "own", [{"size": [8]}, {"augment": "flip"}, {"normalise": "test"}, {"in_memory": "disk"}]
)
def test_wrong_settings_are_refused(folder: Path, own: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(own))}="):
        images(folder, **own)
