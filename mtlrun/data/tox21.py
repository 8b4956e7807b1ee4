"""Tox21: is a molecule toxic, by twelve assays, most molecules measured by some of them."""

import csv
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtlrun.data.base import Dataset, Targets, TensorSource, carve
from mtlrun.data.files import find_root, plain_or_gzip, read_bytes
from mtlrun.errors import UserError

Features = Literal["ngrams", "morgan"]
Table = npt.NDArray[np.uint8]

STREAM = "tox21"
FILE = "tox21.csv"
ASSAYS = (
    *("NR-AR", "NR-AR-LBD", "NR-AhR", "NR-Aromatase", "NR-ER", "NR-ER-LBD", "NR-PPAR-gamma"),
    *("SR-ARE", "SR-ATAD5", "SR-HSE", "SR-MMP", "SR-p53"),
)
TASKS = tuple(assay.lower().replace("-", "_") for assay in ASSAYS)
LABELS = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "": float("nan")}
LONGEST_NGRAM = 5
RADIUS = 2
MOST = np.iinfo(np.uint8).max


class Tox21(Dataset):
    """Toxicity of 8014 molecules in twelve assays (Tox21 challenge, 2014; MoleculeNet, Wu et al.,
    2018), 7 to 26 of 100 labels missing.

    - ``nr_ar`` ... ``sr_p53``: one binary task for each assay (nuclear receptors and stress
      response), by the assay's name in lower case. Between 3 and 16 of 100 labels are 1.

    Molecules come as SMILES strings, and become vectors by

    - ``features="ngrams"``: how often each run of 1 to 5 characters occurs, as log(1 + count), the
      runs hashed (CRC-32) to ``dimensions`` numbers. Needs nothing, knows no chemistry;
    - ``features="morgan"``: which circular neighbourhoods up to radius 2 occur (ECFP4; Rogers &
      Hahn, 2010), as bits. Needs rdkit. A molecule that rdkit cannot read has all bits 0, and a
      remark counts these.

    The split is random by molecule: rows of one SMILES string (183 repeat another's) stay together.
    A split by scaffold, which MoleculeNet also has, keeps like molecules together, is harder, and
    is not offered: figures are not to be compared with those of scaffold splits.

    Args:
        root: folder of ``tox21.csv``, plain or compressed; None for ``$MTLRUN_DATA/tox21``, else
            ``data/tox21``.
        features: ``ngrams`` or ``morgan``.
        dimensions: numbers for each molecule.
        validation: share of all molecules to validate on.
        test: share of all molecules to test on.
        seed: of the split; not the run's, so that all runs see the same rows.
        carve_validation: whether to carve validation rows out of the training rows.

    Raises:
        UserError: the file is missing, damaged, or not of this layout; rdkit is not there.
    """

    def __init__(
        self,
        root: str | None = None,
        features: Features = "ngrams",
        dimensions: int = 2048,
        validation: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
        *,
        carve_validation: bool = True,
    ) -> None:
        if features not in get_args(Features):
            raise ValueError(f"features={features!r}: must be ngrams or morgan")
        if dimensions < 1:
            raise ValueError(f"dimensions={dimensions}: must be 1 or more")
        if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
            raise ValueError(
                f"validation={validation}, test={test}: shares of the molecules, between 0 and 1, "
                "that leave some to train on"
            )
        molecules, labels = read_file(find_root("tox21", root))
        if features == "ngrams":
            table = ngram_counts(molecules, dimensions)
        else:
            table, unread = morgan_bits(molecules, dimensions)
            if unread:
                self.remarks = [
                    f"tox21: rdkit cannot read {unread} of {len(molecules)} molecules; their "
                    "features are all 0."
                ]
        targets = dict(zip(TASKS, torch.from_numpy(labels.T.copy()), strict=True))
        everything = TensorSource(torch.from_numpy(table), targets)
        parts = _parts(molecules, validation if carve_validation else 0.0, test, seed)
        self.counts = features == "ngrams"
        self.splits = {split: {STREAM: everything.subset(rows)} for split, rows in parts.items()}
        self.streams = {STREAM: TASKS}
        self.input_shape = {STREAM: (dimensions,)}
        self.facts = {
            task: {
                "kind": "binary",
                "class_names": ["inactive", "active"],
                "positive_share": targets[task][parts["train"]].nanmean().item(),
            }
            for task in TASKS
        }

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """To float32, counts to log(1 + count). See :meth:`Dataset.transform`."""
        del stream, draws
        values = inputs.float()
        return values.log1p_() if self.counts else values, targets


