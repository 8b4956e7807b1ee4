from pathlib import Path

import numpy as np
import pytest
import torch

from mtlrun.data.qm9 import (
    BOHR,
    CHARGES,
    COLUMNS,
    MOST_ATOMS,
    QM9,
    Molecules,
    coulomb_matrices,
    read_structures,
)
from mtlrun.errors import UserError

STREAM = "qm9"
HEADER = (
    "mol_id,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv,"
    "u0_atom,u298_atom,h298_atom,g298_atom"
)
WATER = [("O", 0.0, 0.0, 0.0), ("H", 0.0, 0.0, 0.96), ("H", 0.93, 0.0, -0.24)]
MOLECULES = 12


def atoms_of(number: int) -> list[tuple[str, float, float, float]]:
    draws = np.random.default_rng(number)
    symbols = draws.choice(list(CHARGES), size=number % 6 + 1)
    return [(symbol, *draws.normal(scale=2, size=3).round(4)) for symbol in symbols]


def block(name: str, atoms: list[tuple[str, float, float, float]]) -> str:
    """A molecule as in the published gdb9.sdf; its bonds are not read."""
    lines = [
        name,
        "  -OEChem-03231823243D",
        "",
        f"{len(atoms):3d}  1  0     0  0  0  0  0  0999 V2000",
    ]
    for symbol, *place in atoms:
        position = "".join(f"{value:10.4f}" for value in place)
        lines.append(f"{position} {symbol:<3} 0  0  0  0  0  0  0  0  0  0  0  0")
    return "\n".join([*lines, "  1  2  1  0  0  0  0", "M  END", "$$$$", ""])


def properties(number: int) -> str:
    return ",".join([f"gdb_{number}", *(str(number + column / 32) for column in range(19))])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 molecules, of which number 3 and 7 are to be left out; the first is water."""
    numbers = range(1, MOLECULES + 1)
    structures = [block(f"gdb_{n}", WATER if n == 1 else atoms_of(n)) for n in numbers]
    (tmp_path / "gdb9.sdf").write_text("".join(structures))
    (tmp_path / "gdb9.sdf.csv").write_text("\n".join([HEADER, *map(properties, numbers)]) + "\n")
    head = [f"{line} words" for line in "abcdefghi"]
    listed = ["     3  CC   CC", "     7  CO   OC", "2 compounds"]
    (tmp_path / "uncharacterized.txt").write_text("\n".join([*head, *listed]) + "\n")
    return tmp_path


def coulomb(atoms: list[tuple[str, float, float, float]]) -> np.ndarray:
    """The definition, entry by entry."""
    matrix = np.zeros((MOST_ATOMS, MOST_ATOMS))
    for i, (one, *here) in enumerate(atoms):
        for j, (other, *there) in enumerate(atoms):
            distance = np.linalg.norm(np.subtract(here, there)) / BOHR
            product = CHARGES[one] * CHARGES[other]
            matrix[i, j] = 0.5 * CHARGES[one] ** 2.4 if i == j else product / distance
    order = np.argsort(-np.linalg.norm(matrix, axis=1), kind="stable")
    return matrix[order][:, order][np.triu_indices(MOST_ATOMS)]


def rows_by_number(dataset: QM9) -> dict[int, torch.Tensor]:
    """Raw inputs, by the molecule's number, which its dipole moment (column 3 of 32) tells."""
    found = {}
    for sources in dataset.splits.values():
        inputs, targets = sources[STREAM].rows(torch.arange(len(sources[STREAM])))
        for row, dipole in zip(inputs, targets["mu"], strict=True):
            found[round(dipole.item() - 3 / 32)] = row
    return found


def test_inputs_are_standardised_coulomb_matrices(folder: Path) -> None:
    dataset = QM9(str(folder), 6, 2)
    assert dataset.input_shape == {STREAM: (435,)}
    rows = rows_by_number(dataset)
    assert sorted(rows) == [1, 2, 4, 5, 6, 8, 9, 10, 11, 12]
    expected = {n: coulomb(WATER if n == 1 else atoms_of(n)) for n in rows}
    training = [
        round(dipole.item() - 3 / 32) for dipole in dataset.splits["train"][STREAM].targets["mu"]
    ]
    seen = np.stack([expected[number] for number in training])
    scale = np.where(seen.std(0) > 0, seen.std(0), 1)
    for number, row in rows.items():
        standard = (expected[number] - seen.mean(0)) / scale
        assert row.numpy() == pytest.approx(standard, rel=1e-4, abs=1e-3)


def test_water_in_closed_form() -> None:
    """Oxygen first, 0.5 * 8^2.4 = 73.5167; then both hydrogens, each at 0.96 angstroms."""
    atoms = [("H", 0.0, 0.0, 0.96), ("O", 0.0, 0.0, 0.0), ("H", 0.96, 0.0, 0.0)]
    charges = np.array([CHARGES[symbol] for symbol, *_ in atoms])
    positions = np.array([place for _, *place in atoms])
    (triangle,) = coulomb_matrices(Molecules(np.array([3]), charges, positions))
    bond = 0.96 / BOHR
    assert triangle[:4] == pytest.approx([73.5167, 8 / bond, 8 / bond, 0], abs=1e-4)
    second = triangle[MOST_ATOMS : MOST_ATOMS + 3]
    assert second == pytest.approx([0.5, 1 / (2**0.5 * bond), 0], abs=1e-6)
    assert triangle[2 * MOST_ATOMS - 1] == 0.5
    assert np.count_nonzero(triangle) == 6


