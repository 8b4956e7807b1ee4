import json

import numpy as np
import pytest
import torch
from cityscapes_files import SIZE, disparity, image, label_ids, write_mtan, write_official
from PIL import Image

from mtlrun.data.cityscapes import Cityscapes
from mtlrun.data.cityscapes.command import prepare_command
from mtlrun.data.cityscapes.detect import detect
from mtlrun.data.cityscapes.prepare import CITYSCAPES, metres
from mtlrun.data.cityscapes.tables import CATEGORIES, class_names, table
from mtlrun.data.prepared import PreparedSource, open_arrays, read_plan
from mtlrun.errors import UserError
from mtlrun.tasks.depth import Depth
from mtlrun.tasks.segmentation import Segmentation

STREAM = "cityscapes"
VOID = 255


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return write_official(tmp_path / "cityscapes")


def all_rows(dataset, split):
    source = dataset.splits[split][STREAM]
    return source.rows(torch.arange(len(source)))


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


# -- tables ----------------------------------------------------------------------------------------


def test_the_19_classes_are_the_benchmarks():
    names = class_names(19)
    assert len(names) == 19
    assert names[0] == "road"
    assert names[8] == "vegetation"
    assert names[18] == "bicycle"
    fine = table(19)
    assert [int(fine[label]) for label in (7, 8, 11, 21, 23, 24, 26, 33)] == [
        0, 1, 2, 8, 10, 11, 13, 18,
    ]  # fmt: skip
    void = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30]
    assert np.flatnonzero(fine[:34] == VOID).tolist() == void
    assert (fine[34:] == VOID).all()


def test_the_7_categories_group_the_19_classes():
    groups = {
        "flat": ("road", "sidewalk"),
        "construction": ("building", "wall", "fence"),
        "object": ("pole", "traffic light", "traffic sign"),
        "nature": ("vegetation", "terrain"),
        "sky": ("sky",),
        "human": ("person", "rider"),
        "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
    }
    assert class_names(7) == tuple(groups) == CATEGORIES
    fine, coarse = table(19), table(7)
    for label in range(34):
        if fine[label] == VOID:
            assert coarse[label] == VOID
        else:
            assert class_names(19)[fine[label]] in groups[CATEGORIES[coarse[label]]]


# -- the official layout ---------------------------------------------------------------------------


def test_official_frames_are_read_as_they_are(root):
    dataset = Cityscapes(str(root), SIZE, carve_validation=False)
    inputs, targets = all_rows(dataset, "train")
    assert inputs.shape == (6, 3, *SIZE)
    assert len(dataset.splits["test"][STREAM]) == 3
    held_out = all_rows(dataset, "test")
    for row in range(9):
        picture, found = (inputs, targets) if row < 6 else held_out
        place = row if row < 6 else row - 6
        assert (picture[place].permute(1, 2, 0).numpy() == image(row)).all()
        assert (found["segmentation"][place].numpy() == table(7)[label_ids(row)]).all()
        inverse = found["depth"][place].double().numpy()
        expected = disparity(row) / 65535
        assert (inverse[0] == 0).all()
        assert np.abs(inverse[2:] / expected[2:] - 1).max() <= 2**-11
        assert inverse[2] == pytest.approx(np.full(SIZE[1], 0.4922), abs=2e-4)  # the known maximum
    assert dataset.facts["segmentation"]["class_names"][0] == "flat"


def test_19_classes(root):
    dataset = Cityscapes(str(root), SIZE, classes=19, carve_validation=False)
    targets = all_rows(dataset, "train")[1]
    assert (targets["segmentation"][2].numpy() == table(19)[label_ids(2)]).all()
    assert dataset.facts["segmentation"] == {
        "classes": 19,
        "class_names": list(class_names(19)),
    }


