from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from mtlrun.data.celeba import CelebA
from mtlrun.data.celeba.command import prepare_command
from mtlrun.data.celeba.files import ATTRIBUTES
from mtlrun.data.prepared import PROGRESS, read_plan
from mtlrun.errors import UserError
from mtlrun.randomness import generator

ROWS = 48
SPLIT = [2 if row % 6 == 5 else 1 if row % 6 == 4 else 0 for row in range(ROWS)]  # not in order
ATTRIBUTE_LIST, PARTITION_LIST = "list_attr_celeba.txt", "list_eval_partition.txt"


def values() -> np.ndarray:
    """Whether a face has an attribute, [rows, 40]."""
    return np.random.default_rng(0).integers(0, 2, (ROWS, 40))


def name_of(row: int) -> str:
    return f"{row + 1:06d}.jpg"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small CelebA in its publisher's format: lists side by side with the images."""
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    lines = [str(ROWS), " ".join(ATTRIBUTES) + " "]
    for row, own in enumerate(values()):
        shown = " ".join(" 1" if value else "-1" for value in own)
        lines.append(f"{name_of(row)} {shown} ")
        image = Image.new("RGB", (178, 218), (5 * row, 250 - 5 * row, 100))
        image.save(root / "img_align_celeba" / name_of(row), quality=95)
    (root / ATTRIBUTE_LIST).write_text("\n".join(lines) + "\n")
    partition = [f"{name_of(row)} {split}\n" for row, split in enumerate(SPLIT)]
    (root / PARTITION_LIST).write_text("".join(partition))
    return root


def rows_of(split: int) -> list[int]:
    return [row for row in range(ROWS) if SPLIT[row] == split]


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_and_attributes_of_the_official_splits(root: Path, in_memory: bool) -> None:
    dataset = CelebA(str(root), size=[16, 12], in_memory=in_memory)
    assert dataset.input_shape["celeba"] == (3, 16, 12)
    for number, split in enumerate(("train", "val", "test")):
        source, rows = dataset.splits[split]["celeba"], rows_of(number)
        assert len(source) == len(rows)
        order = torch.arange(len(rows)).flip(0)
        images, targets = source.rows(order)
        assert images.dtype == torch.uint8
        colours = torch.tensor([[5 * row, 250 - 5 * row, 100] for row in reversed(rows)])
        shown = images.int() - colours.view(-1, 3, 1, 1)
        assert shown.abs().max() <= 3  # JPEG
        assert list(targets) == list(ATTRIBUTES)
        for task, column in zip(ATTRIBUTES, values().T, strict=True):
            assert targets[task].dtype == torch.int64
            assert targets[task].tolist() == [column[row] for row in reversed(rows)]


@pytest.mark.parametrize("in_memory", [True, False])
def test_select_keeps_the_tasks_asked_for(root: Path, in_memory: bool) -> None:
    dataset = CelebA(str(root), size=[8, 8], in_memory=in_memory)
    dataset.select(["Smiling", "Male"])
    _, targets = dataset.splits["test"]["celeba"].rows(torch.arange(3))
    assert list(targets) == ["Smiling", "Male"]
    columns = [ATTRIBUTES.index(task) for task in targets]
    expected = values()[rows_of(2)[:3]][:, columns]
    assert torch.stack(list(targets.values()), 1).tolist() == expected.tolist()


def test_selecting_on_test_leaves_the_training_rows_as_they_are(root: Path) -> None:
    dataset = CelebA(str(root), size=[8, 8], carve_validation=False)
    assert set(dataset.splits) == {"train", "test"}
    assert len(dataset.splits["train"]["celeba"]) == len(rows_of(0))


def test_the_publishers_own_folders_are_found(root: Path, tmp_path: Path) -> None:
    expected = CelebA(str(root), size=[8, 8]).splits["train"]["celeba"].rows(torch.arange(9))[0]
    apart = tmp_path / "apart"
    for folder, name in (
        ("Anno", ATTRIBUTE_LIST),
        ("Eval", PARTITION_LIST),
        ("Img", "img_align_celeba"),
    ):
        (apart / folder).mkdir(parents=True)
        (root / name).rename(apart / folder / name)
    read = CelebA(str(apart), size=[8, 8]).splits["train"]["celeba"].rows(torch.arange(9))[0]
    assert torch.equal(read, expected)


def test_preparing_goes_on_where_it_was_stopped(root: Path, capsys: pytest.CaptureFixture) -> None:
    damaged = root / "img_align_celeba" / name_of(rows_of(2)[5])  # of the last rows
    content = damaged.read_bytes()
    damaged.write_bytes(content[:500])
    with pytest.raises(UserError, match=f"{damaged} is damaged"):
        prepare_command(["--from", str(root), "--size", "8", "8"])
    folder = root / "prepared_8x8"
    assert (folder / PROGRESS).exists()
    assert read_plan(folder) is None
    (root / "img_align_celeba" / name_of(0)).unlink()  # row 0 is done: it is not read again
    (root / "img_align_celeba" / name_of(0)).touch()
    damaged.write_bytes(content)
    assert prepare_command(["--from", str(root), "--size", "8", "8"]) == 0
    said = capsys.readouterr()
    assert "32 train, 8 val, 8 test images; CelebA has 162770 train" in " ".join(said.err.split())
    assert f"dataset=celeba dataset.size=[8,8] dataset.root={root}" in said.out
    assert len(CelebA(str(root), size=[8, 8]).splits["test"]["celeba"]) == 8


