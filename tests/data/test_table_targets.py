"""Targets of tables: kinds that are inferred, values, and cells that do not fit."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtlrun.data.table import Table
from mtlrun.data.table.reading import read_sheet
from mtlrun.data.table.targets import Target, TargetSettings, read_target
from mtlrun.errors import UserError

NAN = float("nan")


def read(tmp_path: Path, cells, kind=None, training=None, **own) -> tuple[Target, dict]:
    """A target column with these cells, all of them for training where nothing is said."""
    path = tmp_path / "t.csv"
    text = "".join(
        f"{n},{json.dumps(cell) if ',' in cell else cell}\n" for n, cell in enumerate(cells)
    )
    path.write_text("x,y\n" + text)
    sheet = read_sheet(str(path), as_text=["y"], missing=["?"])
    which = np.ones(len(cells), dtype=bool)
    if training is not None:
        which[training:] = False
    target = read_target(sheet, "y", kind, which, TargetSettings(**own))
    return target, target.facts


@pytest.mark.parametrize(
    ("cells", "kind", "names"),
    [
        (["0", "1"] * 2, "binary", ["0", "1"]),
        (["yes", "no", "", "?", " ? "], "binary", ["no", "yes"]),
        (["-1", "1"] * 2, "binary", ["-1", "1"]),
        (["10", "9"] * 2, "binary", ["9", "10"]),  # by number, not by name
        (["1.0", "2.0", "3.0"] * 3, "classification", ["1", "2", "3"]),
        (["10", "9", "8"] * 3, "classification", ["8", "9", "10"]),
        (["01", "02", "10"] * 3, "classification", ["01", "02", "10"]),
        (["b ", "a", "c"] * 3, "classification", ["a", "b", "c"]),
        (["1", "2", "3"], "regression", None),  # a class for each row is none
        (["1.5", "2.5", "3"] * 9, "regression", None),
        ([str(n) for n in range(21)] * 9, "regression", None),
        ([str(n) for n in range(20)] * 9, "classification", [str(n) for n in range(20)]),
        (["a", "b;a", "c", ";"], "multi_label", ["a", "b", "c"]),
        (["1", "2", "3", "unknown"] * 3, "classification", ["1", "2", "3", "unknown"]),
        (["5%", "10%", "20%"] * 3, "classification", ["5%", "10%", "20%"]),  # by number
    ],
)
def test_kinds_are_inferred(tmp_path: Path, cells: list[str], kind: str, names) -> None:
    _, facts = read(tmp_path, cells)
    assert facts["kind"] == kind
    assert facts.get("class_names", facts.get("label_names")) == names


def test_a_kind_that_is_given_is_not_a_fact(tmp_path: Path) -> None:
    _, facts = read(tmp_path, ["0", "1"] * 2, "classification")
    assert facts == {"classes": 2, "class_names": ["0", "1"]}


def test_values_of_each_kind(tmp_path: Path) -> None:
    target, facts = read(tmp_path, ["b", "", "a", "c"] * 2, "classification")
    assert target.values.dtype == torch.int64
    assert target.values.tolist() == [1, -1, 0, 2] * 2
    assert target.labelled.tolist() == [True, False, True, True] * 2

    target, facts = read(tmp_path, ["yes", "?", "no", "yes"], "binary")
    torch.testing.assert_close(target.values, torch.tensor([1, NAN, 0, 1]), equal_nan=True)
    assert facts["positive_share"] == pytest.approx(2 / 3)

    target, facts = read(tmp_path, ["3", "1", "", "2"], "ordinal")
    assert target.values.tolist() == [2, 0, -1, 1]
    assert facts == {"classes": 3, "class_names": ["1", "2", "3"]}

    target, facts = read(tmp_path, ["b;a", "", " b ; ", ";"], "multi_label")
    expected = torch.tensor([[1, 1], [NAN, NAN], [0, 1], [0, 0]])
    torch.testing.assert_close(target.values, expected, equal_nan=True)
    assert facts == {"labels": 2, "label_names": ["a", "b"], "positive_share": pytest.approx(0.5)}

    target, facts = read(tmp_path, ["1e3", "-2.5", "", "4"], "regression", training=2)
    torch.testing.assert_close(target.values, torch.tensor([1e3, -2.5, NAN, 4]), equal_nan=True)
    assert facts == {"center": 498.75, "scale": 501.25}


def test_numbers_may_be_written_for_readers(tmp_path: Path) -> None:
    target, facts = read(tmp_path, ["$1,250.50", "-$3", "", "$12"])
    assert facts["kind"] == "regression"
    torch.testing.assert_close(target.values, torch.tensor([1250.5, -3, NAN, 12]), equal_nan=True)
    assert target.remark == "y (regression, in $, 1 missing)"


def test_the_user_may_order_the_classes(tmp_path: Path) -> None:
    order = {"y": ["low", "mid", "high"]}
    target, facts = read(tmp_path, ["high", "low", "low"], "ordinal", classes=order)
    assert target.values.tolist() == [2, 0, 0]
    assert facts == {"classes": 3, "class_names": ["low", "mid", "high"]}
    _, facts = read(tmp_path, ["yes", "no"], classes={"y": ["yes", "no"]})
    assert facts["class_names"] == ["yes", "no"]
    target, _ = read(tmp_path, ["b", "a;c"], "multi_label", classes={"y": ["c", "b", "a"]})
    assert target.values.tolist() == [[0, 1, 0], [1, 0, 1]]


def test_classes_that_training_does_not_show(tmp_path: Path) -> None:
    cells = ["a", "b", "c", "d"]
    with pytest.raises(UserError, match=r"t.csv, line 5, column y: 'd' is a class of y that no"):
        read(tmp_path, cells, "classification", training=3)
    target, facts = read(tmp_path, cells, "classification", training=3, unseen="missing")
    assert target.values.tolist() == [0, 1, 2, -1]
    assert facts["classes"] == 3
    target, facts = read(tmp_path, ["a", "b;a", "c;a"], "multi_label", training=2, unseen="missing")
    assert target.values.tolist() == [[1, 0], [1, 1], [1, 0]]
    assert facts["positive_share"] == pytest.approx(3 / 4)  # of the training rows


BAD = [
    (["a", "a"], None, {}, "the target y is 'a' in all rows: there is nothing to learn"),
    (["2", "2.0"], "regression", {}, "the target y is '2' in all training rows"),
    (["", "?"], None, {}, "the target y is missing in every row"),
    (["", "1", "2"], None, {"training": 1}, "no training row has a value of the target y"),
    (["1", "2,5", "x"], "regression", {},
     "line 3, column y: '2,5' is no finite number, and y is a regression"),
    (["1", "nan"], "regression", {}, "line 3, column y: 'nan' is no finite number"),
    (["1", "1_0"], "regression", {}, "line 3, column y: '1_0' is no finite number"),
    (["no", "yes"], "binary", {"classes": {"y": [False, True]}},
     "Known: False, True. YAML takes yes and no for True and False: write them in quotes."),
    (["1", "inf"], "regression", {}, "line 3, column y: 'inf' is no finite number"),
    (["1", "1e60"], "regression", {}, "line 3, column y: '1e60' is no finite number"),
    (["1.5", "2.5", "oops", "4"] , None, {},
     "line 4, column y: 'oops' is no number, and nearly all other values of y are"),
    (["1.5", "2.5"] * 9 + ["oops"], None, {}, "line 20, column y: 'oops' is no number, and nearly"),
    (["1", "2", "3"] * 9 + ["-inf"], None, {}, "line 29, column y: '-inf' is no number, and near"),
    (["fine", "good", "bad", "poor"], None, {},
     "line 2, column y: 'fine' is no number, and with 4 different values in 4 rows"),
    (["a", "b", "c"], "binary", {}, "is binary, and its training rows have 3 different values"),
    (["low", "high"], "ordinal", {}, "Say their order, lowest first: dataset.classes={y: [low, m"),
    (["low", "hihg"], "ordinal", {"classes": {"y": ["low", "high"]}},
     "line 3, column y: 'hihg' is not among dataset.classes of y. Did you mean high?"),
    ([";", ";"], "multi_label", {}, "no training row has a label in the target y"),
    (["a", "b;x"], "multi_label", {"classes": {"y": ["a", "b"]}}, "line 3, column y: 'x' is not"),
]  # fmt: skip


@pytest.mark.parametrize(("cells", "kind", "own", "message"), BAD)
def test_cells_that_do_not_fit_are_named(tmp_path: Path, cells, kind, own, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, cells, kind, **own)
    assert message in str(caught.value)
    assert str(tmp_path / "t.csv") in str(caught.value)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(st.none(), st.floats(-1e6, 1e6).map(lambda number: round(number, 3))),
        min_size=2,
        max_size=20,
    ).filter(lambda cells: len({cell for cell in cells if cell is not None}) > 1)
)
def test_a_regression_is_what_the_file_says(tmp_path: Path, cells) -> None:
    written = ["" if cell is None else repr(cell) for cell in cells]
    target, facts = read(tmp_path, written, "regression")
    expected = torch.tensor([NAN if cell is None else cell for cell in cells])
    assert torch.equal(target.values.nan_to_num(7.5), expected.nan_to_num(7.5))
    known = np.array([cell for cell in cells if cell is not None])
    assert facts["center"] == pytest.approx(known.mean())
    assert facts["scale"] == pytest.approx(known.std())


@pytest.mark.data
def test_census_income(shared_data: Path) -> None:
    """The file has no header; its columns 24 and 41 are marital status... and income."""
    path = shared_data / "census_income" / "census-income.test.gz"
    names = [f"c{n}" for n in range(42)]
    dataset = Table(
        str(path),
        columns=names,
        tasks={"c41": None, "c7": "classification"},
        ignore=["c24"],
        test=1 / 3,
    )
    sizes = {split: len(of["table"]) for split, of in dataset.splits.items()}
    assert sizes == {"train": 59857, "val": 6651, "test": 33254}
    facts = dataset.facts
    assert facts["c41"]["class_names"] == ["- 50000.", "50000+."]
    assert facts["c41"]["positive_share"] == pytest.approx(0.062, abs=0.002)
    assert facts["c7"]["classes"] == 7
    assert dataset.input_kind["table"] == "columns"
    inputs = pd.DataFrame(dataset.splits["train"]["table"].inputs.numpy())
    numeric = dataset.input_facts["table"]["numeric"]
    assert inputs.iloc[:, :numeric].mean().abs().max() < 1e-3
    assert not inputs.isna().to_numpy().any()
