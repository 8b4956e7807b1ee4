import gzip
import sys
from pathlib import Path
from types import ModuleType
from zlib import crc32

import numpy as np
import pytest
import torch

from mtlrun.data.tox21 import ASSAYS, TASKS, Tox21, ngram_counts
from mtlrun.errors import UserError

STREAM = "tox21"
HEADER = ",".join((*ASSAYS, "mol_id", "smiles"))
NO_LABELS = "," * 11


def write(folder: Path, lines: list[str]) -> Path:
    path = folder / "tox21.csv.gz"
    path.write_bytes(gzip.compress("\n".join([HEADER, *lines]).encode()))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 rows of 16 molecules: four are there twice, and each row's number is its first label."""
    molecules = [f"C{'C' * number}O" for number in (*range(16), *range(4))]
    labels = [f"{row % 2},,1,0.0,1.0{',' * 7}" for row in range(20)]
    write(
        tmp_path,
        [
            f"{label},TOX{row},{m}"
            for row, (label, m) in enumerate(zip(labels, molecules, strict=True))
        ],
    )
    return tmp_path


def test_ngrams_are_counted_and_hashed() -> None:
    counts = ngram_counts(["CCO", "N", "C" * 400], 64)
    expected = np.zeros(64)
    for ngram in ("C", "C", "O", "CC", "CO", "CCO"):
        expected[crc32(ngram.encode()) % 64] += 1
    assert counts[0].tolist() == expected.tolist()
    assert counts[1].sum() == counts[1, crc32(b"N") % 64] == 1
    assert counts[2].max() == 255  # 400 of them, and more do not fit


def test_features_are_logarithms_of_counts(folder: Path) -> None:
    dataset = Tox21(str(folder), dimensions=32)
    inputs, targets = dataset.splits["train"][STREAM].rows(torch.arange(3))
    seen, _ = dataset.transform(STREAM, inputs, targets, None)
    torch.testing.assert_close(seen, (inputs.double() + 1).log().float())
    assert dataset.input_shape == {STREAM: (32,)}


def test_labels_and_those_missing(folder: Path) -> None:
    dataset = Tox21(str(folder), dimensions=32, carve_validation=False)
    parts = [sources[STREAM].targets for sources in dataset.splits.values()]
    first, second, third, fourth = (torch.cat([p[task] for p in parts]) for task in TASKS[:4])
    assert first.sum() == 10
    assert second.isnan().all()
    assert (third == 1).all()
    assert (fourth == 0).all()
    assert TASKS[:2] == ("nr_ar", "nr_ar_lbd")
    train = dataset.splits["train"][STREAM].targets["nr_ar"]
    assert dataset.facts["nr_ar"]["positive_share"] == pytest.approx(train.mean().item())


def test_rows_of_one_molecule_stay_together(folder: Path) -> None:
    for seed in range(5):
        dataset = Tox21(str(folder), dimensions=512, validation=0.25, test=0.25, seed=seed)
        parts = {s: sources[STREAM].inputs.unique(dim=0) for s, sources in dataset.splits.items()}
        assert {split: len(rows) for split, rows in parts.items()} == {
            "train": 8,
            "val": 4,
            "test": 4,
        }
        assert len(torch.cat(list(parts.values())).unique(dim=0)) == 16
        assert sum(len(sources[STREAM]) for sources in dataset.splits.values()) == 20


def test_without_validation_the_same_molecules_are_tested(folder: Path) -> None:
    first, second = (
        Tox21(str(folder), dimensions=64, test=0.25, carve_validation=c) for c in (True, False)
    )
    assert set(second.splits) == {"train", "test"}
    assert torch.equal(first.splits["test"][STREAM].inputs, second.splits["test"][STREAM].inputs)