def test_a_prepared_folder_needs_no_images_but_the_same_lists(root: Path) -> None:
    CelebA(str(root), size=[8, 8])
    for image in (root / "img_align_celeba").iterdir():
        image.unlink()
    assert len(CelebA(str(root), size=[8, 8]).splits["val"]["celeba"]) == 8
    partition = root / PARTITION_LIST
    partition.write_text(partition.read_text().replace("000001.jpg 0", "000001.jpg 2"))
    with pytest.raises(UserError, match="are not those that"):
        CelebA(str(root), size=[8, 8])


def test_transform_normalises_and_flips_only_where_asked(root: Path) -> None:
    plain, flipped = (CelebA(str(root), size=[8, 8], augment=augment) for augment in (False, True))
    inputs = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    expected = (inputs / 255 - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    for dataset, draws in ((plain, generator(0, "t")), (flipped, None)):
        seen, _ = dataset.transform("celeba", inputs, {}, draws)
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)
    seen, _ = flipped.transform("celeba", inputs, {}, generator(0, "t"))
    mirrored = [
        torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(seen, expected, strict=True)
    ]
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(seen, expected, strict=True)]
    assert [a != b for a, b in zip(mirrored, same, strict=True)] == [True] * 20
    assert 0 < sum(mirrored) < 20


def test_the_configuration_lists_the_40_attributes() -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "configs" / "dataset" / "celeba.yaml")
    assert list(config.dataset.tasks) == list(ATTRIBUTES)
    assert len(set(ATTRIBUTES)) == 40
    targets = {task["_target_"] for task in config.dataset.tasks.values()}
    assert targets == {"mtlrun.tasks.classification.Classification"}


def changed(path: Path, line: int, old: str, new: str) -> None:
    lines = path.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("name", "line", "old", "new", "message"),
    [
        (ATTRIBUTE_LIST, 1, "48", "49", "says that it has 49 rows, and has 48"),
        (ATTRIBUTE_LIST, 1, "48", "x", "does not begin with the number of its rows"),
        (ATTRIBUTE_LIST, 2, "Bald", "Hairy", "line 2, has Hairy where Bald belongs"),
        (ATTRIBUTE_LIST, 2, " Young", "", "line 2, has 39 names"),
        (ATTRIBUTE_LIST, 5, " 1", " 2", "line 5, column .*, is '2', and not 1 or -1"),
        (ATTRIBUTE_LIST, 7, " 1", "", "line 7, has 39 values, and there are 40"),
        (ATTRIBUTE_LIST, 9, "000007", "000006", r"line 9, has 000006\.jpg a second time"),
        (ATTRIBUTE_LIST, 9, "000007", "900007", "900007|000007"),
        (ATTRIBUTE_LIST, 9, "000007", "\N{LATIN SMALL LETTER E WITH ACUTE}", "is not plain text"),
        (PARTITION_LIST, 3, ".jpg 0", ".jpg 3", "line 3, is '000003.jpg 3'"),
        (PARTITION_LIST, 3, ".jpg 0", ".jpg", "line 3, is '000003.jpg'"),
    ],
)
def test_damaged_lists_are_refused(
    root: Path, name: str, line: int, old: str, new: str, message: str
) -> None:
    changed(root / name, line, old, new)
    with pytest.raises(UserError, match=message) as caught:
        CelebA(str(root), size=[8, 8])
    assert str(root / name) in str(caught.value)


def test_an_empty_split_and_missing_images_are_named(root: Path) -> None:
    partition = root / PARTITION_LIST
    content = partition.read_text()
    partition.write_text(content.replace(".jpg 1", ".jpg 0"))
    with pytest.raises(UserError, match=rf"{partition} has no image of the val split \(1\)"):
        CelebA(str(root))
    partition.write_text(content)
    for row in (3, 7):
        (root / "img_align_celeba" / name_of(row)).unlink()
    with pytest.raises(UserError, match=r"000004\.jpg is missing, and 1 more of 48 images"):
        CelebA(str(root))


def test_what_is_not_there_is_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        CelebA(str(tmp_path / "nowhere"))
    said = str(caught.value)
    for part in ("nowhere does not exist", ATTRIBUTE_LIST, PARTITION_LIST, "img_align_celeba.zip"):
        assert part in said
    assert "dataset.root=" in said
    (root / PARTITION_LIST).unlink()
    with pytest.raises(UserError, match=rf"{root} lacks {PARTITION_LIST}\. Get"):
        CelebA(str(root))
