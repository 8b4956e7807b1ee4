import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtlrun.data.cifar10 import CIFAR10
from mtlrun.data.cifar10.batches import read_batch
from mtlrun.data.cifar10.layouts import BATCH_ARCHIVE, BATCH_FOLDER, BATCHES, CLASSES
from mtlrun.errors import UserError
from mtlrun.randomness import generator

ROWS = 10


def word(value: bytes) -> bytes:
    """A str of Python 2."""
    if len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    return b"T" + struct.pack("<i", len(value)) + value


def python_2_batch(data: np.ndarray, labels: list[int]) -> bytes:
    """What cPickle of Python 2 wrote (protocol 2): the publisher's format."""
    dtype = (
        b"cnumpy\ndtype\n" + word(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + word(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"".join(b"J" + struct.pack("<i", side) for side in data.shape)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + word(b"b") + b"\x87R"
        b"(K\x01" + shape + b"\x86" + dtype + b"\x89" + word(data.tobytes()) + b"tb"
    )
    entries = (
        (b"data", array),
        (b"labels", b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"),
        (b"batch_label", word(b"training batch 1 of 5")),
        (b"filenames", b"](" + word(b"leptodactylus_pentadactylus_s_000004.png") + b"e"),
    )
    return b"\x80\x02}(" + b"".join(word(key) + value for key, value in entries) + b"u."


def rows_of(name: str) -> tuple[np.ndarray, list[int]]:
    draws = np.random.default_rng(sum(name.encode()))
    return draws.integers(0, 256, (ROWS, 3072), dtype=np.uint8), draws.permutation(10).tolist()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small CIFAR-10 as its publisher packs it, unpacked."""
    folder = tmp_path / BATCH_FOLDER
    folder.mkdir()
    for name in (*BATCHES["train"], *BATCHES["test"]):
        (folder / name).write_bytes(python_2_batch(*rows_of(name)))
    names = b"](" + b"".join(word(name.encode()) for name in CLASSES) + b"e"
    (folder / "batches.meta").write_bytes(b"\x80\x02}(" + word(b"label_names") + names + b"u.")
    return tmp_path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two training pictures and one test picture of each class."""
    root = tmp_path / "pictures"
    draws = np.random.default_rng(0)
    for split, count in (("train", 2), ("test", 1)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number:04d}.png")
    return root


def packed(folder: Path, archive: Path, name: str) -> Path:
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as file:
        file.add(folder, arcname=name)
    return archive


def test_the_batches_of_these_tests_are_numpys_own_format() -> None:
    data, labels = rows_of("data_batch_1")
    plain = pickle.loads(python_2_batch(data, labels), encoding="latin1")
    assert np.array_equal(plain["data"], data)
    assert plain["labels"] == labels


def test_batches_are_read_in_order(root: Path) -> None:
    dataset = CIFAR10(str(root), carve_validation=False)
    for split, names in BATCHES.items():
        source = dataset.splits[split]["cifar10"]
        images = np.concatenate([rows_of(name)[0] for name in names]).reshape(-1, 3, 32, 32)
        labels = [label for name in names for label in rows_of(name)[1]]
        assert source.inputs.dtype == torch.uint8
        assert np.array_equal(source.inputs.numpy(), images)
        assert source.targets["object"].tolist() == labels
        animal = [CLASSES[label] in "bird cat deer dog frog horse" for label in labels]
        assert source.targets["animal"].tolist() == animal
    assert dataset.facts["animal"]["class_names"][1] == "animal"


def test_the_packed_batches_are_the_same(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    archive = packed(root / BATCH_FOLDER, tmp_path / "data" / BATCH_ARCHIVE, BATCH_FOLDER)
    expected = CIFAR10(str(root)).splits
    for place in (archive, archive.parent, root / BATCH_FOLDER):
        splits = CIFAR10(str(place)).splits
        for split in ("train", "val", "test"):
            assert torch.equal(splits[split]["cifar10"].inputs, expected[split]["cifar10"].inputs)


@pytest.mark.parametrize("protocol", [2, 4])
def test_batches_written_again_by_python_3_are_read(protocol: int) -> None:
    data, labels = rows_of("data_batch_2")
    content = pickle.dumps({"data": data, "labels": labels}, protocol=protocol)
    images, read = read_batch(content, "batch")
    assert np.array_equal(images.numpy().reshape(ROWS, -1), data)
    assert read.tolist() == labels


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it_ran"
    content = pickle.dumps({"data": Hostile(mark), "labels": [1]}, protocol=2)
    with pytest.raises(UserError, match=r"batch cannot be read .*it names .*, which no batch"):
        read_batch(content, "batch")
    assert not mark.exists()
    pickle.loads(content)  # it would have
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "it names os.system"),
        (b"cnumpy\nload\n(S'x'\ntR.", "it names numpy.load"),
        (pickle.dumps({"data": np.zeros(3, "f4"), "labels": []}, 2), "type .*f4"),
        (pickle.dumps({"data": np.array([[]]), "labels": []}, 2), "type .*f8"),
        (pickle.dumps({"data": np.array([{}]), "labels": []}, 2), "type .*O8"),
        (python_2_batch(*rows_of("a"))[:-100], "cannot be read as one of CIFAR-10's pickles"),
        (b"", "cannot be read as one of CIFAR-10's pickles"),
        (pickle.dumps([1, 2]), "holds no dictionary"),
        (pickle.dumps({"data": 1, "fine_labels": [1]}), "no data and labels, but 'data', 'fine_l"),
        (python_2_batch(rows_of("a")[0], [0] * 9), r"shape \[10, 3072\] and 9 labels"),
        (python_2_batch(rows_of("a")[0][:, :3071], [0] * 10), r"shape \[10, 3071\] and 10 labels"),
        (python_2_batch(rows_of("a")[0], [0] * 4 + [10] + [0] * 5), "the label 10 in row 4"),
    ],
)
def test_damaged_batches_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"batch .*{message}"):
        read_batch(content, "batch")


