import errno
import json
import os

import numpy as np
import pytest
from nyuv2_files import SIZE, labels, smooth_image, write_image_folders, write_mat, write_mtan
from PIL import Image

from mtlrun.data.nyuv2 import prepare as module
from mtlrun.data.nyuv2.command import prepare_command
from mtlrun.data.nyuv2.prepare import NYUV2, white_border
from mtlrun.data.nyuv2.tables import VOID, table_894_to_40
from mtlrun.data.originals import nearest
from mtlrun.data.prepared import open_arrays, read_plan
from mtlrun.errors import UserError

prepare, find_or_prepare, in_cache = NYUV2.prepare, NYUV2.find_or_prepare, NYUV2.in_cache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_image_folders_are_prepared(tmp_path):
    plan = prepare(write_image_folders(tmp_path / "source"), tmp_path / "to", SIZE)
    arrays = open_arrays(tmp_path / "to")
    assert plan.rows == 5
    assert {name: (a.dtype.name, a.shape[1:]) for name, a in arrays.items()} == {
        "image": ("uint8", (3, *SIZE)),
        "segmentation": ("uint8", SIZE),
        "depth": ("float16", SIZE),
        "normals": ("int8", (3, *SIZE)),
        "segmentation_labelled": ("bool", ()),
        "depth_labelled": ("bool", ()),
        "normals_labelled": ("bool", ()),
        "frame": ("int32", ()),
    }
    assert arrays["frame"].tolist() == [3, 4, 5, 1, 2]
    assert (arrays["segmentation"][1] == labels(4)).all()
    expected = (np.indices(SIZE)[0] * 2 + 44 + 0.5) / 25.5
    assert np.abs(arrays["depth"][1] / expected - 1).max() <= 2**-11
    length = np.linalg.norm(arrays["normals"].astype(float) / 127, axis=1)
    assert np.abs(length - 1).max() < 0.01
    assert plan.facts["layout"] == "image folders"
    assert (plan.facts["train"], plan.facts["test"], plan.facts["classes"]) == (3, 2, 40)


def test_the_official_file_is_prepared(tmp_path):
    source = write_mat(tmp_path / "nyu_depth_v2_labeled.mat")
    plan = prepare(source, tmp_path / "to", SIZE)
    arrays = open_arrays(tmp_path / "to")
    assert arrays["frame"].tolist() == [3, 4, 5, 6, 1, 2]
    assert (arrays["image"][4] == smooth_image(1).transpose(2, 0, 1)).all()
    assert arrays["segmentation"][4, 0, 0] == table_894_to_40()[894]
    assert plan.facts["layout"] == "official .mat file"


def test_mtan_folders_keep_their_normals(tmp_path):
    source = write_mtan(tmp_path / "source")
    plan = prepare(source, tmp_path / "to", SIZE)
    arrays = open_arrays(tmp_path / "to")
    given = np.load(source / "train/normal/2.npy")
    stored = arrays["normals"][2].transpose(1, 2, 0).astype(float)
    assert (stored[0] == 0).all()
    cosine = (stored[1:] * given[1:]).sum(-1) / np.linalg.norm(stored[1:], axis=-1)
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 0.4
    assert plan.facts["classes"] == 13


