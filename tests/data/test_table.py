"""Tables: what becomes of each column, exactly."""

from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mtlrun.data.table import Table
from mtlrun.errors import UserError

HOUSES = """\
id,area,rooms,city,built,seen,notes,price,sold,part
h1,50,2,Rome,2000-01-01,true,small but bright and quiet,100,yes,train
h2,70,,Oslo,2000-01-03,false,bright rooms near the park,150,no,train
h3,90,4,Rome,2000-01-05,true,quiet rooms and a park,,yes,train
h4,110,6,,2000-01-07,true,,250,,train
h5,80,3,Oslo,2000-01-09,false,a view of the sea,180,no,val
h6,60,,Paris,,true,quiet quiet quiet sea sea,120,yes,test
"""
SPLITS = {"train": 4, "val": 1, "test": 1}


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    path = tmp_path / "houses.csv"
    path.write_text(HOUSES)
    return path


def table(path: Path | str, tasks=("price", "sold"), **settings) -> Table:
    kinds = tasks if isinstance(tasks, dict) else dict.fromkeys(tasks)
    return Table(str(path), tasks=kinds, **settings)


def rows(dataset: Table, split: str, stream: str = "table") -> torch.Tensor:
    return dataset.splits[split][stream].inputs


def targets(dataset: Table, split: str, task: str, stream: str = "table") -> torch.Tensor:
    return dataset.splits[split][stream].targets[task]


