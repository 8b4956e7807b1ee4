import numpy as np
import pytest
import torch
from PIL import Image

from mtlrun.data.base import TensorSource
from mtlrun.data.domains import three_way
from mtlrun.data.office31 import Office31
from mtlrun.data.office_home import OfficeHome
from mtlrun.data.prepared import PreparedSource
from mtlrun.engine.loader import label_masks
from mtlrun.errors import UserError
from mtlrun.tasks.classification import Classification

CLASSES = ("back_pack", "Bike", "calculator")  # sorted: capitals first
SIZE = [8, 8]
COUNTS = {"amazon": 10, "dslr": 5, "webcam": 7}  # of each class
HOME = ("Art", "Clipart", "Product", "Real World")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def grey(domain, name, number):
    """Its own shade for every image."""
    return 10 + list(COUNTS).index(domain) * 80 + CLASSES.index(name) * 25 + number * 2


def write(root, inner="images", counts=COUNTS, shade=grey):
    for domain, count in counts.items():
        for name in CLASSES:
            folder = root / domain / inner / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((12, 20, 3), shade(domain, name, number), np.uint8)
                path = folder / f"frame_{number + 1:04d}.jpg"
                Image.fromarray(pixels).save(path, quality=100)
    return root


def write_home(root, names=HOME):
    return write(root, "", dict.fromkeys(names, 5), lambda *_: 100)


def rows(dataset, split, domain):
    source = dataset.splits[split][domain]
    return source.rows(torch.arange(len(source)))


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["images", ""])
def test_a_domain_is_a_stream_with_a_task_of_its_name(tmp_path, inner):
    dataset = Office31(str(write(tmp_path, inner)), SIZE)
    assert dataset.streams == {"amazon": ("amazon",), "dslr": ("dslr",), "webcam": ("webcam",)}
    assert dataset.input_shape == dict.fromkeys(COUNTS, (3, 8, 8))
    names = ["Bike", "back_pack", "calculator"]
    assert dataset.facts == {key: {"classes": 3, "class_names": names} for key in COUNTS}
    for domain, count in COUNTS.items():
        seen = []
        for split in ("train", "val", "test"):
            images, targets = rows(dataset, split, domain)
            assert list(targets) == [domain]
            assert targets[domain].dtype == torch.int64
            shades = images.float().flatten(1).mean(1)
            seen += list(zip(shades.tolist(), targets[domain].tolist(), strict=True))
        expected = [
            (grey(domain, name, number), label)
            for label, name in enumerate(names)
            for number in range(count)
        ]
        assert sorted(label for _, label in seen) == sorted(label for _, label in expected)
        for found, wanted in zip(sorted(seen), sorted(expected), strict=True):
            assert found[1] == wanted[1]
            assert found[0] == pytest.approx(wanted[0], abs=1)


@pytest.mark.parametrize("name", ["Real World", "RealWorld", "Real_World", "real_world"])
def test_office_home_and_the_spellings_of_real_world(tmp_path, name):
    dataset = OfficeHome(str(write_home(tmp_path, ("Art", "Clipart", "Product", name))), SIZE)
    assert list(dataset.streams) == ["art", "clipart", "product", "real_world"]
    assert len(dataset.splits["train"]["real_world"]) == 9


def test_two_spellings_at_once_are_refused(tmp_path):
    root = write_home(tmp_path, (*HOME, "RealWorld"))
    with pytest.raises(UserError, match=r"Real World and RealWorld are both .* domain real_world"):
        OfficeHome(str(root), SIZE)


# -- splits ----------------------------------------------------------------------------------------


def test_splits_are_60_20_20_of_each_domain(tmp_path):
    root = write(tmp_path)
    dataset = Office31(str(root), SIZE)
    sizes = {
        split: {domain: len(source) for domain, source in sources.items()}
        for split, sources in dataset.splits.items()
    }
    assert sizes == {
        "train": {"amazon": 18, "dslr": 9, "webcam": 13},
        "val": {"amazon": 6, "dslr": 3, "webcam": 4},
        "test": {"amazon": 6, "dslr": 3, "webcam": 4},
    }
    whole = Office31(str(root), SIZE, carve_validation=False)
    assert list(whole.splits) == ["train", "test"]
    assert len(whole.splits["train"]["amazon"]) == 24
    # the test rows are the same ones, and validation rows train
    assert torch.equal(rows(whole, "test", "amazon")[0], rows(dataset, "test", "amazon")[0])
    parts = [rows(dataset, split, "amazon")[0] for split in ("train", "val")]
    joined = torch.cat(parts).flatten(1).float().mean(1).sort().values
    kept = rows(whole, "train", "amazon")[0].flatten(1).float().mean(1).sort().values
    assert torch.equal(joined, kept)


def test_the_split_of_the_published_numbers():
    for count, expected in (
        (2817, (1691, 563, 563)),
        (498, (298, 100, 100)),
        (795, (477, 159, 159)),
    ):
        parts = three_way(count, 0.2, 0.2, seed=0)
        assert tuple(len(parts[split]) for split in ("train", "val", "test")) == expected
        assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(count))
    other = three_way(795, 0.2, 0.2, seed=1)
    assert not torch.equal(parts["test"], other["test"])
    assert torch.equal(parts["test"], three_way(795, 0.1, 0.2, seed=0)["test"])