def test_targets_are_in_the_literatures_units(folder: Path) -> None:
    dataset = QM9(str(folder), 6, 2)
    places = {name: column for column, name in enumerate(HEADER.split(",")[1:])}
    test = dataset.splits["test"][STREAM].targets
    numbers = (test["mu"] - 3 / 32).round()
    for task, unit in {"alpha": 1, "homo": 27211.386, "u0_atom": 43.36410, "cv": 1}.items():
        expected = unit * (numbers + places[task] / 32)
        torch.testing.assert_close(test[task], expected, rtol=1e-6, atol=1e-4)
    assert dataset.streams == {STREAM: tuple(COLUMNS)}
    assert len(COLUMNS) == 11
    train = dataset.splits["train"][STREAM].targets["homo"].double()
    assert dataset.facts["homo"]["center"] == pytest.approx(train.mean().item(), rel=1e-6)
    assert dataset.facts["homo"]["scale"] == pytest.approx(train.std(correction=0).item(), rel=1e-6)


def test_splits_and_the_seed(folder: Path) -> None:
    def parts(**settings):
        dataset = QM9(str(folder), 5, 3, **settings)
        return {s: sources[STREAM].targets["mu"].tolist() for s, sources in dataset.splits.items()}

    first, other, whole = parts(), parts(seed=1), parts(carve_validation=False)
    assert {split: len(rows) for split, rows in first.items()} == {"train": 5, "val": 3, "test": 2}
    assert first == parts()
    assert first != other
    assert whole == {"train": first["train"] + first["val"], "test": first["test"]}
    with pytest.raises(UserError, match="of 10 molecules leave none to test on"):
        QM9(str(folder), 8, 2)


def test_files_may_be_compressed_and_have_windows_line_ends(folder: Path) -> None:
    path = folder / "gdb9.sdf"
    plain = read_structures(path, [f"gdb_{n + 1}" for n in range(12)], np.ones(12, dtype=bool))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    again = read_structures(path, [f"gdb_{n + 1}" for n in range(12)], np.ones(12, dtype=bool))
    for one, other in zip(plain, again, strict=True):
        assert np.array_equal(one, other)
    assert plain.charges[:3].tolist() == [8, 1, 1]
    assert plain.positions[2].tolist() == [0.93, 0.0, -0.24]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("gdb9.sdf", lambda text: text[:-20], "ends within a molecule"),
        ("gdb9.sdf", lambda text: text.replace("gdb_5\n", "gdb_6\n"), "molecule gdb_5 should be"),
        ("gdb9.sdf", lambda text: text.replace("V2000", "V3000"), "no V2000 block"),
        ("gdb9.sdf", lambda text: text.replace(" O  ", " Xe ", 1), "gdb_1: expected 1 to 29 atoms"),
        ("gdb9.sdf", lambda text: text.replace("0.9600", "0.9x00", 1), "position that is no num"),
        ("gdb9.sdf", lambda text: text + block("gdb_13", WATER), "13 molecules, and .* 12: they"),
        ("gdb9.sdf", lambda text: text.replace("0.9600", "0.0000"), "in the same place"),
        ("gdb9.sdf", lambda text: "ä" + text, "is not plain ASCII"),
        ("gdb9.sdf.csv", lambda text: text.replace(",cv", ",heat"), "has no column cv"),
        ("gdb9.sdf.csv", lambda text: text.replace("gdb_2,", "gdb_2,1,"), "line 3 has 21 values"),
        (
            "gdb9.sdf.csv",
            lambda text: text.replace(",2.09375", ",two"),
            "line 3: could not convert",
        ),
        ("gdb9.sdf.csv", lambda text: text.replace(",2.09375", ",nan"), "line 3, column mu has no"),
        ("uncharacterized.txt", lambda text: text.replace("  3", "CC"), "line 10 does not start"),
        ("uncharacterized.txt", lambda text: "", "names no molecule"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, damage, message: str) -> None:
    path = folder / name
    path.write_text(damage(path.read_text()), encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        QM9(str(folder), 6, 2)
    assert name in str(caught.value)


def test_a_missing_file_says_what_goes_where(folder: Path) -> None:
    (folder / "uncharacterized.txt").unlink()
    with pytest.raises(UserError, match=r"lacks uncharacterized\.txt\. Get .*dataset\.root="):
        QM9(str(folder))
    with pytest.raises(UserError, match="nowhere does not exist"):
        QM9(str(folder / "nowhere"))
    with pytest.raises(ValueError, match=r"^train_rows=0: must be 1 or more"):
        QM9(str(folder), 0)
