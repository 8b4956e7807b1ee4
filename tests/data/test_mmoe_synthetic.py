import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mtlrun.data.mmoe_synthetic import MMoESynthetic, draw

REFERENCE = Path(__file__).resolve().parent.parent / "reference" / "mmoe_synthetic.json"
KNOWN = json.loads(REFERENCE.read_text())["correlations"]


@pytest.mark.parametrize("correlation", KNOWN)
def test_rows_are_those_of_the_published_generator(correlation: str) -> None:
    known = KNOWN[correlation]
    inputs, labels = draw(float(correlation), 12000, 1)
    training = labels[:, :10000]
    assert inputs[0, 0] == pytest.approx(known["input"], abs=1e-8)
    assert training[:, :3] == pytest.approx(np.array(known["first"]), abs=1e-7)
    assert training.mean(1) == pytest.approx(known["mean"], abs=1e-7)
    assert training.std(1) == pytest.approx(known["deviation"], abs=1e-7)
    assert np.corrcoef(training)[0, 1] == pytest.approx(known["pearson"], abs=1e-8)


def test_splits_are_drawn_one_after_the_other() -> None:
    dataset = MMoESynthetic(0.5, 60, 30, 10, seed=7)
    inputs, labels = draw(0.5, 100, 7)
    sources = {split: parts["mmoe_synthetic"] for split, parts in dataset.splits.items()}
    assert {split: len(source) for split, source in sources.items()} == {
        "train": 60,
        "val": 30,
        "test": 10,
    }
    rows = [source.rows(torch.arange(len(source))) for source in sources.values()]
    assert torch.equal(torch.cat([found[0] for found in rows]), torch.tensor(inputs).float())
    for task, expected in zip(("y1", "y2"), labels, strict=True):
        found = torch.cat([targets[task] for _, targets in rows])
        assert torch.equal(found, torch.tensor(expected).float())
    assert dataset.input_shape == {"mmoe_synthetic": (100,)}


def test_without_validation_the_other_splits_are_the_same() -> None:
    with_it, without = (
        MMoESynthetic(0.5, 60, 30, 10, carve_validation=carve) for carve in (True, False)
    )
    assert set(without.splits) == {"train", "test"}
    for split in without.splits:
        first, second = (d.splits[split]["mmoe_synthetic"].inputs for d in (with_it, without))
        assert torch.equal(first, second)


@pytest.mark.parametrize("settings", [{"correlation": 1.2}, {"train_rows": 0}, {"test_rows": -1}])
def test_wrong_settings_are_refused(settings: dict) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"^{name}={value}: must be"):
        MMoESynthetic(**settings)