def test_metres_follow_from_disparity_and_camera(tmp_path):
    # (257 - 1) / 256 is a disparity of 1 pixel, and so on
    inverse = np.array([0, 1, 257, 5 * 256 + 1, 6 * 256 + 1, 126 * 256 + 1], np.float32) / 65535
    # unknown, infinite, 400 m and 80.2 m, which are too far; and two that are near enough
    assert metres(inverse, 401) == pytest.approx([0, 0, 0, 0, 401 / 6, 401 / 126], rel=1e-5)

    for camera in (False, True):
        root = write_official(tmp_path / str(camera), camera=camera)
        dataset = Cityscapes(str(root), SIZE, depth_target="metres", carve_validation=False)
        depth = all_rows(dataset, "train")[1]["depth"]
        for row in range(6):
            product = (0.2 + row / 100) * 2000 if camera else 0.209313 * 2262.52
            assert depth[row, 2] == pytest.approx(np.full(SIZE[1], product / 126), rel=1e-3)
            far = (disparity(row).astype(float) - 1) / 256 * 80 < product
            assert (depth[row].numpy() == 0)[far].all()
            assert (depth[row].numpy() > 0)[~far].all()


def test_frames_are_scaled_with_targets_in_place(root, tmp_path):
    CITYSCAPES.prepare(root, tmp_path / "half", (8, 16))
    half = open_arrays(tmp_path / "half")
    assert (half["segmentation_19"][1] == table(19)[label_ids(1)[1::2, 1::2]]).all()
    expected = disparity(1)[1::2, 1::2] / 65535
    assert np.abs(half["depth_inverse"][1] - expected).max() < 3e-4
    averaged = image(1).reshape(8, 2, 16, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    inner = np.s_[:, 1:-1, 1:-1]
    error = np.abs(half["image"][1].astype(float) - averaged)[inner]
    assert error.mean() < 0.4 * np.abs(image(1)[::2, ::2].transpose(2, 0, 1) - averaged).mean()


def test_frames_without_labels_are_on_record(root):
    ids = np.zeros(SIZE, dtype=np.uint8)
    path = "train/aachen/aachen_000000_000001"
    Image.fromarray(ids).save(root / f"gtFine/{path}_gtFine_labelIds.png")
    Image.fromarray(np.ones(SIZE, np.uint16)).save(root / f"disparity/{path}_disparity.png")
    for target, known in (("inverse", True), ("metres", False)):
        dataset = Cityscapes(str(root), SIZE, depth_target=target, carve_validation=False)
        labelled = dataset.splits["train"][STREAM].labelled
        assert labelled["segmentation"].tolist() == [True, False, True, True, True, True]
        assert labelled["depth"].tolist() == [True, known, True, True, True, True]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda r: (r / "gtFine/train/ulm/ulm_000000_000001_gtFine_labelIds.png").unlink(),
         r"ulm_000000_000001_gtFine_labelIds\.png is missing, and 0 more of 6"),
        (lambda r: (r / "disparity").rename(r / "gone"), r"lindau.*disparity|aachen.*disparity"),
        (lambda r: (r / "leftImg8bit/val").rename(r / "gone"), r"leftImg8bit/val holds no CITY"),
        (lambda r: (r / "camera").mkdir(), r"aachen_000000_000000_camera\.json is missing"),
    ],
)  # fmt: skip
def test_half_copied_official_folders_are_refused(root, spoil, named):
    spoil(root)
    with pytest.raises(UserError, match=named):
        detect(root)


@pytest.mark.parametrize(
    ("name", "values", "named"),
    [
        (
            "gtFine/{}_gtFine_labelIds.png",
            np.full(SIZE, 34, np.uint8),
            r"has the label 34: classes are 0 to 33",
        ),
        ("gtFine/{}_gtFine_labelIds.png", np.zeros((4, 4), np.uint8), "has 4 x 4 pixels"),
        ("disparity/{}_disparity.png", np.zeros(SIZE, np.uint8), "mode L, and mode I;16"),
        ("leftImg8bit/{}_leftImg8bit.png", np.zeros(SIZE, np.uint8), "mode L, and mode RGB"),
    ],
)
def test_files_of_another_kind_are_named(root, name, values, named):
    key = "train/aachen/aachen_000000_000000"
    path = root / name.format(key)
    Image.fromarray(values).save(path)
    layout = detect(root)
    with pytest.raises(UserError, match=rf"{path.name}.* {named}"):
        layout.frame("train", key)


