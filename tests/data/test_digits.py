import pytest
import torch
from sklearn.datasets import load_digits

from mtlrun.data.digits import Digits


@pytest.fixture(scope="module")
def dataset() -> Digits:
    return Digits()


def source(dataset: Digits, split: str):
    return dataset.splits[split]["digits"]


def test_splits_part_the_1797_rows(dataset: Digits) -> None:
    sizes = {split: len(source(dataset, split)) for split in dataset.splits}
    assert sizes == {"train": 1294, "val": 144, "test": 359}
    rows = torch.cat([source(dataset, split).inputs.flatten(1) for split in sizes])
    everything = torch.tensor(load_digits().data).float() / 16
    # Every image occurs as often as in the original, so none is lost or in two splits.
    assert torch.equal(rows.unique(dim=0), everything.unique(dim=0))
    assert len(rows) == len(everything)


def test_inputs_and_targets(dataset: Digits) -> None:
    inputs, targets = source(dataset, "train").rows(torch.tensor([5, 0, 9]))
    assert inputs.shape == (3, *dataset.input_shape["digits"])
    assert inputs.dtype == torch.float32
    every = source(dataset, "train")
    assert (every.inputs.min(), every.inputs.max()) == (0, 1)
    assert torch.equal(targets["parity"], targets["digit"] % 2)
    assert every.targets["digit"].unique().tolist() == list(range(10))
    assert tuple(targets) == dataset.streams["digits"] == ("digit", "parity", "ink")
    assert set(dataset.facts) == set(targets)


def test_images_keep_their_labels(dataset: Digits) -> None:
    digits = load_digits()
    original = {tuple(row): label for row, label in zip(digits.data, digits.target, strict=True)}
    assert len(original) == 1797  # no image occurs twice
    for split in dataset.splits:
        pixels = (16 * source(dataset, split).inputs).flatten(1).double()
        labels = [original[tuple(row)] for row in pixels.tolist()]
        assert labels == source(dataset, split).targets["digit"].tolist()


def test_ink_is_standardised_by_the_rows_outside_the_test_split(dataset: Digits) -> None:
    parts = [source(dataset, split) for split in ("train", "val")]
    ink = torch.cat([part.targets["ink"] for part in parts]).double()
    assert ink.mean().item() == pytest.approx(0, abs=1e-6)
    assert ink.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    intensity = torch.cat([part.inputs.mean((1, 2, 3)) for part in parts]).double()
    assert torch.corrcoef(torch.stack([ink, intensity]))[0, 1].item() == pytest.approx(1, abs=1e-6)


def test_without_carving_the_same_rows_are_tested_and_all_others_train(dataset: Digits) -> None:
    whole = Digits(carve_validation=False)
    assert set(whole.splits) == {"train", "test"}
    assert len(source(whole, "train")) == 1294 + 144
    assert torch.equal(source(whole, "test").inputs, source(dataset, "test").inputs)
    assert torch.equal(source(whole, "test").targets["ink"], source(dataset, "test").targets["ink"])


def test_seed_decides_the_split(dataset: Digits) -> None:
    again, other = Digits(), Digits(seed=1)
    assert torch.equal(source(again, "val").inputs, source(dataset, "val").inputs)
    assert not torch.equal(source(other, "test").inputs, source(dataset, "test").inputs)


def test_select_keeps_the_tasks_named() -> None:
    dataset = Digits()
    dataset.select(["ink", "digit"])
    assert dataset.streams == {"digits": ("ink", "digit")}
    assert list(source(dataset, "val").rows(torch.arange(2))[1]) == ["ink", "digit"]


@pytest.mark.parametrize("name", ["validation", "test"])
@pytest.mark.parametrize("value", [0, 1.0, -0.1])
def test_shares_outside_0_to_1_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Digits(**{name: value})