def test_missing_and_foreign_batches_are_named(root: Path) -> None:
    meta = root / BATCH_FOLDER / "batches.meta"
    content = meta.read_bytes()
    meta.write_bytes(content.replace(b"truck", b"trunk"))
    with pytest.raises(UserError, match=r"batches\.meta names the classes .*trunk"):
        CIFAR10(str(root))
    meta.write_bytes(content)
    (root / BATCH_FOLDER / "data_batch_3").unlink()
    with pytest.raises(UserError, match=f"{BATCH_FOLDER} lacks data_batch_3"):
        CIFAR10(str(root))


def test_class_folders_are_read_sorted_plain_or_in_a_tar(pictures: Path, tmp_path: Path) -> None:
    dataset = CIFAR10(str(pictures), carve_validation=False)
    train, test = (dataset.splits[split]["cifar10"] for split in ("train", "test"))
    assert train.targets["object"].tolist() == [label for label in range(10) for _ in range(2)]
    with Image.open(pictures / "train" / "bird" / "0001.png") as image:
        assert np.array_equal(train.inputs[5].numpy(), np.asarray(image).transpose(2, 0, 1))
    (tmp_path / "elsewhere").mkdir()
    archive = packed(pictures, tmp_path / "elsewhere" / "any.tar", "CIFAR-10-images")
    for place in (archive, archive.parent):
        same = CIFAR10(str(place), carve_validation=False).splits
        assert torch.equal(same["train"]["cifar10"].inputs, train.inputs)
        assert torch.equal(same["test"]["cifar10"].targets["animal"], test.targets["animal"])


def test_wrong_class_folders_are_named(pictures: Path) -> None:
    place = pictures / "train" / "cat" / "0000.png"
    content = place.read_bytes()
    place.write_bytes(content[:-1000])
    with pytest.raises(UserError, match=f"{place} is damaged"):
        CIFAR10(str(pictures))
    Image.new("RGB", (31, 32)).save(place)
    with pytest.raises(UserError, match=f"{place} has 31 x 32 pixels"):
        CIFAR10(str(pictures))
    place.write_bytes(content)
    (pictures / "test" / "frog" / "0000.png").rename(pictures / "test" / "frog" / "0000.gif")
    with pytest.raises(UserError, match=r"no pictures .* of frog in the class folders of test/"):
        CIFAR10(str(pictures))
    (pictures / "train" / "ship").rename(pictures / "train" / "sheep")
    with pytest.raises(
        UserError, match=r"train/sheep/0000\.png .*no such class. Did you mean ship"
    ):
        CIFAR10(str(pictures))


