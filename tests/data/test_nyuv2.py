import pickle
import shutil

import numpy as np
import pytest
import torch
from nyuv2_files import SIZE, labels, write_image_folders, write_mtan
from PIL import Image
from torch import Tensor

from mtlrun.data.base import TensorSource
from mtlrun.data.nyuv2 import NYUv2
from mtlrun.data.nyuv2.tables import class_names, table_40_to_13
from mtlrun.data.prepared import PreparedSource
from mtlrun.errors import UserError
from mtlrun.tasks.depth import Depth
from mtlrun.tasks.normals import SurfaceNormals
from mtlrun.tasks.segmentation import Segmentation

STREAM = "nyuv2"


@pytest.fixture
def root(tmp_path):
    return write_image_folders(tmp_path / "nyuv2", train=tuple(range(3, 23)), test=(1, 2, 30))


def frames(dataset, split):
    return dataset.splits[split][STREAM]


def batch(dataset, split="train", count=8):
    return frames(dataset, split).rows(torch.arange(count))


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


# -- splits ----------------------------------------------------------------------------------------


def test_validation_is_carved_from_the_training_frames(root):
    dataset = NYUv2(str(root), SIZE, validation=0.2)
    assert {split: len(frames(dataset, split)) for split in dataset.splits} == {
        "train": 16,
        "val": 4,
        "test": 3,
    }
    assert dataset.streams == {STREAM: ("segmentation", "depth", "normals")}
    assert dataset.input_shape == {STREAM: (3, *SIZE)}
    held_out = frames(dataset, "test").rows(torch.arange(3))[1]["segmentation"]
    for row, number in enumerate((1, 2, 30)):
        expected = table_40_to_13()[labels(number)]
        assert (held_out[row].numpy() == expected).all()

    whole = NYUv2(str(root), SIZE, validation=0.2, carve_validation=False)
    assert list(whole.splits) == ["train", "test"]
    assert len(frames(whole, "train")) == 20
    assert "val" not in NYUv2(str(root), SIZE, validation=0).splits


def test_the_carving_depends_on_the_seed_alone(root):
    first, again, other = (NYUv2(str(root), SIZE, seed=seed) for seed in (0, 0, 3))
    images = [frames(dataset, "val").rows(torch.arange(2))[0] for dataset in (first, again, other)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_13_and_40_classes(root):
    coarse, fine = NYUv2(str(root), SIZE), NYUv2(str(root), SIZE, classes=40)
    assert coarse.facts["segmentation"] == {"classes": 13, "class_names": list(class_names(13))}
    assert fine.facts["segmentation"] == {"classes": 40, "class_names": list(class_names(40))}
    few = batch(coarse)[1]["segmentation"].numpy()
    many = batch(fine)[1]["segmentation"].numpy()
    assert (few == table_40_to_13()[many]).all()
    assert (many[many != 255] < 40).all()
    Segmentation(name="segmentation", **coarse.facts["segmentation"])


def test_40_classes_are_refused_where_the_files_have_13(tmp_path):
    root = write_mtan(tmp_path / "nyuv2")
    assert NYUv2(str(root), SIZE).facts["segmentation"]["classes"] == 13
    with pytest.raises(UserError, match=r"dataset\.classes=40 .* MTAN folders, which have 13"):
        NYUv2(str(root), SIZE, classes=40)


def test_the_root_may_come_from_the_environment(root, monkeypatch):
    monkeypatch.setenv("MTLRUN_DATA", str(root.parent))
    assert len(frames(NYUv2(size=SIZE), "test")) == 3
    monkeypatch.setenv("MTLRUN_DATA", str(root.parent / "elsewhere"))
    with pytest.raises(UserError, match=r"elsewhere/nyuv2 \(dataset\.root\)\. It comes from"):
        NYUv2(size=SIZE)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"classes": 20}, "classes=20"),
        ({"size": [24]}, r"size=\[24\]"),
        ({"size": [24, 0]}, r"size=\[24, 0\]"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"in_memory": "maybe"}, "in_memory='maybe'"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        NYUv2(**arguments)


