"""New inputs become what a dataset's own rows of the same content are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nyuv2_files import write_image_folders
from PIL import Image
from torch import Tensor

from mtlrun.data.base import Dataset
from mtlrun.data.census_income import COLUMNS, CensusIncome
from mtlrun.data.cifar10 import CIFAR10
from mtlrun.data.cifar10.layouts import CLASSES
from mtlrun.data.digits import Digits
from mtlrun.data.encoded_texts import TextSettings
from mtlrun.data.images import decode, grey
from mtlrun.data.labelled_images import LabelledImages
from mtlrun.data.multimnist import FILES, MultiMNIST
from mtlrun.data.nyuv2 import NYUv2
from mtlrun.data.originals import scaled
from mtlrun.data.table import Table
from mtlrun.data.text import words
from mtlrun.data.text_dataset import TextDataset, TextStream
from mtlrun.errors import UserError


def own_rows(dataset: Dataset, split: str, stream: str) -> Tensor:
    source = dataset.splits[split][stream]
    return source.rows(torch.arange(len(source)))[0]


def new_rows(dataset: Dataset, file: Path, stream: str) -> Tensor:
    source = dataset.encode(file, stream).source
    return source.rows(torch.arange(len(source)))[0]


def assert_same(first: Tensor, second: Tensor) -> None:
    assert first.dtype == second.dtype
    torch.testing.assert_close(first, second, rtol=0, atol=0)


# -- images ----------------------------------------------------------------------------------------


def save(pixels: Tensor, path: Path) -> Path:
    """An image [C, H, W], uint8."""
    held = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    Image.fromarray(held.contiguous().numpy()).save(path)
    return path


def test_digits_to_the_last_bit(tmp_path: Path) -> None:
    dataset = Digits()
    for row in own_rows(dataset, "test", "digits")[:50]:
        file = save((row * 255).round().to(torch.uint8), tmp_path / "digit.png")
        assert_same(new_rows(dataset, file, "digits")[0], row)


def test_grey_is_what_pillow_makes_of_colours() -> None:
    draws = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(draws).convert("L"))
    found = grey(torch.from_numpy(draws).permute(2, 0, 1))
    assert np.array_equal(found[0].numpy(), wanted)


def test_multimnist_at_both_sizes(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for images, labels in FILES.values():
        for name, values in ((images, draws.integers(0, 256, (8, 28, 28))), (labels, np.arange(8))):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
            (tmp_path / name).write_bytes(header + values.astype(np.uint8).tobytes())
    whole, small = MultiMNIST(str(tmp_path)), MultiMNIST(str(tmp_path), size=[28, 28])
    canvases = own_rows(whole, "test", "multimnist")
    for canvas, shrunk in zip(canvases, own_rows(small, "test", "multimnist"), strict=True):
        file = save(canvas, tmp_path / "canvas.png")
        assert_same(new_rows(whole, file, "multimnist")[0], canvas)
        assert_same(new_rows(small, file, "multimnist")[0], shrunk)


def test_cifar10_at_both_sizes(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = torch.from_numpy(draws.integers(0, 256, (3, 32, 32), dtype=np.uint8))
                save(pixels, tmp_path / split / name / f"{number}.png")
    for size in ([32, 32], [20, 24]):
        dataset = CIFAR10(str(tmp_path), size=size)
        row = own_rows(dataset, "test", "cifar10")[2]  # by class and name
        assert_same(new_rows(dataset, tmp_path / f"test/{CLASSES[1]}/0.png", "cifar10")[0], row)


def test_nyuv2_scaled_as_its_frames_are_prepared(tmp_path: Path) -> None:
    write_image_folders(tmp_path)
    dataset = NYUv2(str(tmp_path), size=[8, 10], validation=0.0, prepared=str(tmp_path / "there"))
    for row, number in zip(own_rows(dataset, "test", "nyuv2"), (1, 2), strict=True):
        file = tmp_path / "image" / f"{number:04d}.jpg"
        assert_same(new_rows(dataset, file, "nyuv2")[0], row)
    # A JPEG many times larger, which is decoded in full as frames are
    draws = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(draws).save(tmp_path / "large.jpg")
    whole = decode(tmp_path / "large.jpg", "large").permute(1, 2, 0).numpy()
    found = new_rows(dataset, tmp_path / "large.jpg", "nyuv2")[0]
    assert np.array_equal(found.permute(1, 2, 0).numpy(), scaled(whole, (8, 10)))
    assert dataset.normalisation["mean"] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("crop", [False, True])
def test_own_images_scaled_or_cut(
    tmp_path: Path, crop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.random.default_rng(0)
    lines = ["file,kind,part"]
    for number in range(6):
        pixels = torch.from_numpy(draws.integers(0, 256, (3, 20, 30), dtype=np.uint8))
        save(pixels, tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]},{'test' if number > 3 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    dataset = LabelledImages(
        str(tmp_path),
        size=[8, 8],
        crop=crop,
        split="part",
        tasks={"kind": None},
        normalise="train",
        carve_validation=False,
    )
    assert_same(
        new_rows(dataset, tmp_path / "5.png", "images")[0], own_rows(dataset, "test", "images")[1]
    )
    assert_same(
        decode(tmp_path / "5.png", "5", (8, 8), crop=crop), own_rows(dataset, "test", "images")[1]
    )
    assert dataset.normalisation["mean"] == dataset.mean
    (tmp_path / "6.png").write_text("none")
    with pytest.raises(UserError, match=r"6\.png is damaged or is no image"):
        dataset.encode(tmp_path / "6.png", "images")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match=r"5\.png is too large to be read\. Scale it down"):
        dataset.encode(tmp_path / "5.png", "images")


# -- texts -----------------------------------------------------------------------------------------

TEXTS = ["the cat sat", "the dog sat down", "a cat", "the unseen cat sat", "nothing known"]


def texts(**settings: object) -> TextDataset:
    splits = {"train": torch.arange(3), "test": torch.arange(3, 5)}
    stream = TextStream(TEXTS, {"t": torch.zeros(5, dtype=torch.int64)}, splits)
    return TextDataset({"s": stream}, TextSettings(**settings), words)


@pytest.mark.parametrize("settings", [{}, {"ngrams": 2}, {"ngrams": 2, "max_length": 2}])
def test_texts_a_line_or_a_cell(tmp_path: Path, settings: dict[str, object]) -> None:
    dataset = texts(**settings)
    lines, table = tmp_path / "new.txt", tmp_path / "new.csv"
    lines.write_text("\n".join(TEXTS[3:]))
    assert_same(new_rows(dataset, lines, "s"), own_rows(dataset, "test", "s"))
    table.write_text(f"number,review\n1,{TEXTS[3]}\n2,\n3,{TEXTS[4]}\n")
    found = dataset.encode(table, "s", "review")
    assert found.places == [1, 3]  # an empty cell is no text
    assert_same(found.source.rows(torch.arange(2))[0], own_rows(dataset, "test", "s"))
    lines.write_text(f"{TEXTS[3]}\n\n")
    assert dataset.encode(lines, "s").places == [1, 2]  # an empty line is one, of no known word
    assert new_rows(dataset, lines, "s")[1].tolist()[0] == 1
    lines.write_text("zzz cat\n")
    assert dataset.encode(lines, "s").remarks == [
        f"{lines}: 50.0% of the words are unknown to the network."
    ]
    lines.write_text("the cat sat\n")
    assert not dataset.encode(lines, "s").remarks
    with pytest.raises(UserError, match=r"--column: .*new\.csv has no column text"):
        dataset.encode(table, "s")
    with pytest.raises(UserError, match="which goes with tables"):
        dataset.encode(lines, "s", "review")
    lines.write_text("")
    with pytest.raises(UserError, match="has no texts"):
        dataset.encode(lines, "s")


# -- tables ----------------------------------------------------------------------------------------

HOUSES = """\
area,built,city,notes,price,part
50,13.01.2000,Rome,a small and bright house,100,train
70,3.02.2000,Oslo,bright rooms near the park,150,train
,5.02.2000,Rome,quiet rooms and a park,120,train
110,7.02.2000,,quiet rooms a house,250,train
60,9.02.2000,Paris,quiet rooms near the unseen sea and a park and a house,180,test
"""
NEW = """\
notes,extra,city,area,built
quiet rooms near the unseen sea and a park and a house,1,Paris,60,9.02.2000
,2,Oslo,,11.02.2000
"""


def houses(tmp_path: Path, **settings: object) -> Table:
    path = tmp_path / "houses.csv"
    path.write_text(HOUSES)
    kinds = {"categorical": ["city"], "text": ["notes"], "split": "part", **settings}
    return Table(str(path), tasks={"price": "regression"}, carve_validation=False, **kinds)


def test_rows_of_a_table_in_any_order_and_without_targets(tmp_path: Path) -> None:
    dataset = houses(tmp_path)
    file = tmp_path / "new.csv"
    file.write_text(NEW)
    found = dataset.encode(file, "table")
    assert found.places == [1, 2]
    (remark,) = found.remarks
    assert "city is unknown to the network in 1 of 2 rows: no training row has 'Paris'" in remark
    rows = found.source.rows(torch.arange(2))[0]
    own = own_rows(dataset, "test", "table")
    assert rows.shape[1] == own.shape[1]
    assert_same(rows[:1], own)
    # area: mean of 50, 70, 110 where missing; then days; whether area is missing; Oslo is 1; words
    assert rows[1, 0] == 0
    assert rows[1, 2:4].tolist() == [1, 1]
    assert not rows[1, 4:].any()
    # 3.02 alone could be in March, and beside the training table it is not
    file.write_text("area,built,city,notes\n50,3.02.2000,Rome,x\n")
    assert new_rows(dataset, file, "table")[0, 1] == own_rows(dataset, "train", "table")[1, 1]


def test_files_of_splits_stay_apart_from_new_rows(tmp_path: Path) -> None:
    paths = {}
    for split, first in (("train", 0), ("test", 5)):
        paths[split] = str(tmp_path / f"{split}.csv")
        rows = [f"{(first + n) ** 2},{n}" for n in range(5)]
        Path(paths[split]).write_text("\n".join(["x,y", *rows]))
    dataset = Table(paths, tasks={"y": "regression"}, carve_validation=False)
    own = own_rows(dataset, "test", "table")
    assert_same(new_rows(dataset, Path(paths["test"]), "table"), own)


def test_codes_become_zeros_and_ones_as_in_training(tmp_path: Path) -> None:
    dataset = houses(tmp_path, categories="onehot", ignore=["notes"], text=None)
    file = tmp_path / "new.csv"
    file.write_text(NEW)
    made, _ = dataset.transform("table", new_rows(dataset, file, "table"), {}, None)
    assert made[:, -2:].tolist() == [[0, 0], [1, 0]]  # Paris is unseen, Oslo, Rome


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dataset = houses(tmp_path)
    file = tmp_path / "new.csv"

    def said(content: str) -> str:
        file.write_text(content)
        with pytest.raises(UserError) as error:
            dataset.encode(file, "table")
        return str(error.value)

    assert "lacks the columns area, notes" in said("built,city\n1.1.2000,Rome\n")
    assert "line 2, column area: 'large' is not written as there ('50')" in said(
        NEW.replace("60", "large")
    )
    assert "new.csv, line 2, column built: '2000-02-09' is not written as there ('13.01.2000')" in (
        said(NEW.replace("9.02.2000", "2000-02-09"))
    )
    assert "line 2: it has 6 cells, and the header names 5" in said(NEW.replace("60", "60,5"))
    assert "cannot be read beside" in said(NEW.replace("9.02.2000", "2000/02/09"))
    assert "has no rows" in said(NEW.splitlines()[0] + "\n,,,,\n")
    file.unlink()
    with pytest.raises(UserError, match="there is no such file"):
        dataset.encode(file, "table")


def test_units_that_change_the_training_rows_are_refused(tmp_path: Path) -> None:
    path, file = tmp_path / "table.csv", tmp_path / "new.csv"
    path.write_text("a;b;y\n" + "".join(f"1.{n};{n % 3};{n}\n" for n in range(1, 9)))
    dataset = Table(str(path), tasks={"y": "regression"}, ignore=["b"])
    file.write_text("a,b\n1.5,1\n")
    dataset.encode(file, "table")
    dataset.splits["train"]["table"].inputs[0] += 1  # as another reading would leave them
    with pytest.raises(UserError, match="is written in another way than the training table"):
        dataset.encode(file, "table")


def test_a_stream_of_a_task_column_gets_its_own_rows(tmp_path: Path) -> None:
    path, file = tmp_path / "table.csv", tmp_path / "new.csv"
    rows = [f"{n * 3 % 7},{'ab'[n % 2]},{n * n}" for n in range(20)]
    path.write_text("x,school,y\n" + "\n".join(rows))
    dataset = Table(str(path), tasks={"y": "regression"}, task_column="school")
    file.write_text("x,school\n3,b\n4,a\n5,b\n")
    assert dataset.encode(file, "b").places == [1, 3]
    assert dataset.encode(file, "a").places == [2]
    file.write_text("x,school\n3,b\n")
    with pytest.raises(UserError, match="has no rows with school=a"):
        dataset.encode(file, "a")


def test_rows_of_census_income(tmp_path: Path) -> None:
    plain = dict.fromkeys(COLUMNS, "Not in universe") | {
        **dict.fromkeys(("wage_per_hour", "capital_gains", "capital_losses", "dividends"), "0"),
        **{"employer_size": "0", "weeks_worked": "0", "instance_weight": "1", "income": "- 50000."},
    }

    def write(name: str, people: list[dict[str, str]]) -> Path:
        lines = [", ".join((plain | person).values()) for person in people]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    write("census-income.data", [{"age": str(20 + n), "sex": "FM"[n % 2]} for n in range(8)])
    test = write(
        "census-income.test", [{"age": "90", "sex": "X"}, {"age": "21", "income": "50000+."}]
    )
    dataset = CensusIncome(str(tmp_path))
    own = own_rows(dataset, "test", "census_income")
    assert_same(new_rows(dataset, test, "census_income"), own)

    inputs = [name for name in reversed(COLUMNS) if name not in ("income", "instance_weight")]
    lines = [",".join(inputs)]
    for person in ({"age": "90", "sex": "X"}, {"age": "21"}):
        lines.append(",".join((plain | person)[name] for name in inputs))
    file = tmp_path / "new.csv"
    file.write_text("\n".join(lines))
    found = dataset.encode(file, "census_income")
    assert found.places == range(1, 3)
    assert [line.split(": ")[1] for line in found.remarks] == [
        "sex is unknown to the network in 2 of 2 rows"
    ]
    assert_same(new_rows(dataset, file, "census_income"), own)
    file.write_text("\n".join(lines).replace(",90", ",old"))
    with pytest.raises(UserError, match=r"line 2, column \d+ \(age\) has 'old'"):
        dataset.encode(file, "census_income")
    file.write_text("age,sexx\n1,F\n")
    with pytest.raises(UserError, match=r"no column sexx\. Did you mean sex"):
        dataset.encode(file, "census_income")
    file.write_text("age,sex\n1,F\n")
    with pytest.raises(UserError, match="the header lacks class_of_worker"):
        dataset.encode(file, "census_income")
