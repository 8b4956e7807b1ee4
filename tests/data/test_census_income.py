import gzip
from pathlib import Path

import pytest
import torch

from mtlrun.data.census_income import COLUMNS, NUMERIC, CensusIncome
from mtlrun.errors import UserError

STREAM = "census_income"
PERSON = {
    **dict.fromkeys(COLUMNS, "Not in universe"),
    **dict.fromkeys(NUMERIC, "0"),
    "education": "High school graduate",
    "marital_status": "Widowed",
    "instance_weight": "1700.09",
    "income": "- 50000.",
}


def line(**changes: object) -> str:
    assert set(changes) <= set(PERSON)
    return ", ".join(str(value) for value in {**PERSON, **changes}.values())


TRAIN = [
    line(age=20, sex="Female", income="50000+.", industry_code=4, capital_gains=99),
    line(age=40, sex="Male", education="Bachelors degree(BA AB BS)", birthplace="?"),
    line(age=60, sex="Female", marital_status="Never married", race="White"),
    line(age=40, sex="Male", education="Some college but no degree"),
]
TEST = [
    line(age=80, sex="Unheard of", income="50000+."),
    line(age=20, sex="Male", marital_status="Never married", education="Doctorate degree(PhD EdD)"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Both files; the training rows compressed and without spaces after commas, as in copies."""
    content = "\n".join(TRAIN).replace(", ", ",") + "\n"
    (tmp_path / "census-income.data.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "census-income.test").write_text("\n".join(TEST) + "\n")
    return tmp_path


def read(folder: Path, group: int = 1, **settings):
    return CensusIncome(str(folder), group, carve_validation=False, **settings)


def test_targets_by_group(folder: Path) -> None:
    found = {group: read(folder, group).splits for group in (1, 2)}
    train, test = (found[1][split][STREAM].targets for split in ("train", "test"))
    assert train["income"].tolist() == [1, 0, 0, 0]
    assert test["income"].tolist() == [1, 0]
    assert train["never_married"].tolist() == [0, 0, 1, 0]
    assert test["never_married"].tolist() == [0, 1]
    train, test = (found[2][split][STREAM].targets for split in ("train", "test"))
    assert list(train) == ["education", "never_married"]
    assert train["education"].tolist() == [0, 1, 0, 1]
    assert test["education"].tolist() == [0, 1]
    assert read(folder).facts["income"]["positive_share"] == 0.25


def inputs_of(dataset: CensusIncome, split: str) -> torch.Tensor:
    source = dataset.splits[split][STREAM]
    inputs, targets = source.rows(torch.arange(len(source)))
    return dataset.transform(STREAM, inputs, targets, None)[0]


def test_numbers_are_standardised_by_the_training_rows(folder: Path) -> None:
    dataset = read(folder)
    age = inputs_of(dataset, "train")[:, 0]
    spread = 200**0.5  # of 20, 40, 60, 40
    torch.testing.assert_close(age, torch.tensor([-20, 0, 20, 0]) / spread)
    torch.testing.assert_close(inputs_of(dataset, "test")[:, 0], torch.tensor([40, -20]) / spread)
    # log(1 + 99) = log 100 in one of four rows: mean log(100) / 4, deviation log(100) sqrt(3) / 4
    gains = inputs_of(dataset, "train")[:, NUMERIC.index("capital_gains")]
    torch.testing.assert_close(gains, torch.tensor([3.0, -1, -1, -1]) / 3**0.5)
    wage = inputs_of(dataset, "train")[:, NUMERIC.index("wage_per_hour")]
    assert wage.tolist() == [0, 0, 0, 0]  # all the same


def test_a_category_is_one_number_or_a_code_and_what_is_unknown_is_none(folder: Path) -> None:
    onehot, codes = (read(folder, categories=kind) for kind in ("onehot", "codes"))
    kept = [n for n in COLUMNS if n not in (*NUMERIC, "instance_weight", "income")]
    kept.remove("marital_status")
    facts = codes.input_facts[STREAM]
    assert codes.input_kind == {STREAM: "columns"}
    assert (facts["numeric"], len(facts["cardinalities"])) == (7, len(kept)) == (7, 32)
    assert codes.input_shape == {STREAM: (39,)}
    for name, values in {
        "sex": [[1, 2, 1, 2], [0, 2]],  # Female, Male; one that training does not have
        "birthplace": [[1, 0, 1, 1], [1, 1]],  # Not in universe; ? is unknown
        "race": [[1, 1, 2, 1], [1, 1]],
        "education": [[2, 1, 2, 3], [2, 0]],  # in alphabetical order
    }.items():
        place = kept.index(name)
        assert facts["cardinalities"][place] == max(values[0]) + 1
        for split, expected in zip(("train", "test"), values, strict=True):
            assert inputs_of(codes, split)[:, 7 + place].tolist() == expected

    widths = [size - 1 for size in facts["cardinalities"]]
    assert onehot.input_shape == {STREAM: (7 + sum(widths),)}
    for split in ("train", "test"):
        wide, narrow = inputs_of(onehot, split), inputs_of(codes, split)
        assert torch.equal(wide[:, :7], narrow[:, :7])
        for block, code in zip(wide[:, 7:].split(widths, 1), narrow[:, 7:].T.long(), strict=True):
            ones = torch.eye(block.shape[1] + 1)[:, 1:]  # code 0 has none
            assert torch.equal(block, ones[code])


def test_group_2_has_income_as_an_input_and_education_not(folder: Path) -> None:
    first, second = (inputs_of(read(folder, group, categories="codes"), "test") for group in (1, 2))
    assert first.shape == second.shape
    assert second[:, -1].tolist() == [2, 1]  # the last column: 50000+ after - 50000
    assert first[:, -1].tolist() == [1, 1]  # the year


def test_splits(folder: Path) -> None:
    dataset = CensusIncome(str(folder), validation=0.25)
    sizes = {split: len(parts[STREAM]) for split, parts in dataset.splits.items()}
    assert sizes == {"train": 3, "val": 1, "test": 2}
    assert dataset.remarks == ()
    (folder / "census-income.data.gz").unlink()
    (folder / "census-income.test").write_text("\n".join([*TRAIN, *TEST]))
    dataset = CensusIncome(str(folder), validation=0.25)
    sizes = {split: len(parts[STREAM]) for split, parts in dataset.splits.items()}
    assert sizes == {"train": 3, "val": 1, "test": 2}
    assert (
        "has no census-income.data, so census-income.test alone is split, 4 of its rows to "
        in (dataset.remarks[0])
    )


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (line().rpartition(",")[0], r"line 2 has 41 value\(s\), and .* has 42"),
        ("", r"line 2 has 1 value\(s\)"),
        (line(age="old"), r"line 2, column 1 \(age\) has 'old' where a number, 0 or more, is"),
        (line(weeks_worked=-1), r"column 40 \(weeks_worked\) has '-1' where a number"),
        (line(income="60000"), r"column 42 \(income\) has '60000' where - 50000 or 50000\+ is"),
        (line(sex=""), r"column 13 \(sex\) has '' where a category is expected"),
        (line(sex="Männlich"), "line 2 is not plain ASCII"),
    ],
)
def test_a_damaged_line_is_named(folder: Path, damaged: str, message: str) -> None:
    path = folder / "census-income.test"
    path.write_text("\n".join([TEST[0], damaged, TEST[1]]), encoding="utf-8")
    with pytest.raises(UserError, match=f"{path}, .*{message}"):
        read(folder)


def test_an_empty_file_and_a_missing_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "census-income.test").write_bytes(b"")
    with pytest.raises(UserError, match=r"census-income\.test, line 1 has 1 value"):
        read(folder)
    with pytest.raises(UserError) as caught:
        CensusIncome(str(tmp_path / "nowhere"))
    for part in ("nowhere does not exist", "census-income.data", "dataset.root", "MTLRUN_DATA"):
        assert part in str(caught.value)


@pytest.mark.parametrize("settings", [{"group": 3}, {"categories": "words"}, {"validation": 1}])
def test_wrong_settings_are_refused(settings: dict) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"^{name}={value!r}: "):
        CensusIncome(**settings)


@pytest.mark.data
def test_the_real_file(shared_data: Path) -> None:
    """Counts of the published test file: 6186 earn more, 43143 never married."""
    dataset = CensusIncome(str(shared_data / "census_income"))
    parts = {split: sources[STREAM] for split, sources in dataset.splits.items()}
    assert sum(map(len, parts.values())) == 99762
    assert abs(len(parts["test"]) - 99762 / 3) < 1
    for task, count in (("income", 6186), ("never_married", 43143)):
        assert sum(part.targets[task].sum() for part in parts.values()) == count
    train = inputs_of(dataset, "train")
    torch.testing.assert_close(
        train[:, :7].double().mean(0), torch.zeros(7).double(), atol=1e-6, rtol=0
    )
    assert train[:, 7:].unique().tolist() == [0, 1]
    assert (train[:, 7:].sum(0) > 0).all()  # each category occurs in training
