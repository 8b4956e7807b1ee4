"""QM9: eleven properties of small molecules, from where their atoms are."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mtlrun.data.base import Dataset, TensorSource
from mtlrun.data.files import find_root, plain_or_gzip, read_bytes
from mtlrun.data.scaling import center_and_scale
from mtlrun.errors import UserError
from mtlrun.randomness import generator

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

STREAM = "qm9"
STRUCTURES, PROPERTIES, EXCLUDED = "gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt"
CHARGES = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
MOST_ATOMS = 29
BOHR = 0.529177210903  # angstroms
HARTREE, KCAL_PER_MOL = 27211.386245988, 43.364104241  # milli-electronvolts
COLUMNS = {
    **{"mu": 1.0, "alpha": 1.0, "homo": HARTREE, "lumo": HARTREE, "r2": 1.0, "zpve": HARTREE},
    **dict.fromkeys(("u0_atom", "u298_atom", "h298_atom", "g298_atom"), KCAL_PER_MOL),
    "cv": 1.0,
}
"""For each task, which is a column of the published table, what one of its units is in ours."""

HEAD_LINES, TAIL_LINES = 9, 1
ATOM = np.dtype([("position", "S10", 3), ("gap", "S1"), ("symbol", "S3")])
"""An atom's line in a V2000 block, up to its symbol."""


class QM9(Dataset):
    """Molecules of up to 9 heavy atoms (Ramakrishnan, Dral, Rupp & von Lilienfeld, 2014).

    Regressions, standardised in the loss by the training rows: ``mu`` (dipole moment, debye),
    ``alpha`` (polarisability, bohr^3), ``homo`` and ``lumo`` (energies of orbitals, meV), ``r2``
    (spatial extent, bohr^2), ``zpve`` (zero-point energy, meV), ``u0_atom``, ``u298_atom``,
    ``h298_atom`` and ``g298_atom`` (atomisation energies, enthalpy and free energy, meV), ``cv``
    (heat capacity, cal / (mol K)). These are the eleven of the multi-task literature (Navon et al.,
    ICML 2022), in the units of its tables of mean absolute errors.

    The inputs are *not* the literature's. There a graph network reads atoms and bonds; mtlrun has
    none. Here a molecule is its sorted Coulomb matrix (Rupp et al., 2012; Montavon et al., 2012),
    padded to 29 atoms: 435 numbers, standardised by the training rows, for ``backbone=mlp``.
    Compare methods with each other on it, not with published figures.

    The split is random: 110,000 rows to train on, 10,000 to validate on, and the rest, 10,831 of
    the whole files, to test on. The 3,054 molecules of ``uncharacterized.txt``, whose structure is
    not sure, are left out. Reading the whole files takes some time at each start.

    Args:
        root: folder of ``gdb9.sdf``, ``gdb9.sdf.csv`` and ``uncharacterized.txt``, plain or
            compressed; None for ``$MTLRUN_DATA/qm9``, else ``data/qm9``.
        train_rows: molecules to train on.
        validation_rows: molecules to validate on; they train, too, where none are carved out.
        seed: of the split; not the run's, so that all runs see the same rows.
        carve_validation: whether to carve at all.

    Raises:
        UserError: a file is missing, damaged, or not of this layout; there are too few molecules.
    """

    def __init__(
        self,
        root: str | None = None,
        train_rows: int = 110000,
        validation_rows: int = 10000,
        seed: int = 0,
        *,
        carve_validation: bool = True,
    ) -> None:
        for name, rows in (("train_rows", train_rows), ("validation_rows", validation_rows)):
            if rows < 1:
                raise ValueError(f"{name}={rows}: must be 1 or more")
        properties, molecules = read(find_root("qm9", root))
        used = train_rows + validation_rows
        if used >= len(properties):
            raise UserError(
                f"dataset.train_rows={train_rows} and dataset.validation_rows={validation_rows} of "
                f"{len(properties)} molecules leave none to test on. Use less of them."
            )
        draws = generator(seed, STREAM, len(properties))
        order = torch.randperm(len(properties), generator=draws)
        sizes = [train_rows, validation_rows] if carve_validation else [used]
        names = ["train", "val", "test"] if carve_validation else ["train", "test"]
        parts = dict(zip(names, order.split([*sizes, len(order) - used]), strict=True))
        features = torch.from_numpy(coulomb_matrices(molecules))
        center, scale = center_and_scale(features[parts["train"]])
        features.sub_(center.float()).div_(scale.float())
        values = torch.from_numpy(properties)
        targets = dict(zip(COLUMNS, values.float().unbind(1), strict=True))
        everything = TensorSource(features, targets)
        self.splits = {split: {STREAM: everything.subset(part)} for split, part in parts.items()}
        self.streams = {STREAM: tuple(COLUMNS)}
        self.input_shape = {STREAM: (features.shape[1],)}
        centers, scales = center_and_scale(values[parts["train"]])
        self.facts = {
            task: {"kind": "regression", "center": middle, "scale": spread}
            for task, middle, spread in zip(COLUMNS, centers.tolist(), scales.tolist(), strict=True)
        }


