import sys

import h5py
import numpy as np
import pytest
from nyuv2_files import SIZE, labels, smooth_image, write_image_folders, write_mat, write_mtan
from PIL import Image
from scipy.io import loadmat

from mtlrun.data.nyuv2.detect import detect
from mtlrun.data.nyuv2.image_folders import ImageFolders
from mtlrun.data.nyuv2.mat_file import MatFile
from mtlrun.data.nyuv2.mtan_folders import MtanFolders
from mtlrun.data.nyuv2.tables import (
    VOID,
    class_names,
    official_split,
    table_40_to_13,
    table_894_to_40,
)
from mtlrun.errors import UserError

# -- tables ----------------------------------------------------------------------------------------


def test_the_official_split_is_795_and_654():
    split = official_split()
    assert {name: len(frames) for name, frames in split.items()} == {"train": 795, "test": 654}
    assert sorted(split["train"] + split["test"]) == list(range(1, 1450))


def test_class_names_and_tables_agree():
    assert class_names(13)[:3] == ("bed", "books", "ceiling")
    assert class_names(40)[:3] == ("wall", "floor", "cabinet")
    table = table_40_to_13()
    assert class_names(13)[table[class_names(40).index("sofa")]] == "sofa"
    assert set(table[:40].tolist()) == set(range(13))
    assert (table[40:] == VOID).all()
    assert table_894_to_40()[0] == VOID
    assert set(table_894_to_40()[1:].tolist()) == set(range(40))


@pytest.mark.data
def test_tables_are_those_of_the_authors(shared_data):
    meta = shared_data / "nyuv2_meta"
    forty = loadmat(meta / "classMapping40.mat", simplify_cells=True)
    thirteen = loadmat(meta / "class13Mapping.mat", simplify_cells=True)["classMapping13"]
    splits = loadmat(meta / "splits.mat", simplify_cells=True)
    assert (table_894_to_40()[1:] == forty["mapClass"] - 1).all()
    assert list(class_names(40)) == forty["className"].tolist()
    assert (table_40_to_13()[:40] == thirteen["labels13"] - 1).all()
    assert list(class_names(13)) == thirteen["classNames"].tolist()
    for name in ("train", "test"):
        assert list(official_split()[name]) == splits[f"{name}Ndxs"].tolist()


# -- the official file -----------------------------------------------------------------------------


def test_the_official_file_is_read_with_its_axes_turned(tmp_path):
    path = write_mat(tmp_path / "nyu_depth_v2_labeled.mat")
    layout = detect(tmp_path)
    assert isinstance(layout, MatFile)
    assert layout.split == {"train": [3, 4, 5, 6], "test": [1, 2]}
    frame = layout.frame("train", 4)
    layout.close()
    with h5py.File(path) as file:
        depth, label = file["depths"][3].T, file["labels"][3].T
    assert (frame.image == smooth_image(4)).all()
    assert frame.depth.shape == frame.label.shape == SIZE
    assert (frame.depth == depth).all()
    assert (frame.label == table_894_to_40()[label]).all()
    assert frame.normals is None


def test_the_official_file_may_be_named_itself(tmp_path):
    layout = detect(write_mat(tmp_path / "other_name.mat", frames=1))
    assert layout.split == {"train": [], "test": [1]}
    layout.close()


def test_without_h5py_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = write_mat(tmp_path / "nyu_depth_v2_labeled.mat", frames=1)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install mtlrun\[data\]"):
        detect(path)


def test_a_truncated_official_file_is_named(tmp_path):
    path = write_mat(tmp_path / "nyu_depth_v2_labeled.mat")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"nyu_depth_v2_labeled\.mat is damaged"):
        detect(tmp_path)


def test_a_damaged_chunk_of_the_official_file_is_named(tmp_path):
    path = write_mat(tmp_path / "nyu_depth_v2_labeled.mat", frames=2)
    with h5py.File(path) as file:
        chunk = file["depths"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + 40] = bytes(40)
    path.write_bytes(data)
    layout = detect(path)
    with pytest.raises(UserError, match=r"labeled\.mat, depths of frame 1, cannot be read"):
        layout.frame("test", 1)
    layout.close()