@pytest.mark.parametrize("kind", ["leftImg8bit", "gtFine", "disparity"])
def test_damaged_images_are_named(root, kind):
    key = "train/aachen/aachen_000000_000000"
    path = next(root.glob(f"{kind}/{key}_*"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{path.name} is damaged"):
        detect(root).frame("train", key)


@pytest.mark.parametrize("text", ["", "[]", '{"extrinsic": {"baseline": 0.2}}', "null"])
def test_a_broken_calibration_is_named(tmp_path, text):
    root = write_official(tmp_path, camera=True)
    key = "train/aachen/aachen_000000_000000"
    (root / f"camera/{key}_camera.json").write_text(text)
    with pytest.raises(UserError, match=r"000000_camera\.json has no numbers"):
        detect(root).frame("train", key)


# -- MTAN's layout ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["label_7", "label"])
def test_mtan_folders_are_read(tmp_path, name):
    root = write_mtan(tmp_path / "mtan", labels=(name,))
    dataset = Cityscapes(str(root), SIZE, carve_validation=False)
    assert {s: len(sources[STREAM]) for s, sources in dataset.splits.items()} == {
        "train": 3,
        "test": 2,
    }
    inputs, targets = all_rows(dataset, "test")
    assert (inputs[1].permute(1, 2, 0).numpy() == image(1)).all()
    given = np.load(root / f"val/{name}/1.npy")
    assert (targets["segmentation"][1].numpy() == np.where(given < 0, VOID, given)).all()
    assert np.abs(targets["depth"][1].numpy() - disparity(1) / 65535).max() < 3e-4
    with pytest.raises(UserError, match=r"classes=19 .* MTAN folders, which have 7"):
        Cityscapes(str(root), SIZE, classes=19)


def test_mtan_and_official_depth_are_the_same(root, tmp_path):
    official, mtan = detect(root), detect(write_mtan(tmp_path / "mtan"))
    key = official.split["train"][1]
    assert (
        np.abs(official.frame("train", key).inverse - mtan.frame("train", 1).inverse).max() < 1e-7
    )


def test_mtan_folders_with_both_labels(tmp_path):
    root = write_mtan(tmp_path / "mtan", labels=("label_7", "label_19"))
    for classes in (7, 19):
        dataset = Cityscapes(str(root), SIZE, classes=classes, carve_validation=False)
        label = all_rows(dataset, "train")[1]["segmentation"][2].numpy()
        given = np.load(root / f"train/label_{classes}/2.npy")
        assert (label == np.where(given < 0, VOID, given)).all()


@pytest.mark.parametrize(
    ("kind", "value", "named"),
    [
        ("label_7", np.full(SIZE, 7.0), "has the label 7"),
        ("label_7", np.full(SIZE, 0.5), r"has the label 0\.5: not a whole number"),
        ("label_7", np.zeros((4, 4)), "has 4 x 4 pixels"),
        ("depth", np.full((*SIZE, 1), 30.0), r"has the value 30\.0: MTAN's inverse depth"),
        ("image", np.full((*SIZE, 3), np.nan), "has values from nan"),
        ("image", np.zeros(SIZE), r"holds float64 \[16, 32\]: not a image"),
    ],
)
def test_bad_files_of_mtan_folders_are_named(tmp_path, kind, value, named):
    root = write_mtan(tmp_path)
    np.save(root / f"train/{kind}/0.npy", value)
    with pytest.raises(UserError, match=rf"train/{kind}/0\.npy {named}"):
        detect(root).frame("train", 0)


def test_mtan_folders_without_labels_are_refused(tmp_path):
    with pytest.raises(UserError, match="none of the folders label_7, label, label_19"):
        detect(write_mtan(tmp_path, labels=("label_2",)))


# -- splits and transform --------------------------------------------------------------------------


def test_validation_is_carved_from_train_by_the_datasets_seed(root):
    first, again, other = (Cityscapes(str(root), SIZE, validation=0.3, seed=s) for s in (0, 0, 1))
    assert {s: len(sources[STREAM]) for s, sources in first.splits.items()} == {
        "train": 4,
        "test": 3,
        "val": 2,
    }
    pictures = [all_rows(dataset, "val")[0] for dataset in (first, again, other)]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


@pytest.mark.parametrize("target", ["inverse", "metres"])
def test_what_is_magnified_comes_nearer(root, target):
    dataset = Cityscapes(str(root), SIZE, depth_target=target)
    inputs = torch.zeros(64, 3, *SIZE, dtype=torch.uint8)
    column = torch.arange(1, SIZE[1] + 1).expand(64, *SIZE)
    stored = {"segmentation": column.to(torch.uint8), "depth": column.half()}
    images, targets = dataset.transform(STREAM, inputs, stored, draws())
    assert torch.allclose(images[:, 0], torch.tensor(-0.485 / 0.229))
    ratio = (targets["depth"] / targets["segmentation"]).flatten(1)
    per_row = ratio.mean(1, keepdim=True)
    assert (ratio - per_row).abs().max() < 1e-5
    expected = {1.0, 1.2, 1.5} if target == "inverse" else {1.0, 0.833, 0.667}
    assert {round(value, 3) for value in per_row.flatten().tolist()} == expected

    plain = dataset.transform(STREAM, inputs, stored, None)[1]
    assert torch.equal(plain["depth"], stored["depth"].float())
    assert plain["segmentation"].dtype == torch.int64


def test_what_is_unknown_stays_unknown(root):
    dataset = Cityscapes(str(root), SIZE)
    stored = {
        "segmentation": torch.full((4, *SIZE), VOID, dtype=torch.uint8),
        "depth": torch.zeros(4, *SIZE, dtype=torch.float16),
    }
    inputs = torch.zeros(4, 3, *SIZE, dtype=torch.uint8)
    dense = dataset.transform(STREAM, inputs, stored, draws())[1]
    for task in (
        Segmentation(name="segmentation", **dataset.facts["segmentation"]),
        Depth(name="depth", **dataset.facts["depth"]),
    ):
        assert not task.labelled(dense[task.name]).any()


def test_rows_in_memory_and_on_disk_are_the_same(root):
    held, mapped = (Cityscapes(str(root), SIZE, in_memory=wanted) for wanted in ("auto", False))
    assert isinstance(mapped.splits["train"][STREAM], PreparedSource)
    inputs, targets = all_rows(held, "train")
    other_inputs, other_targets = all_rows(mapped, "train")
    assert torch.equal(inputs, other_inputs)
    assert all(torch.equal(targets[task], other_targets[task]) for task in targets)


# -- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"classes": 13}, "classes=13"),
        ({"depth_target": "feet"}, "depth_target=feet"),
        ({"size": [24]}, r"size=\[24\]"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"in_memory": "maybe"}, "in_memory='maybe'"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Cityscapes(**arguments)


def test_absent_files_get_the_whole_story(tmp_path, monkeypatch):
    monkeypatch.setenv("MTLRUN_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"/cityscapes \(dataset\.root\)") as error:
        Cityscapes()
    for word in ("leftImg8bit", "disparity_trainvaltest.zip", "MTLRUN_DATA", "--from PATH"):
        assert word in str(error.value)
    (tmp_path / "cityscapes").mkdir()
    with pytest.raises(UserError, match="is empty: Cityscapes is not there"):
        Cityscapes()


def test_the_command_prepares_and_says_how_to_train(root, capsys):
    assert prepare_command(["--from", str(root), "--size", "16", "32"]) == 0
    out, err = capsys.readouterr()
    assert f"{root}/prepared_16x32 has 6 training and 3 test frames of 16 x 32" in out
    assert f"mtlrun dataset=cityscapes dataset.size=[16,32] dataset.root={root}" in out
    assert "9/9" in err
    facts = read_plan(root / "prepared_16x32").facts
    assert (facts["dataset"], facts["classes"], facts["train"]) == ("cityscapes", [7, 19], 6)
    json.dumps(facts)