def test_every_kind_of_column_becomes_numbers(houses: Path) -> None:
    dataset = table(houses, split="part", categorical=["city"], text=["notes"])
    assert {s: len(of["table"]) for s, of in dataset.splits.items()} == SPLITS
    assert dataset.input_kind == {"table": "columns"}
    facts = dataset.input_facts["table"]
    # area, rooms, built, seen; then whether rooms is missing (built is known in training)
    assert facts["numeric"] == 5
    assert facts["cardinalities"] == [3]  # Oslo 1, Rome 2; 0 is missing or unseen
    area = (np.array([50, 70, 90, 110, 80, 60]) - 80) / np.sqrt(500)
    rooms = (np.array([2, 4, 4, 6, 3, 4]) - 4) / np.sqrt(8 / 3)  # 4 is the mean of 2, 4 and 6
    built = (np.array([0, 2, 4, 6, 8, 3]) - 3) / np.sqrt(5)  # days; a missing one is the mean
    seen = (np.array([1, 0, 1, 1, 0, 1]) - 0.75) / np.sqrt(0.1875)
    lacks_rooms = [0, 1, 0, 0, 0, 1]
    city = [2, 1, 2, 0, 1, 0]
    expected = np.stack([area, rooms, built, seen, lacks_rooms, city], axis=1)
    values = torch.cat([rows(dataset, split) for split in ("train", "val", "test")])
    torch.testing.assert_close(values[:, :6].double(), torch.tensor(expected), rtol=0, atol=1e-6)

    # Words that occur twice in training: and, bright, park, quiet, rooms, in this order
    assert facts["vocabulary"] == 2 + 5
    assert facts["text_length"] == 5
    assert values[:, 6:].tolist() == [
        [1, 1, 3, 2, 5],  # small but bright and quiet
        [3, 6, 1, 1, 4],
        [5, 6, 2, 1, 4],
        [0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
        [5, 5, 5, 1, 1],
    ]
    assert dataset.input_shape == {"table": (11,)}


def test_targets_keep_their_units_and_their_gaps(houses: Path) -> None:
    dataset = table(houses, split="part")
    price, sold = targets(dataset, "train", "price"), targets(dataset, "train", "sold")
    assert price.dtype == sold.dtype == torch.float32
    torch.testing.assert_close(price, torch.tensor([100, 150, torch.nan, 250]), equal_nan=True)
    torch.testing.assert_close(sold, torch.tensor([1.0, 0, 1, torch.nan]), equal_nan=True)
    facts = dataset.facts
    assert facts["price"]["kind"] == "regression"
    assert facts["price"]["center"] == pytest.approx(500 / 3)
    assert facts["price"]["scale"] == pytest.approx(np.std([100, 150, 250]))
    assert facts["sold"]["kind"] == "binary"
    assert facts["sold"]["class_names"] == ["no", "yes"]
    assert facts["sold"]["positive_share"] == pytest.approx(2 / 3)
    train = dataset.splits["train"]["table"]
    assert train.labelled["price"].tolist() == [True, True, False, True]
    assert train.labelled["sold"].tolist() == [True, True, True, False]
    assert "price" not in dataset.splits["val"]["table"].labelled


def test_what_was_found_is_said(houses: Path) -> None:
    dataset = table(houses, split="part", text=["notes"], categorical=["city"])
    assert dataset.remarks == [
        f"Read {houses}: 6 rows. Inputs: 4 numeric (area, rooms, built as days, seen), "
        "1 categorical (city), 1 text (notes).",
        "Targets: price (regression, 1 missing), sold (binary, 66.7 % yes, 1 missing).",
        "Split: 4 train, 1 val, 1 test (by column part).",
        "Left out: id (all different).",
    ]


def test_no_more_words_are_read_than_asked_for(houses: Path) -> None:
    dataset = table(houses, split="part", inputs=["notes"], text=["notes"], text_length=2)
    assert dataset.input_facts["table"]["text_length"] == 2
    assert rows(dataset, "train").tolist() == [[1, 1], [3, 6], [5, 6], [0, 0]]


def test_a_split_without_a_value_of_a_target_is_named(houses: Path) -> None:
    houses.write_text(HOUSES.replace(",180,no,val", ",180,,val"))
    dataset = table(houses, split="part")
    assert dataset.splits["val"]["table"].labelled["sold"].tolist() == [False]
    (said,) = (line for line in dataset.remarks if "measured" in line)
    assert said == "val has no value of the target sold: it is not measured there."


def test_onehot_is_expanded_in_whole_batches(houses: Path) -> None:
    settings = {"split": "part", "categorical": ["city", "rooms"], "ignore": ["notes", "built"]}
    dataset = table(houses, categories="onehot", **settings)
    codes = table(houses, categories="codes", **settings)
    assert dataset.input_kind == {"table": "values"}
    assert dataset.input_shape == {"table": (2 + 3 + 2,)}  # area, seen; rooms 2, 4, 6; two cities
    stored = rows(dataset, "train")
    assert torch.equal(stored, rows(codes, "train"))
    before = stored.clone()
    seen, same = dataset.transform("table", stored, {"price": stored[:, 0]}, None)
    assert torch.equal(seen[:, :2], stored[:, :2])
    assert seen[:, 2:].tolist() == [
        [1, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 1, 0, 0, 1],
        [0, 0, 1, 0, 0],  # a missing city
    ]
    unseen, _ = dataset.transform("table", rows(dataset, "test"), {}, None)
    assert unseen[0, 2:].tolist() == [0, 0, 0, 0, 0]
    assert torch.equal(stored, before)
    assert list(same) == ["price"]
    same_inputs, _ = codes.transform("table", before, {}, None)
    assert same_inputs is before


def test_numbers_alone_suit_any_backbone(houses: Path) -> None:
    dataset = table(houses, split="part", inputs=["area"])
    assert dataset.input_kind == {"table": "values"}
    assert dataset.input_facts["table"] == {}
    assert dataset.input_shape == {"table": (1,)}


def frame_file(tmp_path: Path, **columns) -> Path:
    path = tmp_path / "made.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_columns_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    many = 40
    path = frame_file(
        tmp_path,
        number=range(100, 100 + many),
        same=["x"] * many,
        zero=[0.0] * many,
        nothing=[None] * many,
        name=[f"name{n * 7 % many}" for n in range(many)],
        person=[f"Ann {n // 2 if n < 30 else n}" for n in range(many)],
        year=[2000 + n % 3 for n in range(many)],
        colour=["red", "green"] * (many // 2),
        essay=[f"the cat number {n} sat on mat {n % 5}" for n in range(many)],
        y=np.linspace(0, 1, many),
    )
    dataset = table(path, ["y"], seed=1)
    (left,) = (line for line in dataset.remarks if line.startswith("Left out"))
    for reason in (
        "number (numbers the rows)",
        "same (constant)",
        "zero (constant)",
        "nothing (missing in all training rows)",
        "name (all different)",
        "person (nearly all different)",
    ):
        assert reason in left
    assert "1 numeric (year), 1 categorical (colour), 1 text (essay)" in dataset.remarks[0]
    named = table(path, ["y"], numeric=["number"], categorical=["name", "year"], ignore=["essay"])
    assert "1 numeric (number), 3 categorical (name, year, colour)" in named.remarks[0]


def test_columns_that_may_say_something_are_kept(tmp_path: Path) -> None:
    ticket = [str(n * 37 + 5000) if n % 4 else f"PC {n // 8}" for n in range(60)]
    path = tmp_path / "t.csv"
    rows_ = [f"{7 * n % 60},{'' if n % 3 else 5},{t},{n / 2}" for n, t in enumerate(ticket)]
    path.write_text("\n".join([",five,ticket,y", *rows_]))
    dataset = table(path, ["y"])
    assert "1 numeric (five)." in dataset.remarks[0]  # known or not, which may tell something
    assert dataset.input_shape == {"table": (2,)}
    assert "unnamed 1 (numbers the rows), ticket (nearly all different)" in dataset.remarks[-1]


def test_columns_are_judged_by_the_training_rows(tmp_path: Path) -> None:
    parts = ["train"] * 8 + ["test"] * 8
    path = frame_file(
        tmp_path,
        part=parts,
        number=[1.5] * 8 + [*range(8)],
        word=["a"] * 8 + [*"abcdefgh"],
        late=[None] * 8 + [*"abababab"],
        kept=[1, 2] * 8,
        y=np.arange(16) / 2,
    )
    dataset = table(path, ["y"], split="part", validation=0, carve_validation=False)
    (left,) = (line for line in dataset.remarks if line.startswith("Left out"))
    assert left == (
        "Left out: number (constant), word (constant), late (missing in all training rows)."
    )


def test_drawn_splits_depend_on_the_dataset_seed_alone(tmp_path: Path) -> None:
    path = frame_file(tmp_path, x=np.random.default_rng(0).normal(size=50), y=range(50))

    def drawn(**settings) -> dict[str, list[float]]:
        dataset = table(path, {"y": "regression"}, validation=0.25, **settings)
        return {split: targets(dataset, split, "y").tolist() for split in dataset.splits}

    first = drawn()
    assert {split: len(of) for split, of in first.items()} == {"train": 30, "val": 10, "test": 10}
    assert sorted(chain.from_iterable(first.values())) == list(range(50))
    assert drawn() == first
    assert drawn(seed=1)["test"] != first["test"]
    whole = drawn(carve_validation=False)
    assert whole["test"] == first["test"]
    assert whole["train"] == sorted(first["train"] + first["val"])


def test_groups_stay_together(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    person = np.sort(draws.integers(0, 40, 300))
    path = frame_file(tmp_path, person=person, x=draws.normal(size=300), y=person + 0.5)
    dataset = table(path, {"y": "regression"}, group="person")
    people = {split: set(targets(dataset, split, "y").tolist()) for split in dataset.splits}
    assert len(set().union(*people.values())) == sum(map(len, people.values())) == 40
    other = table(path, {"y": "regression"}, group="person", seed=1)
    assert set(targets(other, "test", "y").tolist()) != people["test"]
    sizes = {split: len(of["table"]) for split, of in dataset.splits.items()}
    assert sizes["test"] == pytest.approx(60, abs=8)
    assert sizes["val"] == pytest.approx(24, abs=8)


def test_named_splits_that_tear_a_group_apart_are_refused(tmp_path: Path) -> None:
    path = frame_file(
        tmp_path, part=["train"] * 4 + ["test"] * 2, who=list("aabbbc"), x=range(6), y=[1, 2] * 3
    )
    with pytest.raises(UserError, match=r"line 6, column who: this row is for test, and others"):
        table(path, ["y"], split="part", group="who", validation=0)


def test_one_name_needs_no_list(houses: Path) -> None:
    dataset = table(houses, split="part", inputs="area", missing="?", categorical="rooms")
    assert "1 numeric (area), 1 categorical (rooms)" in dataset.remarks[0]


def test_splits_by_file(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 10), ("c", 20)):
        values = "".join(f"{first + n}.5,{first + n % 4}\n" for n in range(8))
        (tmp_path / f"{name}.csv").write_text("x,y\n" + values)
    names = {"train": "a", "dev": "b", "test": "c"}
    files = {split: str(tmp_path / f"{name}.csv") for split, name in names.items()}
    dataset = Table(files, tasks={"y": "regression"})
    assert targets(dataset, "val", "y").tolist() == [10, 11, 12, 13] * 2
    assert "(by file)" in dataset.remarks[2]
    assert list(Table(files, tasks={"y": None}, carve_validation=False).splits) == ["train", "test"]
    del files["dev"]
    carved = Table(files, tasks={"y": "regression"}, validation=0.25)
    assert {split: len(of["table"]) for split, of in carved.splits.items()} == {
        "train": 6, "val": 2, "test": 8,
    }  # fmt: skip
    joined = Table(list(files.values()), tasks={"y": "regression"}, validation=0)
    assert sum(len(of["table"]) for of in joined.splits.values()) == 16


def test_a_task_column_makes_a_stream_and_a_task_of_each_value(tmp_path: Path) -> None:
    school = [s for s in (7, 3, 5) for _ in range(10)]
    score = [s * 10 + n for s in (7, 3, 5) for n in range(10)]
    path = frame_file(tmp_path, school=school, x=np.arange(30) % 4, score=score)
    settings = {"task_column": "school", "validation": 0.25}
    dataset = table(path, {"score": "regression"}, **settings)
    names = ["score 7", "score 3", "score 5"]
    assert dataset.families == {"score": names}
    assert dataset.streams == {"7": (names[0],), "3": (names[1],), "5": (names[2],)}
    for sources in dataset.splits.values():
        assert {stream: len(source) // 2 for stream, source in sources.items()} == dict.fromkeys(
            ("7", "3", "5"), len(sources["7"]) // 2
        )
    assert [len(of["7"]) for of in dataset.splits.values()] == [6, 2, 2]
    for stream in ("7", "3", "5"):
        kept = targets(dataset, "train", f"score {stream}", stream)
        assert ((kept // 10) == int(stream)).all()
    everything = torch.cat([targets(dataset, "train", name, name[6:]) for name in names])
    assert dataset.facts["score 3"]["center"] == pytest.approx(everything.mean().item())
    assert dataset.input_shape == {"7": (1,), "3": (1,), "5": (1,)}

    own = table(path, {"score": None}, standardise="task", **settings)
    third = targets(own, "train", "score 3", "3")
    assert own.facts["score 3"]["center"] == pytest.approx(third.mean().item())
    assert own.facts["score 3"]["scale"] == pytest.approx(third.std(correction=0).item(), rel=1e-6)
    assert own.facts["score 7"]["kind"] == "regression"


def test_a_stratum_of_two_rows_keeps_them_for_training(tmp_path: Path) -> None:
    path = frame_file(
        tmp_path, t=["a"] * 20 + ["b"] * 2, x=np.arange(22) / 2, y=np.arange(22) * 1.5
    )
    dataset = table(path, ["y"], task_column="t", test=0.8, validation=0, carve_validation=False)
    assert {s: len(source) for s, source in dataset.splits["train"].items()} == {"a": 4, "b": 2}


def test_a_value_of_the_task_column_without_training_labels_is_named(tmp_path: Path) -> None:
    path = frame_file(tmp_path, t=["a", "a", "b"] * 10, x=np.arange(30.0), y=[1.5, 2.5, None] * 10)
    with pytest.raises(UserError, match=r"no training row of t=b has a value of the target y"):
        table(path, ["y"], task_column="t", numeric=["x"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"categories": "embed"}, "categories=embed: choose one of codes, onehot"),
        ({"standardise": "none"}, "standardise=none"),
        ({"standardise": "task"}, r"with dataset\.task_column only"),
        ({"unseen": "zero"}, "unseen=zero: choose one of refuse, missing"),
        ({"test": 0.0}, "test=0.0: a share"),
        ({"validation": 1.0}, "validation=1.0: a share"),
        ({"text_length": 0}, "text_length=0"),
        ({"separator": ""}, "separator=''"),
        ({"classes": {"sold": ["yes", "yes"]}}, r"classes\.sold=\['yes', 'yes'\]: two classes"),
        ({"classes": {"sold": "yes"}}, r"classes\.sold=\['yes'\]: two classes or more"),
    ],
)
def test_wrong_settings_are_refused(houses: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(houses, **settings)
