from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from mtlrun.data.sarcos import FILES, TASKS, Sarcos
from mtlrun.errors import UserError

STREAM = "sarcos"


def write(folder: Path, split: str, table: np.ndarray) -> None:
    savemat(folder / f"{FILES[split]}.mat", {FILES[split]: table})


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 28)) * np.arange(1, 29) + 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 training rows, two of which are among the 10 test rows."""
    training, testing = rows(30, 0), rows(10, 1)
    training[[4, 17]] = testing[[3, 0]]
    write(tmp_path, "train", training)
    write(tmp_path, "test", testing)
    return tmp_path


def read(folder: Path, **settings):
    return Sarcos(str(folder), carve_validation=False, **settings)


def test_rows_are_standardised_by_the_training_rows_and_torques_keep_their_units(
    folder: Path,
) -> None:
    training, testing = rows(30, 0), rows(10, 1)
    training = np.delete(training, [4, 17], axis=0)
    center, scale = training.mean(0), training.std(0)
    dataset = read(folder)
    for split, table in (("train", training), ("test", testing)):
        source = dataset.splits[split][STREAM]
        expected = torch.tensor(((table - center) / scale)[:, :21], dtype=torch.float32)
        torch.testing.assert_close(source.inputs, expected, atol=1e-5, rtol=0)
        for joint, task in enumerate(TASKS):
            assert torch.equal(source.targets[task], torch.tensor(table[:, 21 + joint]).float())
    for joint, task in enumerate(TASKS):
        facts = dataset.facts[task]
        assert facts["kind"] == "regression"
        assert facts["center"] == pytest.approx(center[21 + joint], abs=1e-9)
        assert facts["scale"] == pytest.approx(scale[21 + joint], abs=1e-9)


def test_rows_that_are_tested_on_are_left_out_of_training_and_counted(folder: Path) -> None:
    without, with_them = read(folder), read(folder, keep_overlap=True)
    sizes = [len(dataset.splits["train"][STREAM]) for dataset in (without, with_them)]
    assert sizes == [28, 30]
    assert "2 of 30 training rows are test rows, too, and are left out" in without.remarks[0]
    assert "2 of 30 training rows are test rows, too, and are trained on" in with_them.remarks[0]


def test_splits(folder: Path) -> None:
    dataset = Sarcos(str(folder), validation=0.25)
    sizes = {split: len(parts[STREAM]) for split, parts in dataset.splits.items()}
    assert sizes == {"train": 21, "val": 7, "test": 10}
    (folder / "sarcos_inv.mat").unlink()
    dataset = Sarcos(str(folder), validation=0.3333)
    sizes = {split: len(parts[STREAM]) for split, parts in dataset.splits.items()}
    assert sizes == {"train": 6, "val": 3, "test": 1}
    torques = torch.cat([parts[STREAM].targets["torque_7"] for parts in dataset.splits.values()])
    expected = torch.tensor(rows(10, 1)[:, 27]).float()
    assert torch.equal(torques.sort().values, expected.sort().values)
    assert "has no sarcos_inv.mat" in dataset.remarks[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": rows(5, 0)}, "has no array of numbers sarcos_inv_test"),
        ({"sarcos_inv_test": "text"}, "has no array of numbers sarcos_inv_test"),
        ({"sarcos_inv_test": rows(5, 0)[:, :27]}, "sarcos_inv_test is of 5 x 27, and must"),
        ({"sarcos_inv_test": rows(1, 0)}, "sarcos_inv_test is of 1 x 28, and must have 2 rows"),
    ],
)
def test_another_file_is_refused(folder: Path, content: dict, message: str) -> None:
    path = folder / "sarcos_inv_test.mat"
    savemat(path, content)
    with pytest.raises(UserError, match=f"{path}:? {message}"):
        read(folder)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_cut_off_file_is_named(folder: Path, share: float) -> None:
    path = folder / "sarcos_inv.mat"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=f"^{path} cannot be read as a .mat file"):
        read(folder)


def test_a_value_that_is_no_number_is_named(folder: Path) -> None:
    table = rows(10, 1)
    table[6, 22] = np.nan
    write(folder, "test", table)
    with pytest.raises(UserError, match="sarcos_inv_test has no number in row 7, column 23"):
        read(folder)


def test_nothing_left_to_train_on(folder: Path) -> None:
    write(folder, "train", rows(10, 1))
    with pytest.raises(UserError, match="all training rows are test rows"):
        read(folder)


def test_a_missing_folder_says_what_goes_where(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Sarcos(str(tmp_path / "nowhere"))
    for part in ("nowhere does not exist", "sarcos_inv.mat", "dataset.root", "MTLRUN_DATA"):
        assert part in str(caught.value)


@pytest.mark.data
def test_the_real_file(shared_data: Path) -> None:
    dataset = Sarcos(str(shared_data / "sarcos"))
    sizes = {split: len(parts[STREAM]) for split, parts in dataset.splits.items()}
    assert sizes == {"train": 3604, "val": 400, "test": 445}
    torque = torch.cat([parts[STREAM].targets["torque_1"] for parts in dataset.splits.values()])
    assert torch.isclose(torque, torch.tensor(50.292652)).any()  # of the file's first row
    # nMSE of a linear model by least squares, known to be near 0.07 to 0.3 by joint.
    train, test = (dataset.splits[split][STREAM] for split in ("train", "test"))
    solution = torch.linalg.lstsq(train.inputs, train.targets["torque_1"][:, None] - torque.mean())
    error = test.inputs @ solution.solution + torque.mean() - test.targets["torque_1"][:, None]
    assert 0.05 < error.square().mean() / test.targets["torque_1"].var() < 0.12