def test_a_label_that_was_never_given_out_is_named(tmp_path):
    path = write_mat(tmp_path / "nyu_depth_v2_labeled.mat", frames=1, highest_label=895)
    layout = detect(path)
    with pytest.raises(UserError, match=r"labeled\.mat, frame 1, has the label 895"):
        layout.frame("test", 1)
    layout.close()


def test_an_hdf5_file_that_is_something_else_is_refused(tmp_path):
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((1, 3, 4, 4), dtype=np.uint8)
    with pytest.raises(UserError, match="no array named depths"):
        detect(path)
    with h5py.File(path, "a") as file:
        file["depths"] = np.zeros((1, 4, 4))
        file["labels"] = np.zeros((2, 4, 4))
    with pytest.raises(UserError, match="arrays of shapes"):
        detect(path)


# -- MTAN's folders --------------------------------------------------------------------------------


def test_mtan_folders_are_read(tmp_path):
    layout = detect(write_mtan(tmp_path))
    assert isinstance(layout, MtanFolders)
    assert layout.split == {"train": [0, 1, 2], "test": [0, 1]}
    frame = layout.frame("test", 1)
    assert (frame.image == smooth_image(1)).all()
    assert (frame.label == labels(1, classes=13)).all()
    assert (frame.depth == np.load(tmp_path / "val/depth/1.npy")[..., 0]).all()
    assert frame.normals is not None
    assert (frame.normals == np.load(tmp_path / "val/normal/1.npy")).all()


def test_what_is_not_finite_in_mtan_folders_is_unknown(tmp_path):
    write_mtan(tmp_path)
    depth = np.load(tmp_path / "train/depth/0.npy")
    depth[5, 5] = np.nan
    np.save(tmp_path / "train/depth/0.npy", depth)
    assert detect(tmp_path).frame("train", 0).depth[5, 5] == 0


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda root: (root / "train/label/1.npy").unlink(), r"train/label/1\.npy is missing"),
        (lambda root: (root / "train/label/2.npy").unlink(), r"train/label/2\.npy is missing"),
        (lambda root: (root / "train/image/1.npy").unlink(), r"train/image/1\.npy is missing"),
        (lambda root: (root / "val").rename(root / "gone"), r"val/image is missing"),
        (lambda root: (root / "val/normal").rename(root / "gone"), r"val/normal is missing"),
    ],
)
def test_half_copied_mtan_folders_are_refused(tmp_path, spoil, named):
    spoil(write_mtan(tmp_path))
    with pytest.raises(UserError, match=named):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("kind", "content", "named"),
    [
        ("depth", b"", r"train/depth/0\.npy is damaged"),
        ("label", np.full(SIZE, 13), r"train/label/0\.npy has the label 13"),
        ("label", np.full(SIZE, -2), r"train/label/0\.npy has the label -2"),
        ("normal", np.zeros(SIZE), r"train/normal/0\.npy holds float64 \[24, 32\]"),
        ("image", np.full((*SIZE, 3), 200.0), r"train/image/0\.npy has values from 200"),
        ("label", np.full(SIZE, None), r"train/label/0\.npy is damaged"),
    ],
)
def test_bad_files_of_mtan_folders_are_named(tmp_path, kind, content, named):
    path = write_mtan(tmp_path) / f"train/{kind}/0.npy"
    if isinstance(content, bytes):
        path.write_bytes(path.read_bytes()[:200])
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=named):
        detect(tmp_path).frame("train", 0)


# -- image folders ---------------------------------------------------------------------------------


