import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtlrun.data.files import find_root, read_idx
from mtlrun.data.multimnist import FILES, MultiMNIST, overlay
from mtlrun.errors import UserError

ROWS = {"train": 40, "test": 12}


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small MNIST: training files compressed, test files plain."""
    draws = np.random.default_rng(0)
    for split, (images, labels) in FILES.items():
        contents = {
            images: idx(draws.integers(0, 256, (ROWS[split], 28, 28))),
            labels: idx(draws.integers(0, 10, ROWS[split])),
        }
        for name, content in contents.items():
            if split == "train":
                (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (tmp_path / name).write_bytes(content)
    return tmp_path


def test_overlay_takes_the_brighter_pixel() -> None:
    left = torch.zeros(1, 28, 28, dtype=torch.uint8)
    right = torch.zeros(1, 28, 28, dtype=torch.uint8)
    left[0, 0, 0], left[0, 10, 10], left[0, 27, 27] = 7, 200, 50
    right[0, 0, 0], right[0, 4, 4], right[0, 27, 27] = 9, 100, 80
    canvas = overlay(left, right, offset=6)
    assert canvas.shape == (1, 1, 36, 36)
    expected = torch.zeros(36, 36, dtype=torch.uint8)
    expected[0, 0], expected[10, 10], expected[27, 27] = 7, 200, 50  # 200 against 100
    expected[6, 6], expected[33, 33] = 9, 80
    assert torch.equal(canvas[0, 0], expected)
    assert overlay(left, right, offset=8)[0, 0, 35, 35] == 80


def test_left_digits_are_mnist_in_its_order_and_right_ones_are_drawn_from_it(folder: Path) -> None:
    source = MultiMNIST(str(folder)).splits["test"]["multimnist"]
    images = read_idx(folder / FILES["test"][0], 3)
    labels = read_idx(folder / FILES["test"][1], 1)
    assert source.targets["left"].tolist() == labels.tolist()
    for row in range(ROWS["test"]):
        left = images[row]
        matching = [
            label.item()
            for image, label in zip(images, labels, strict=True)
            if torch.equal(overlay(left[None], image[None], 6)[0], source.inputs[row])
        ]
        assert source.targets["right"][row].item() in matching


def test_splits_and_shapes(folder: Path) -> None:
    dataset = MultiMNIST(str(folder), validation=0.25)
    rows = {split: sources["multimnist"] for split, sources in dataset.splits.items()}
    sizes = {split: len(source) for split, source in rows.items()}
    assert sizes == {"test": 12, "val": 10, "train": 30}
    assert rows["train"].inputs.dtype == torch.uint8
    assert rows["train"].inputs.shape[1:] == dataset.input_shape["multimnist"] == (1, 36, 36)
    whole = MultiMNIST(str(folder), carve_validation=False)
    assert set(whole.splits) == {"train", "test"}
    assert len(whole.splits["train"]["multimnist"]) == 40


def test_seed_decides_pairs_and_split(folder: Path) -> None:
    first, again, other = (MultiMNIST(str(folder), seed=seed).splits for seed in (0, 0, 1))
    for split in first:
        same, different = again[split]["multimnist"], other[split]["multimnist"]
        assert torch.equal(same.inputs, first[split]["multimnist"].inputs)
        assert not torch.equal(different.inputs, first[split]["multimnist"].inputs)


def test_train_rows_takes_the_first_and_leaves_the_test_split(folder: Path) -> None:
    dataset = MultiMNIST(str(folder), train_rows=20, carve_validation=False)
    whole = MultiMNIST(str(folder), carve_validation=False)
    train, test = dataset.splits["train"]["multimnist"], dataset.splits["test"]["multimnist"]
    assert len(train) == 20
    left = whole.splits["train"]["multimnist"].targets["left"]
    assert torch.equal(train.targets["left"], left[:20])
    assert torch.equal(test.inputs, whole.splits["test"]["multimnist"].inputs)


def test_transform_normalises_on_whole_batches(folder: Path) -> None:
    dataset = MultiMNIST(str(folder))
    inputs, targets = dataset.splits["val"]["multimnist"].rows(torch.arange(3))
    before = inputs.clone()
    seen, same = dataset.transform("multimnist", inputs, targets, None)
    expected = (inputs.double() / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(seen.double(), expected, rtol=0, atol=1e-6)
    assert seen.dtype == torch.float32
    assert same is targets
    assert torch.equal(inputs, before)


def test_size_scales_by_nearest_neighbours(folder: Path) -> None:
    dataset = MultiMNIST(str(folder), size=[28, 28])
    small = dataset.splits["test"]["multimnist"].inputs
    large = MultiMNIST(str(folder)).splits["test"]["multimnist"].inputs
    expected = Image.fromarray(large[0, 0].numpy()).resize((28, 28), Image.Resampling.NEAREST)
    assert np.array_equal(small[0, 0].numpy(), np.asarray(expected))
    assert dataset.input_shape["multimnist"] == (1, 28, 28)


def test_find_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTLRUN_DATA", raising=False)
    assert find_root("mnist", None) == Path("data/mnist")
    monkeypatch.setenv("MTLRUN_DATA", "/somewhere")
    assert find_root("mnist", None) == Path("/somewhere/mnist")
    assert find_root("mnist", "/here/it/is") == Path("/here/it/is")
    assert find_root("mnist", "~/mnist") == Path.home() / "mnist"


def test_a_missing_folder_says_what_goes_where(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        MultiMNIST(str(tmp_path / "nowhere"))
    message = str(caught.value)
    assert f"{tmp_path / 'nowhere'} does not exist" in message
    for name in ("train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        assert name in message
    assert "dataset.root=" in message
    assert "MTLRUN_DATA" in message


def test_a_half_copied_folder_names_what_is_missing(folder: Path) -> None:
    (folder / FILES["test"][1]).unlink()
    with pytest.raises(UserError, match=r"lacks t10k-labels-idx1-ubyte\. Get"):
        MultiMNIST(str(folder))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-1], "is damaged: its header says 12 x 28 x 28, .* 9424 .* 9423"),
        (lambda whole: whole + b"x", "is damaged: .* takes 9424 bytes, and it has 9425"),
        (lambda whole: whole[:9], "is cut off in its header"),
        (lambda whole: b"", ".* starts with nothing where 00000803"),
        (lambda whole: b"\x89PNG" + whole[4:], ".* starts with 89504e47 where 00000803"),
        (lambda whole: idx(np.zeros((12, 20, 20))), "has images of 20x20; MNIST's are 28x28"),
        (lambda whole: idx(np.zeros((11, 28, 28))), "has 11 images and .*labels.* 12 labels"),
    ],
)
def test_a_damaged_image_file_is_named(folder: Path, damage, message: str) -> None:
    path = folder / FILES["test"][0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{path} {message}"):
        MultiMNIST(str(folder))


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-100],
        lambda whole: b"plain",
        lambda whole: whole[:200] + bytes(100) + whole[300:],
    ],
)
def test_a_damaged_compressed_file_is_named(folder: Path, damage) -> None:
    path = folder / f"{FILES['train'][0]}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{path} is not a whole gzip file"):
        MultiMNIST(str(folder))


def test_swapped_files_are_noticed(folder: Path) -> None:
    images, labels = (folder / name for name in FILES["test"])
    content = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(content)
    with pytest.raises(UserError, match=r"starts with 00000801 where 00000803.*swapped"):
        MultiMNIST(str(folder))


def test_a_label_outside_the_digits_is_named(folder: Path) -> None:
    labels = np.zeros(12)
    labels[5] = 10
    path = folder / FILES["test"][1]
    path.write_bytes(idx(labels))
    with pytest.raises(UserError, match=f"{path} has the label 10 in row 5"):
        MultiMNIST(str(folder))


def test_an_empty_file_pair_is_refused(folder: Path) -> None:
    for name, shape in zip(FILES["test"], ((0, 28, 28), (0,)), strict=True):
        (folder / name).write_bytes(idx(np.zeros(shape)))
    with pytest.raises(UserError, match="has no images"):
        MultiMNIST(str(folder))


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": [28]},
        {"size": [0, 28]},
        {"offset": 9},
        {"offset": -1},
        {"validation": 1.5},
        {"train_rows": 1},
    ],
)
def test_wrong_arguments_are_refused(arguments: dict) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"^{name}={value}".replace("[", r"\[")):
        MultiMNIST(**arguments)


@pytest.mark.data
def test_the_real_files(shared_data: Path) -> None:
    dataset = MultiMNIST(str(shared_data / "mnist"))
    rows = {split: sources["multimnist"] for split, sources in dataset.splits.items()}
    sizes = {split: len(source) for split, source in rows.items()}
    assert sizes == {"train": 54000, "val": 6000, "test": 10000}
    assert rows["test"].targets["left"][:5].tolist() == [7, 2, 1, 0, 4]
    for task in ("left", "right"):
        counts = rows["train"].targets[task].bincount(minlength=10)
        assert counts.min() > 4500
        assert counts.max() < 6500
    assert not rows["train"].inputs[:, :, 34:].any()  # the right digit ends 2 pixels short
    assert not rows["train"].inputs[:, :, :6, 28:].any()  # the corners stay empty