@pytest.fixture
def rdkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with rdkit's names: bit n is the number of carbons, and CCO cannot be read."""
    chemistry, fingerprints, log = (
        ModuleType(f"rdkit.{n}") for n in ("Chem", "Chem.rdFingerprintGenerator", "RDLogger")
    )

    class Generator:
        def __init__(self, radius: int, fpSize: int) -> None:
            assert radius == 2
            self.size = fpSize

        def GetFingerprintAsNumPy(self, molecule: str) -> np.ndarray:  # noqa: N802 rdkit's
            return np.eye(self.size, dtype=np.uint8)[molecule.count("C")]

    chemistry.MolFromSmiles = lambda smiles: None if smiles == "CCO" else smiles
    fingerprints.GetMorganGenerator = Generator
    log.DisableLog = lambda name: None
    for module in (ModuleType("rdkit"), chemistry, fingerprints, log):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_fingerprints_and_molecules_that_have_none(folder: Path, rdkit: None) -> None:
    dataset = Tox21(str(folder), features="morgan", dimensions=32, carve_validation=False)
    assert dataset.remarks == [
        "tox21: rdkit cannot read 2 of 20 molecules; their features are all 0."
    ]
    inputs = torch.cat([sources[STREAM].inputs for sources in dataset.splits.values()])
    assert inputs.sum(1).sort().values.tolist() == [0, 0] + [1] * 18
    assert inputs.sum(0)[1:17].tolist() == [2, 0, 2, 2] + [1] * 12
    seen, _ = dataset.transform(STREAM, inputs, {}, None)
    assert torch.equal(seen, inputs.float())


def test_without_rdkit_it_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    with pytest.raises(UserError, match=r"needs rdkit.*pip install rdkit.*features=ngrams"):
        Tox21(str(folder), features="morgan")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"2{NO_LABELS},TOX1,CCO", r"line 3, column NR-AR has '2': labels are 0, 1, or empty"),
        (f"{NO_LABELS},TOX1", r"line 3 has 13 values, not 14"),
        (f"{NO_LABELS},TOX1,", r"line 3 has no molecule"),
        (f'{NO_LABELS},TOX1,"CCO', r"is not a table in CSV"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, [f"{NO_LABELS},TOX0,CO", line])
    with pytest.raises(UserError, match=f"^{path}.*{message}"):
        Tox21(str(tmp_path))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tox21.csv"
    for content, message in (
        (b"", "has no column NR-AR, .*smiles"),
        (HEADER.replace("SR-p53", "p53").encode(), "has no column SR-p53"),
        (HEADER.encode(), "has no molecules"),
        (HEADER.encode() + b"\n\xff", "is not text in UTF-8"),
        (f"{HEADER}\n{NO_LABELS},TOX0,CO".encode(), "of 1 molecules leave a split empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            Tox21(str(tmp_path))
    with pytest.raises(UserError, match=r"nowhere does not exist\. Get tox21\.csv\.gz from"):
        Tox21(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "settings", [{"features": "words"}, {"dimensions": 0}, {"validation": 0.6, "test": 0.5}]
)
def test_wrong_settings_are_refused(settings: dict) -> None:
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"^{name}={value!r}"):
        Tox21(**settings)


@pytest.mark.data
def test_the_real_file(shared_data: Path) -> None:
    dataset = Tox21(str(shared_data / "tox21"))
    parts = {split: sources[STREAM] for split, sources in dataset.splits.items()}
    assert sum(map(len, parts.values())) == 8014
    assert 780 < len(parts["val"]) < 820
    assert 780 < len(parts["test"]) < 820
    labels = torch.cat([source.targets["nr_ahr"] for source in parts.values()])
    assert int((~labels.isnan()).sum()) == 6691
    assert labels.nanmean().item() == pytest.approx(0.117322, abs=1e-6)


def test_fingerprints_of_the_real_package(folder: Path) -> None:
    chemistry = pytest.importorskip("rdkit.Chem")
    generators = pytest.importorskip("rdkit.Chem.rdFingerprintGenerator")
    generator = generators.GetMorganGenerator(radius=2, fpSize=64)
    dataset = Tox21(str(folder), features="morgan", dimensions=64, carve_validation=False)
    found = {
        tuple(row)
        for sources in dataset.splits.values()
        for row in sources[STREAM].rows(torch.arange(len(sources[STREAM])))[0].int().tolist()
    }
    molecules = [chemistry.MolFromSmiles(f"C{'C' * number}O") for number in range(16)]
    assert found == {tuple(generator.GetFingerprintAsNumPy(m).tolist()) for m in molecules}
    assert dataset.remarks == ()