def test_image_folders_are_read(tmp_path):
    layout = detect(write_image_folders(tmp_path))
    assert isinstance(layout, ImageFolders)
    assert layout.split == {"train": [3, 4, 5], "test": [1, 2]}
    frame = layout.frame("train", 4)
    assert np.abs(frame.image.astype(int) - smooth_image(4)).max() < 12
    assert (frame.label == labels(4)).all()
    assert frame.depth[3, 0] == pytest.approx((3 * 2 + 44 + 0.5) / 25.5)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda root: (root / "label40/0004.png").unlink(), r"label40/0004\.png is missing"),
        (lambda root: (root / "depth").rename(root / "gone"), "depth is missing"),
        (lambda root: (root / "test.txt").unlink(), r"test\.txt is missing"),
        (lambda root: (root / "test.txt").write_text("1\nx2"), r"test\.txt has 'x2'"),
        (lambda root: (root / "test.txt").write_text(""), r"test\.txt is empty"),
        (lambda root: (root / "test.txt").write_text("1\n3"), "both list the frame 3"),
        (
            lambda root: (root / "classes.csv").write_text("a,b\n1,2"),
            r"classes\.csv cannot be read",
        ),
        (
            lambda root: (root / "classes.csv").write_text(
                "id40,name40,id13,name13\n0,floor,4,floor"
            ),
            r"classes\.csv says that class 0 of 40 is \('floor', 4\)",
        ),
    ],
)
def test_half_copied_or_contradictory_image_folders_are_refused(tmp_path, spoil, named):
    spoil(write_image_folders(tmp_path))
    with pytest.raises(UserError, match=named):
        detect(tmp_path)


@pytest.mark.parametrize("name", ["image/0003.jpg", "depth/0003.png", "label40/0003.png"])
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_damaged_images_are_named(tmp_path, name, keep):
    path = write_image_folders(tmp_path) / name
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match=rf"{name} is damaged"):
        detect(tmp_path).frame("train", 3)


def test_images_of_another_kind_are_named(tmp_path):
    write_image_folders(tmp_path)
    Image.fromarray(np.full(SIZE, 40, dtype=np.uint8)).save(tmp_path / "label40/0003.png")
    with pytest.raises(UserError, match=r"label40/0003\.png has the label 40"):
        detect(tmp_path).frame("train", 3)
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "label40/0003.png")
    with pytest.raises(UserError, match=r"label40/0003\.png has 4 x 4 pixels"):
        detect(tmp_path).frame("train", 3)
    Image.fromarray(np.full(SIZE, 1500, dtype=np.uint16)).save(tmp_path / "depth/0003.png")
    with pytest.raises(UserError, match=r"depth/0003\.png is an image of mode I;16"):
        detect(tmp_path).frame("train", 3)


# -- nothing there ---------------------------------------------------------------------------------


def test_an_absent_dataset_gets_the_whole_story(tmp_path):
    with pytest.raises(UserError) as error:
        detect(tmp_path / "nyuv2")
    message = str(error.value)
    for word in (
        f"{tmp_path}/nyuv2 (dataset.root)",
        "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
        "nyu_depth_v2_labeled.mat",
        "{train,val}/{image,label,depth,normal}/N.npy",
        "label40/NNNN.png",
        "mtlrun data prepare nyuv2 --from PATH",
    ):
        assert word in message
    assert "\n" not in message


def test_an_empty_or_unknown_folder_says_what_it_holds(tmp_path):
    with pytest.raises(UserError, match=r"is empty: NYUv2 is not there\. It comes from"):
        detect(tmp_path)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"holds holiday\.jpg: NYUv2 is not there"):
        detect(tmp_path)
    with pytest.raises(UserError, match=r"holiday\.jpg is not NYUv2"):
        detect(tmp_path / "holiday.jpg")


def test_fingerprints_tell_sources_apart(tmp_path):
    first = detect(write_image_folders(tmp_path / "a")).fingerprint()
    assert detect(write_image_folders(tmp_path / "b")).fingerprint() == first
    path = tmp_path / "b/image/0001.jpg"
    path.write_bytes(path.read_bytes() + b"more")
    assert detect(tmp_path / "b").fingerprint() != first