def read_file(folder: Path) -> tuple[list[str], npt.NDArray[np.float32]]:
    """SMILES strings, and labels [rows, 12]: 0, 1, or NaN where missing.

    Raises:
        UserError: the file is missing; names the first line and column that cannot be read.
    """
    path = plain_or_gzip(folder, FILE)
    if path is None:
        raise UserError(_missing(folder))
    try:
        lines = list(csv.reader(read_bytes(path).decode().splitlines(), strict=True))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason}). Get it again.") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a table in CSV ({error}). Get it again.") from error
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    absent = [name for name in (*ASSAYS, "smiles") if name not in header]
    if absent:
        raise UserError(
            f"{path} has no column {', '.join(absent)} in its first line. Get the tox21.csv of "
            "DeepChem, which names them there."
        )
    if not rows:
        raise UserError(f"{path} has no molecules. Copy or download it again.")
    places = {name: header.index(name) for name in (*ASSAYS, "smiles")}
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}, line {number} has {len(row)} values, not {len(header)}.")
        for name in ASSAYS:
            if row[places[name]].strip() not in LABELS:
                raise UserError(
                    f"{path}, line {number}, column {name} has {row[places[name]]!r}: labels are "
                    "0, 1, or empty where missing."
                )
        if not row[places["smiles"]].strip():
            raise UserError(f"{path}, line {number} has no molecule in its column smiles.")
    labels = [[LABELS[row[places[name]].strip()] for name in ASSAYS] for row in rows]
    return [row[places["smiles"]].strip() for row in rows], np.array(labels, dtype=np.float32)


def ngram_counts(molecules: Sequence[str], dimensions: int) -> Table:
    """How often each run of 1 to 5 characters occurs, hashed: [molecules, dimensions], to 255."""
    counts = np.zeros((len(molecules), dimensions), dtype=np.uint8)
    hashed: dict[str, int] = {}
    for row, molecule in zip(counts, molecules, strict=True):
        places = []
        for length in range(1, LONGEST_NGRAM + 1):
            for start in range(len(molecule) - length + 1):
                ngram = molecule[start : start + length]
                if ngram not in hashed:
                    hashed[ngram] = crc32(ngram.encode()) % dimensions
                places.append(hashed[ngram])
        row[:] = np.bincount(places, minlength=dimensions).clip(max=MOST)
    return counts


def morgan_bits(molecules: Sequence[str], dimensions: int) -> tuple[Table, int]:
    """Morgan fingerprints, [molecules, dimensions] of 0 and 1, and how many could not be read.

    Raises:
        UserError: rdkit is not installed.
    """
    try:
        chemistry = importlib.import_module("rdkit.Chem")
        fingerprints = importlib.import_module("rdkit.Chem.rdFingerprintGenerator")
        importlib.import_module("rdkit.RDLogger").DisableLog("rdApp.*")  # a line for each failure
    except ImportError as error:
        raise UserError(
            "dataset.features=morgan needs rdkit, which is not installed. Install it (pip install "
            "rdkit), or use dataset.features=ngrams, which needs nothing."
        ) from error
    generator = fingerprints.GetMorganGenerator(radius=RADIUS, fpSize=dimensions)
    bits = np.zeros((len(molecules), dimensions), dtype=np.uint8)
    unread = 0
    for row, smiles in zip(bits, molecules, strict=True):
        molecule = chemistry.MolFromSmiles(smiles)
        if molecule is None:
            unread += 1
        else:
            row[:] = generator.GetFingerprintAsNumPy(molecule)
    return bits, unread


def _parts(
    molecules: Sequence[str], validation: float, test: float, seed: int
) -> dict[str, Tensor]:
    """The rows of each split; those of one molecule are in one split."""
    distinct, molecule_of = np.unique(np.array(molecules), return_inverse=True)
    kept, testing = carve(len(distinct), test, seed)
    parts = {"test": testing}
    if validation > 0:
        remaining, carved = carve(len(kept), validation / (1 - test), seed)
        parts["val"], kept = kept[carved], kept[remaining]
    parts["train"] = kept
    if any(len(part) == 0 for part in parts.values()):
        raise UserError(
            f"dataset.validation={validation} and dataset.test={test} of {len(distinct)} molecules "
            "leave a split empty. Use larger shares, or the whole file."
        )
    owner = torch.from_numpy(molecule_of)
    return {split: torch.isin(owner, part).nonzero().squeeze(1) for split, part in parts.items()}


def _missing(folder: Path) -> str:
    state = f"has no {FILE}" if folder.is_dir() else "does not exist"
    return (
        f"Tox21 is read from DeepChem's table, and the folder {folder} {state}. Get {FILE}.gz from "
        "deepchemdata.s3-us-west-1.amazonaws.com/datasets/tox21.csv.gz, and put it there, "
        "compressed or not; or name the folder that has it by dataset.root=FOLDER, or its parent "
        "by the environment variable MTLRUN_DATA (which then needs a folder tox21). It is read as "
        "it is: nothing has to be prepared."
    )