class Molecules(NamedTuple):
    """Atoms of many molecules, one after the other.

    Attributes:
        atoms: how many each molecule has, [molecules].
        charges: nuclear charges, [all atoms].
        positions: in angstroms, [all atoms, 3].
    """

    atoms: Integers
    charges: Integers
    positions: Floats


def read(folder: Path) -> tuple[Floats, Molecules]:
    """Properties [molecules, 11], in our units, and structures; without those to be left out.

    Raises:
        UserError: a file is missing, damaged, or does not go with the others.
    """
    found = [plain_or_gzip(folder, name) for name in (STRUCTURES, PROPERTIES, EXCLUDED)]
    structures, properties, excluded = found
    if structures is None or properties is None or excluded is None:
        raise UserError(_missing(folder))
    names, values = read_properties(properties)
    left_out = read_excluded(excluded)
    kept = np.array([name not in left_out for name in names])
    return values[kept], read_structures(structures, names, kept)


def read_properties(path: Path) -> tuple[list[str], Floats]:
    """The names of all molecules (``gdb_1``, ...) and their properties, [molecules, 11].

    Raises:
        UserError: names the first line and column that cannot be read.
    """
    lines = csv.reader(_text(path).splitlines())
    header = next(lines, [])
    absent = [name for name in ("mol_id", *COLUMNS) if name not in header]
    if absent:
        raise UserError(f"{path} has no column {', '.join(absent)} in its first line.")
    places = {name: header.index(name) for name in ("mol_id", *COLUMNS)}
    names, rows = [], []
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UserError(f"{path}, line {number} has {len(line)} values, not {len(header)}.")
        names.append(line[places["mol_id"]])
        try:
            rows.append([float(line[places[name]]) for name in COLUMNS])
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}.") from error
    values = np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS)) * [*COLUMNS.values()]
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        raise UserError(
            f"{path}, line {row + 2}, column {[*COLUMNS][column]} has no finite number."
        )
    return names, values


def read_excluded(path: Path) -> set[str]:
    """The names of the molecules to be left out: lines that start with a number, between a head of
    nine lines and a last one.

    Raises:
        UserError: names the first line that does not.
    """
    lines = _text(path).splitlines()
    found = set()
    for number, line in enumerate(lines[HEAD_LINES:-TAIL_LINES], start=HEAD_LINES + 1):
        word = line.split()[0] if line.split() else ""
        if not word.isdecimal():
            raise UserError(f"{path}, line {number} does not start with a molecule's number.")
        found.add(f"gdb_{int(word)}")
    if not found:
        raise UserError(f"{path} names no molecule. Copy or download it again.")
    return found