# -- rows ------------------------------------------------------------------------------------------


def test_rows_in_memory_and_on_disk_are_the_same(root):
    held, mapped = NYUv2(str(root), SIZE), NYUv2(str(root), SIZE, in_memory=False)
    assert isinstance(frames(held, "train"), TensorSource)
    assert isinstance(frames(mapped, "train"), PreparedSource)
    index = torch.tensor([5, 0, 11])
    inputs, targets = frames(held, "train").rows(index)
    other_inputs, other_targets = frames(mapped, "train").rows(index)
    assert torch.equal(inputs, other_inputs)
    assert inputs.dtype == torch.uint8
    for task, target in targets.items():
        assert torch.equal(target, other_targets[task])
        assert target.dtype == other_targets[task].dtype
    for task in targets:
        assert frames(held, "train").labelled[task].all()
        assert torch.equal(
            frames(held, "train").labelled[task], frames(mapped, "train").labelled[task]
        )


@pytest.mark.parametrize("in_memory", [True, False])
def test_any_subset_of_the_tasks(root, in_memory):
    dataset = NYUv2(str(root), SIZE, in_memory=in_memory)
    dataset.select(["normals", "segmentation"])
    inputs, targets = dataset.transform(STREAM, *batch(dataset), draws())
    assert list(targets) == ["normals", "segmentation"]
    assert inputs.shape == (8, 3, *SIZE)
    whole = NYUv2(str(root), SIZE)
    everything = whole.transform(STREAM, *batch(whole), draws())[1]
    assert all(torch.equal(targets[task], everything[task]) for task in targets)


def test_mapped_rows_travel_light(root):
    source = frames(NYUv2(str(root), SIZE, in_memory=False), "train")
    sent = pickle.dumps(source)
    assert len(sent) < 4000
    assert torch.equal(pickle.loads(sent).rows(torch.arange(3))[0], source.rows(torch.arange(3))[0])


# -- transform -------------------------------------------------------------------------------------


def test_evaluation_normalises_and_leaves_everything_in_place(root):
    dataset = NYUv2(str(root), SIZE)
    inputs, targets = batch(dataset)
    images, dense = dataset.transform(STREAM, inputs, targets, None)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(images, (inputs / 255 - mean) / deviation, atol=1e-5, rtol=1e-5)
    assert {task: target.dtype for task, target in dense.items()} == {
        "segmentation": torch.int64,
        "depth": torch.float32,
        "normals": torch.float32,
    }
    assert torch.equal(dense["depth"], targets["depth"].float())
    assert torch.equal(dense["segmentation"], targets["segmentation"].long())
    torch.testing.assert_close(
        dense["normals"].norm(dim=1), torch.ones(8, *SIZE), atol=0.01, rtol=0
    )