def test_a_domain_that_is_too_small_for_its_splits(tmp_path):
    root = write(tmp_path, counts={"amazon": 10, "dslr": 1, "webcam": 10})
    for test, validation, part in ((0.1, 0.2, "test"), (0.3, 0.1, "val"), (0.5, 0.4, "train")):
        with pytest.raises(UserError, match=rf"dslr has 3 images, which leaves none for {part}"):
            Office31(str(root), SIZE, test=test, validation=validation)


# -- memory and transform --------------------------------------------------------------------------


def test_images_are_decoded_once(tmp_path, monkeypatch):
    root = write(tmp_path)
    held = Office31(str(root), SIZE)
    assert (root / "prepared_8x8/manifest.json").exists()
    preparation = Office31.preparation
    monkeypatch.setattr(preparation, "prepare", lambda *_: pytest.fail("prepared again"))
    mapped = Office31(str(root), SIZE, in_memory=False)
    assert isinstance(held.splits["val"]["dslr"], TensorSource)
    assert isinstance(mapped.splits["val"]["dslr"], PreparedSource)
    for one, other in zip(rows(held, "val", "dslr"), rows(mapped, "val", "dslr"), strict=True):
        if isinstance(one, dict):
            one, other = one["dslr"], other["dslr"]
        assert torch.equal(one, other)


@pytest.mark.parametrize("in_memory", [True, False])
def test_every_row_has_a_label(tmp_path, in_memory):
    dataset = Office31(str(write(tmp_path)), SIZE, in_memory=in_memory)
    tasks = {name: Classification(name=name, **dataset.facts[name]) for name in COUNTS}
    assert label_masks(dataset.splits["train"], dataset.streams, tasks) == {}


def test_augmentation_moves_and_flips_by_the_draws_alone(tmp_path):
    dataset = Office31(str(write(tmp_path)), [16, 16])
    column = torch.arange(16, dtype=torch.uint8).expand(64, 3, 16, 16)

    def shown(draws):
        images, targets = dataset.transform("dslr", column, {"dslr": torch.arange(64)}, draws)
        assert targets["dslr"].tolist() == list(range(64))
        return (images[:, 0] * 0.229 + 0.485) * 255

    still = shown(None)
    assert torch.allclose(still, column[:, 0].float(), atol=1e-3)
    moved = shown(torch.Generator().manual_seed(0))
    assert torch.equal(moved, shown(torch.Generator().manual_seed(0)))
    middle = moved[:, 8, 4:12]
    step = (middle[:, 1:] - middle[:, :-1]).round()
    assert set(step.unique().tolist()) == {-1.0, 1.0}  # some are mirrored, none is stretched
    assert (step == step[:, :1]).all()
    distance = torch.where(step[:, 0] > 0, middle[:, 0] - 4, 11 - middle[:, 0]).round().abs()
    assert distance.max() == 2  # an eighth of 16

    plain = Office31(str(tmp_path), [16, 16], augment=False)
    same, _ = plain.transform("dslr", column, {}, torch.Generator())
    assert torch.equal(same, dataset.transform("dslr", column, {}, None)[0])


# -- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda r: (r / "dslr").rename(r / "gone"), r"holds amazon, gone, webcam: .* folder dslr"),
        (lambda r: (r / "dslr/images/Bike").rename(r / "dslr/images/bike"),
         r"amazon/images has no folder bike, and .*dslr/images has"),
        (lambda r: (r / "webcam/images/Bike/notes.txt").touch(), r"notes\.txt is no image"),
        (lambda r: [f.unlink() for f in (r / "webcam/images/Bike").iterdir()],
         r"webcam/images/Bike holds no images"),
        (lambda r: (r / "webcam/images/Bike/frame_0002.jpg").write_bytes(b"\xff\xd8\xff"),
         r"webcam/images/Bike/frame_0002\.jpg is damaged"),
    ],
)  # fmt: skip
def test_half_copied_folders_are_refused(tmp_path, spoil, named):
    root = write(tmp_path)
    spoil(root)
    with pytest.raises(UserError, match=named):
        Office31(str(root), SIZE)


def test_what_systems_leave_behind_is_no_image(tmp_path):
    root = write(tmp_path)
    for name in ("webcam/images/.DS_Store", "dslr/images/Bike/Thumbs.db", "dslr/images/Bike/._a"):
        (root / name).touch()
    assert len(Office31(str(root), SIZE).splits["train"]["dslr"]) == 9


@pytest.mark.parametrize("kind", [Office31, OfficeHome])
def test_absent_files_get_the_whole_story(tmp_path, monkeypatch, kind):
    name = kind.preparation.dataset
    monkeypatch.setenv("MTLRUN_DATA", str(tmp_path))
    with pytest.raises(UserError, match=rf"/{name} \(dataset\.root\)\. It comes from") as error:
        kind()
    for word in ("https://", "dataset.root=FOLDER", "MTLRUN_DATA", "*.jpg"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"size": [224]}, r"size=\[224\]"),
        ({"test": 0.0}, r"test=0\.0"),
        ({"validation": 0.8}, r"validation=0\.8"),
        ({"in_memory": "no"}, "in_memory='no'"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Office31(**arguments)