def read_structures(path: Path, names: Sequence[str], kept: npt.NDArray[np.bool_]) -> Molecules:
    """The atoms of the molecules that are kept, from an SDF file of V2000 blocks.

    Args:
        path: the file.
        names: of all its molecules, in order; each is the first line of its block.
        kept: which of them are wanted.

    Raises:
        UserError: names the first molecule that cannot be read or is not the expected one.
    """
    blocks = _text(path).split("$$$$\n")
    if blocks[-1].strip():
        raise UserError(f"{path} ends within a molecule: it is cut off. Copy or download it again.")
    if len(blocks) - 1 != len(names):
        raise UserError(
            f"{path} has {len(blocks) - 1} molecules, and {PROPERTIES} {len(names)}: they do not "
            "belong together. Copy or download both again."
        )
    atoms: list[int] = []
    lines: list[str] = []
    for block, name, wanted in zip(blocks, names, kept, strict=False):
        if not wanted:
            continue
        first, _, _, counts, *rest = *block.split("\n"), "", "", "", ""
        number = counts[:3].strip()
        if first.strip() != name or "V2000" not in counts or not number.isdecimal():
            raise UserError(
                f"{path}: where molecule {name} should be is {first.strip()[:40]!r}, or no V2000 "
                "block. Copy or download the file again."
            )
        own = rest[: int(number)]
        if not 0 < len(own) <= MOST_ATOMS or not all(
            line[31:34].strip() in CHARGES for line in own
        ):
            raise UserError(
                f"{path}, molecule {name}: expected 1 to {MOST_ATOMS} atoms of "
                f"{', '.join(CHARGES)}. Copy or download the file again."
            )
        atoms.append(int(number))
        lines.extend(line[:34].ljust(34) for line in own)
    table = np.frombuffer("".join(lines).encode(), dtype=ATOM)
    try:
        positions = table["position"].astype(np.float64)
    except ValueError as error:
        raise UserError(f"{path} has a position that is no number ({error}).") from error
    symbols, place = np.unique(table["symbol"], return_inverse=True)
    charges = np.array([CHARGES[symbol.decode().strip()] for symbol in symbols])[place]
    return Molecules(np.array(atoms), charges, positions)


def coulomb_matrices(molecules: Molecules) -> npt.NDArray[np.float32]:
    """The upper triangles of sorted, padded Coulomb matrices, row by row: [molecules, 435].

    Entries are 0.5 Z_i^2.4 on the diagonal and Z_i Z_j / |R_i - R_j|, in atomic units, off it; rows
    and columns are sorted by the rows' norms, the largest first.
    """
    rows, columns = np.triu_indices(MOST_ATOMS)
    found = np.zeros((len(molecules.atoms), len(rows)), dtype=np.float32)
    ends = molecules.atoms.cumsum()
    for size in np.unique(molecules.atoms):
        chosen = np.flatnonzero(molecules.atoms == size)
        places = ends[chosen, None] - size + np.arange(size)  # [chosen, size]
        charges = molecules.charges[places].astype(np.float64)
        positions = molecules.positions[places] / BOHR
        apart = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
        apart[:, range(size), range(size)] = 1
        if (apart == 0).any():
            raise UserError(
                "qm9: two atoms of a molecule are in the same place. Get gdb9.sdf again."
            )
        matrix = charges[:, :, None] * charges[:, None] / apart
        matrix[:, range(size), range(size)] = 0.5 * charges**2.4
        order = np.argsort(-np.linalg.norm(matrix, axis=-1), axis=-1, kind="stable")
        matrix = np.take_along_axis(matrix, order[:, :, None], axis=1)
        matrix = np.take_along_axis(matrix, order[:, None], axis=2)
        inside = columns < size  # rows are never larger than columns
        found[np.ix_(chosen, inside)] = matrix[:, rows[inside], columns[inside]]
    return found


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("ascii").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not plain ASCII text. Copy or download it again.") from error


def _missing(folder: Path) -> str:
    names = (STRUCTURES, PROPERTIES, EXCLUDED)
    absent = [name for name in names if plain_or_gzip(folder, name) is None]
    state = f"lacks {', '.join(absent)}" if folder.is_dir() else "does not exist"
    return (
        f"QM9 is read from three published files, and the folder {folder} {state}. Get "
        f"{STRUCTURES} and {PROPERTIES} (qm9.zip of MoleculeNet, deepchem.io) and {EXCLUDED} "
        "(figshare.com, file 3195404), and put them there; or name the folder that has them by "
        "dataset.root=FOLDER, or its parent by the environment variable MTLRUN_DATA (which then "
        "needs a folder qm9). They are read as they are: nothing has to be prepared."
    )