def test_training_augments_by_the_draws_alone(root):
    dataset = NYUv2(str(root), SIZE)
    first = dataset.transform(STREAM, *batch(dataset), draws(1))
    again = dataset.transform(STREAM, *batch(dataset), draws(1))
    other = dataset.transform(STREAM, *batch(dataset), draws(2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    plain = NYUv2(str(root), SIZE, augment=False)
    still = plain.transform(STREAM, *batch(plain), draws(1))
    assert torch.equal(still[0], plain.transform(STREAM, *batch(plain), None)[0])


def places(rows):
    """A batch, as stored, in which every tensor says where its pixels came from."""
    row, column = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    image = torch.stack((row, column, row)).to(torch.uint8).expand(rows, -1, -1, -1)
    normals = torch.zeros(rows, 3, *SIZE, dtype=torch.int8)
    normals[:, 0] = 100
    normals[:, 1], normals[:, 2] = row.to(torch.int8), column.to(torch.int8)
    return image, {
        "segmentation": column.to(torch.uint8).expand(rows, -1, -1),
        "depth": (1 + row).half().expand(rows, -1, -1),
        "normals": normals,
    }


def test_image_and_targets_are_moved_alike(root):
    dataset = NYUv2(str(root), SIZE)
    images, targets = dataset.transform(STREAM, *places(64), draws())
    deviation, mean = torch.tensor([0.229, 0.224]), torch.tensor([0.485, 0.456])
    shown: Tensor = (images[:, :2] * deviation.view(2, 1, 1) + mean.view(2, 1, 1)) * 255
    row, column = targets["normals"][:, 1] * 127, targets["normals"][:, 2] * 127
    assert (shown[:, 0] - row).abs().max() < 0.51
    assert (shown[:, 1] - column).abs().max() < 0.51
    assert torch.equal(targets["segmentation"], column.round().long())
    scale = (1 + row.round()) / targets["depth"]
    per_row = scale.flatten(1).mean(1, keepdim=True)
    assert (scale.flatten(1) - per_row).abs().max() < 1e-3
    assert {round(value, 3) for value in per_row.flatten().tolist()} == {1.0, 1.2, 1.5}
    mirrored = column[:, 0, 0] > column[:, 0, -1]
    assert 15 < int(mirrored.sum()) < 49
    expected = torch.where(mirrored, -100 / 127, 100 / 127).view(-1, 1, 1)
    torch.testing.assert_close(targets["normals"][:, 0], expected.expand(64, *SIZE))


def test_what_is_unknown_stays_unknown(root):
    dataset = NYUv2(str(root), SIZE)
    image, targets = places(4)
    targets = {
        "segmentation": torch.full((4, *SIZE), 255, dtype=torch.uint8),
        "depth": torch.zeros(4, *SIZE, dtype=torch.float16),
        "normals": torch.zeros(4, 3, *SIZE, dtype=torch.int8),
    }
    dense = dataset.transform(STREAM, image, targets, draws())[1]
    tasks = (
        Segmentation(name="segmentation", **dataset.facts["segmentation"]),
        Depth(name="depth", **dataset.facts["depth"]),
        SurfaceNormals(name="normals", **dataset.facts["normals"]),
    )
    for task in tasks:
        assert not task.labelled(dense[task.name]).any()


# -- real frames -----------------------------------------------------------------------------------


@pytest.mark.data
def test_real_frames_are_read_as_they_are(shared_data, tmp_path):
    source = shared_data / "nyuv2_160x120"
    root = tmp_path / "nyuv2"
    chosen = {"train": (5, 62, 296), "test": (1, 775)}
    for split, numbers in chosen.items():
        for number in numbers:
            for name in (
                f"image/{number:04d}.jpg",
                f"depth/{number:04d}.png",
                f"label40/{number:04d}.png",
            ):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, root / name)
        (root / f"{split}.txt").write_text("\n".join(map(str, numbers)))
    shutil.copyfile(source / "classes.csv", root / "classes.csv")

    dataset = NYUv2(str(root), [120, 160], carve_validation=False)
    inputs, targets = frames(dataset, "train").rows(torch.arange(3))
    picture = np.asarray(Image.open(source / "image/0062.jpg"))
    assert (inputs[1].permute(1, 2, 0).numpy() == picture).all()
    inner = np.s_[2:-2, 2:-2]
    label = np.asarray(Image.open(source / "label40/0062.png"))
    assert (targets["segmentation"][1].numpy()[inner] == table_40_to_13()[label][inner]).all()
    depth = (np.asarray(Image.open(source / "depth/0062.png")) + 0.5) / 25.5
    assert np.abs(targets["depth"][1].numpy()[inner] / depth[inner] - 1).max() < 2**-11 + 1e-6
    for task, target in targets.items():  # the camera's white border
        void = 255 if task == "segmentation" else 0
        assert (target[..., :2, :] == void).all()
        assert (target[..., -2:, :] == void).all()
        assert (target[..., :2] == void).all()
        assert (target[..., -2:] == void).all()
    assert all(frames(dataset, "train").labelled[task].all() for task in targets)

    # The floor of these rooms faces up, the ceiling down.
    up = dataset.transform(STREAM, inputs, targets, None)[1]["normals"][:, 1]
    floor = targets["segmentation"] == class_names(13).index("floor")
    assert floor.sum() > 500
    assert up[floor].median() > 0.9