def test_frames_are_scaled_with_targets_in_place(tmp_path):
    source = write_image_folders(tmp_path / "source")
    prepare(source, tmp_path / "half", (12, 16))
    prepare(source, tmp_path / "twice", (48, 64))
    half, twice = open_arrays(tmp_path / "half"), open_arrays(tmp_path / "twice")
    assert (half["segmentation"][1] == labels(4)[1::2, 1::2]).all()
    assert (twice["segmentation"][1] == labels(4).repeat(2, 0).repeat(2, 1)).all()
    averaged = smooth_image(4).reshape(12, 2, 16, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    inner = np.s_[:, 1:-1, 1:-1]
    assert np.abs(half["image"][1].astype(float) - averaged)[inner].max() < 8


@pytest.mark.parametrize(("length", "wanted"), [(480, 288), (120, 60), (120, 120), (60, 120)])
def test_nearest_places_are_nearest(length, wanted):
    middles = (np.arange(wanted) + 0.5) * length / wanted - 0.5
    places = nearest(length, wanted)
    assert np.abs(places - middles).max() <= 0.5
    assert places.min() >= 0
    assert places.max() < length


def test_rows_without_any_label_are_on_record(tmp_path):
    source = write_image_folders(tmp_path / "source")
    blank = np.full(SIZE, VOID, dtype=np.uint8)
    Image.fromarray(blank).save(source / "label40/0004.png")
    prepare(source, tmp_path / "to", SIZE)
    arrays = open_arrays(tmp_path / "to")
    assert arrays["segmentation_labelled"].tolist() == [True, False, True, True, True]
    assert arrays["depth_labelled"].all()
    assert arrays["normals_labelled"].all()


def test_the_white_border_is_void_in_all_targets(tmp_path):
    size = (120, 160)
    source = write_image_folders(tmp_path / "source", train=(1,), test=(2,), size=size)
    image = np.full((*size, 3), 90, dtype=np.uint8)
    image[:2] = image[-2:] = 255
    image[:, :2] = image[:, -2:] = 255
    Image.fromarray(image).save(source / "image/0001.jpg", quality=95)
    prepare(source, tmp_path / "to", size)
    arrays = open_arrays(tmp_path / "to")
    inner = np.zeros(size, dtype=bool)
    inner[2:-2, 2:-2] = True
    assert ((arrays["depth"][0] > 0) == inner).all()
    known = (arrays["normals"][0] != 0).any(0)
    assert not known[~inner].any()
    assert known[inner].mean() > 0.99
    assert (arrays["segmentation"][0][~inner] == VOID).all()
    assert (arrays["segmentation"][0][inner] == labels(1, size=size)[inner]).all()
    assert (arrays["depth"][1] > 0).all()  # the other frame has no border


def test_the_border_is_found_on_each_side_and_scaled():
    image = np.full((480, 640, 3), 100, dtype=np.uint8)
    image[:, -8:] = 255
    for size, columns in (((480, 640), 8), ((288, 384), 5), ((120, 160), 2), ((60, 80), 1)):
        hidden = white_border(image, size)
        assert hidden.sum() == size[0] * columns
        assert hidden[:, -columns:].all()
    assert not white_border(np.full((480, 640, 3), 100, dtype=np.uint8), (60, 80)).any()


def test_a_killed_preparation_goes_on(tmp_path, monkeypatch):
    source = write_image_folders(tmp_path / "source", train=tuple(range(3, 40)))
    prepare(source, tmp_path / "undisturbed", SIZE)
    encode, done = module._encode, []

    def failing(layout, split, number, size):
        done.append(number)
        if number == 38:
            raise KeyboardInterrupt
        return encode(layout, split, number, size)

    monkeypatch.setattr(module, "_encode", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "to", SIZE)
    assert read_plan(tmp_path / "to") is None
    monkeypatch.setattr(module, "_encode", encode)
    prepare(source, tmp_path / "to", SIZE)
    for path in (tmp_path / "undisturbed").iterdir():
        assert (tmp_path / "to" / path.name).read_bytes() == path.read_bytes()


def test_a_damaged_file_stops_it_with_its_name(tmp_path):
    source = write_image_folders(tmp_path / "source")
    path = source / "depth/0005.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"depth/0005\.png is damaged"):
        prepare(source, tmp_path / "to", SIZE)
    assert read_plan(tmp_path / "to") is None


# -- where it goes ---------------------------------------------------------------------------------


def test_it_goes_into_the_root_and_is_found_there_again(tmp_path, monkeypatch):
    root = write_image_folders(tmp_path / "nyuv2")
    folder = find_or_prepare(root, SIZE, None)
    assert folder == root / "prepared_24x32"
    monkeypatch.setattr(NYUV2, "prepare", lambda *_: pytest.fail("prepared again"))
    assert find_or_prepare(root, SIZE, None) == folder
    for name in ("image", "depth", "label40"):
        (root / name).rename(tmp_path / name)  # the source may go
    assert find_or_prepare(root, SIZE, None) == folder


def test_beside_a_file(tmp_path):
    path = write_mat(tmp_path / "nyuv2" / "nyu_depth_v2_labeled.mat", frames=3)
    assert find_or_prepare(path, SIZE, None) == tmp_path / "nyuv2/prepared_24x32"
    assert find_or_prepare(path.parent, SIZE, None) == tmp_path / "nyuv2/prepared_24x32"


def test_a_read_only_root_is_prepared_into_the_cache(tmp_path):
    root = write_image_folders(tmp_path / "nyuv2")
    root.chmod(0o555)
    folder = find_or_prepare(root, SIZE, None)
    assert folder == in_cache(root, SIZE)
    assert folder.parent == tmp_path / "cache" / "mtlrun"
    assert folder.name.startswith("nyuv2_24x32_")
    assert find_or_prepare(root, SIZE, None) == folder
    other = write_image_folders(tmp_path / "other")
    assert in_cache(other, SIZE) != folder
    root.chmod(0o755)


def test_a_named_folder_comes_first_and_needs_no_source(tmp_path):
    source = write_image_folders(tmp_path / "source")
    named = tmp_path / "named"
    assert find_or_prepare(source, SIZE, named) == named
    assert find_or_prepare(tmp_path / "nowhere", SIZE, named) == named
    with pytest.raises(UserError, match=r"images of size \[24, 32\], and dataset.size is \[12, 16"):
        find_or_prepare(source, (12, 16), named)


def test_a_source_that_changed_is_noticed(tmp_path):
    root = write_image_folders(tmp_path / "nyuv2")
    find_or_prepare(root, SIZE, None)
    (root / "train.txt").write_text("3\n4")
    with pytest.raises(UserError, match=r"are not those that .*prepared_24x32 was prepared from"):
        find_or_prepare(root, SIZE, None)


@pytest.mark.parametrize(
    ("fact", "value", "named"),
    [("dataset", "other", "holds other data"), ("version", 0, "by another version of mtlrun")],
)
def test_folders_of_other_data_or_versions_are_refused(tmp_path, fact, value, named):
    source, folder = write_image_folders(tmp_path / "source"), tmp_path / "to"
    prepare(source, folder, SIZE)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["facts"][fact] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=named):
        find_or_prepare(source, SIZE, folder)