def test_a_damaged_archive_is_named(root: Path, tmp_path: Path) -> None:
    archive = packed(root / BATCH_FOLDER, tmp_path / BATCH_ARCHIVE, BATCH_FOLDER)
    archive.write_bytes(archive.read_bytes()[:-5000])
    with pytest.raises(UserError, match=f"{archive} is not a whole tar archive"):
        CIFAR10(str(archive))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        CIFAR10(str(tmp_path / "nowhere"))
    for part in ("nowhere does not exist", BATCH_ARCHIVE, "dataset.root=", "MTLRUN_DATA"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="has none of its layouts"):
        CIFAR10(str(tmp_path))
    for name in ("a.tar", "b.tar"):
        packed(Path(__file__), tmp_path / name, "test_cifar10.py")
    with pytest.raises(UserError, match=r"several archives: a\.tar, b\.tar\. Say .*root=.*a\.tar"):
        CIFAR10(str(tmp_path))
    with pytest.raises(UserError, match=r"a\.tar holds no CIFAR-10"):
        CIFAR10(str(tmp_path / "a.tar"))


def test_transform_normalises_and_augments_only_where_asked(root: Path) -> None:
    plain, moved = CIFAR10(str(root)), CIFAR10(str(root), augment=True)
    inputs, targets = plain.splits["train"]["cifar10"].rows(torch.arange(20))
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    deviation = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)
    expected = (inputs / 255 - mean) / deviation
    for dataset, draws in ((plain, generator(0, "t")), (plain, None), (moved, None)):
        seen, _ = dataset.transform("cifar10", inputs, targets, draws)
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)
    first, again = (moved.transform("cifar10", inputs, targets, generator(0, "t")) for _ in "ab")
    assert torch.equal(first[0], again[0])
    assert (first[0] != expected).flatten(1).any(1).all()


def test_validation_is_carved_and_size_scales(root: Path) -> None:
    dataset = CIFAR10(str(root), size=[16, 24], validation=0.2)
    sizes = {split: len(sources["cifar10"]) for split, sources in dataset.splits.items()}
    assert sizes == {"train": 40, "val": 10, "test": 10}
    assert dataset.input_shape["cifar10"] == (3, 16, 24)
    image = rows_of("test_batch")[0][0].reshape(3, 32, 32).transpose(1, 2, 0)
    expected = np.asarray(Image.fromarray(image).resize((24, 16), Image.Resampling.BILINEAR))
    scaled = dataset.splits["test"]["cifar10"].inputs[0].permute(1, 2, 0).int()
    assert (scaled - torch.tensor(expected.astype(int))).abs().max() <= 1


@pytest.mark.parametrize("arguments", [{"size": [32]}, {"size": [0, 8]}, {"validation": 1.0}])
def test_wrong_arguments_are_refused(arguments: dict) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"^{name}={value}".replace("[", r"\[")):
        CIFAR10(**arguments)


@pytest.mark.data
def test_the_real_pictures(shared_data: Path) -> None:
    dataset = CIFAR10(str(shared_data / "cifar10"))
    rows = {split: sources["cifar10"] for split, sources in dataset.splits.items()}
    assert {split: len(source) for split, source in rows.items()} == {
        "train": 4500,
        "val": 500,
        "test": 1000,
    }
    assert rows["test"].targets["object"].bincount().tolist() == [100] * 10
    assert rows["test"].targets["animal"].sum() == 600
    pixels = rows["train"].inputs.double() / 255
    expected = torch.tensor([0.4914, 0.4822, 0.4465]).double()
    torch.testing.assert_close(pixels.mean((0, 2, 3)), expected, rtol=0, atol=0.01)