def test_nothing_to_prepare_from_says_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match=r"nyuv2 \(dataset\.root\)\. It comes from"):
        find_or_prepare(tmp_path / "nyuv2", SIZE, None)
    assert not (tmp_path / "nyuv2").exists()
    with pytest.raises(UserError, match="It comes from"):
        find_or_prepare(tmp_path / "nyuv2", SIZE, tmp_path / "to")
    assert not (tmp_path / "to").exists()


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prepares_and_says_how_to_train(tmp_path, capsys):
    source = write_image_folders(tmp_path / "source")
    assert prepare_command(["--from", str(source), "--size", "24", "32"]) == 0
    out, err = capsys.readouterr()
    assert f"{source}/prepared_24x32 has 3 training and 2 test frames of 24 x 32" in out
    assert f"mtlrun dataset=nyuv2 dataset.size=[24,32] dataset.root={source}" in out
    assert "5/5" in err
    assert "the official split has 795 and 654" in err.replace("\n", " ")


def test_the_command_writes_where_it_is_told(tmp_path, capsys):
    source = write_mtan(tmp_path / "source")
    target = tmp_path / "to"
    prepare_command(["--from", str(source), "--to", str(target), "--size", "12", "16"])
    assert f"dataset.prepared={target}" in capsys.readouterr().out
    assert read_plan(target).facts["size"] == [12, 16]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: --from"),
        (["--from", "x", "--size", "0", "5"], "--size 0 5: both must be at least 1"),
        (["--from", "x", "--sizes", "5"], "unrecognized arguments: --sizes"),
    ],
)
def test_the_command_explains_wrong_arguments(arguments, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        prepare_command(arguments)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_the_command_reports_a_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    source = write_image_folders(tmp_path / "source")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left to prepare"):
        prepare_command(["--from", str(source), "--to", str(tmp_path / "to")])
