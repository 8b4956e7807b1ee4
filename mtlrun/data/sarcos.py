"""SARCOS: the torques of a robot arm's seven joints."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from torch import Tensor

from mtlrun.data.base import Dataset, TensorSource, carve, carved, check_share
from mtlrun.data.files import find_root
from mtlrun.data.scaling import center_and_scale
from mtlrun.errors import UserError

Table = npt.NDArray[np.float64]

STREAM = "sarcos"
INPUTS, TORQUES = 21, 7
TASKS = tuple(f"torque_{joint}" for joint in range(1, TORQUES + 1))
FILES = {"train": "sarcos_inv", "test": "sarcos_inv_test"}
OWN_TEST_SHARE = 0.1
DAMAGE = (
    *(MatReadError, ValueError, TypeError, KeyError, IndexError, OverflowError),
    *(EOFError, OSError, NotImplementedError, MemoryError, zlib.error),
)
"""What scipy raises for a file that is damaged, cut off or no .mat file."""


class Sarcos(Dataset):
    """The inverse dynamics of a SARCOS robot arm (Vijayakumar & Schaal, ICML 2000; the files are
    those of Rasmussen & Williams, 2006).

    - ``torque_1`` to ``torque_7``: the torque of each joint, regressions in the files' units, which
      differ in scale; losses are standardised by the training rows. 1 - ``r2`` is the normalised
      error (nMSE) of the literature.

    Inputs are the joints' 7 positions, 7 velocities and 7 accelerations, standardised by the
    training rows.

    The files are ``sarcos_inv.mat`` (44,484 rows to train on) and ``sarcos_inv_test.mat`` (4,449).
    Nearly all of the test rows are among the training rows, too, number by number. Such rows are
    left out of training, and a remark counts them; ``keep_overlap`` keeps them, as most published
    figures do. Where ``sarcos_inv.mat`` is absent, the test file alone is split, a tenth to test
    on, and a remark says so. Rows are samples of a few long movements, so neighbours in time are
    alike and any random split is easy.

    Args:
        root: folder of the files; None for ``$MTLRUN_DATA/sarcos``, else ``data/sarcos``.
        keep_overlap: whether to train on rows that are tested on.
        validation: share of the training rows to carve out for validation.
        seed: of the splits; not the run's, so that all runs see the same rows.
        carve_validation: whether to carve at all.

    Raises:
        UserError: a file is missing, damaged, or not of this layout.
    """

    def __init__(
        self,
        root: str | None = None,
        keep_overlap: bool = False,
        validation: float = 0.1,
        seed: int = 0,
        *,
        carve_validation: bool = True,
    ) -> None:
        check_share("validation", validation)
        folder = find_root("sarcos", root)
        rows, parts, remark = _split(folder, keep_overlap, seed)
        self.remarks = [f"sarcos: {remark}"]
        parts.update(carved(parts["train"], validation, seed, carve_validation))
        center, scale = center_and_scale(rows[parts["train"]])
        inputs = ((rows - center) / scale)[:, :INPUTS].float()
        torques = rows[:, INPUTS:].float().unbind(1)
        everything = TensorSource(inputs, dict(zip(TASKS, torques, strict=True)))
        self.splits = {split: {STREAM: everything.subset(part)} for split, part in parts.items()}
        self.streams = {STREAM: TASKS}
        self.input_shape = {STREAM: (INPUTS,)}
        self.facts = {
            task: {
                "kind": "regression",
                "center": center[column].item(),
                "scale": scale[column].item(),
            }
            for column, task in enumerate(TASKS, start=INPUTS)
        }


def _split(folder: Path, keep_overlap: bool, seed: int) -> tuple[Tensor, dict[str, Tensor], str]:
    """All rows, float64 [rows, 28]; which of them are for training and test; and a remark."""
    paths = {split: folder / f"{name}.mat" for split, name in FILES.items()}
    if not paths["test"].is_file():
        raise UserError(_missing(folder))
    testing = read_table(paths["test"], FILES["test"])
    if not paths["train"].is_file():
        kept, carved = carve(len(testing), OWN_TEST_SHARE, seed)
        remark = (
            f"{folder} has no {FILES['train']}.mat, so {FILES['test']}.mat alone is split, "
            f"{len(kept)} of its rows to train on and {len(carved)} to test on: not the published "
            "split. The published test rows are nearly all in the published training file, too."
        )
        return torch.from_numpy(testing), {"train": kept, "test": carved}, remark
    training = read_table(paths["train"], FILES["train"])
    tested = {row.tobytes() for row in testing}
    shared = np.array([row.tobytes() in tested for row in training])
    rows = torch.from_numpy(np.concatenate([training, testing]))
    numbers = torch.arange(len(rows))
    known = f"{shared.sum()} of {len(training)} training rows are test rows, too"
    if keep_overlap:
        used, remark = numbers[: len(training)], f"{known}, and are trained on (keep_overlap)."
    else:
        used = numbers[: len(training)][torch.from_numpy(~shared)]
        remark = f"{known}, and are left out of training."
    if not len(used):
        raise UserError(f"{folder}: all training rows are test rows, so there is none to train on.")
    return rows, {"train": used, "test": numbers[len(training) :]}, remark


def read_table(path: Path, name: str) -> Table:
    """The array of a .mat file, float64 [rows, 28].

    Args:
        path: the file.
        name: of the array.

    Raises:
        UserError: the file is damaged, has no such array, or one of other columns or with NaN.
    """
    try:
        found: dict[str, Any] = loadmat(str(path), variable_names=[name])
    except DAMAGE as error:
        raise UserError(
            f"{path} cannot be read as a .mat file ({error}). Copy or download it again."
        ) from error
    table = found.get(name)
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "fiu":
        raise UserError(f"{path} has no array of numbers {name}. Get the file of that name again.")
    if table.ndim != 2 or table.shape[1] != INPUTS + TORQUES or len(table) < 2:
        raise UserError(
            f"{path}: {name} is of {' x '.join(map(str, table.shape))}, and must have 2 rows or "
            f"more of {INPUTS + TORQUES} columns. Get the file again."
        )
    values = np.ascontiguousarray(table, dtype=np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0] + 1
        raise UserError(f"{path}: {name} has no number in row {row}, column {column}.")
    return values


def _missing(folder: Path) -> str:
    state = f"has no {FILES['test']}.mat" if folder.is_dir() else "does not exist"
    return (
        f"SARCOS is read from the two files of its publisher, and the folder {folder} {state}. Get "
        f"{' and '.join(f'{name}.mat' for name in FILES.values())} from gaussianprocess.org/gpml/"
        "data, and put them there; or name the folder that has them by dataset.root=FOLDER, or its "
        "parent by the environment variable MTLRUN_DATA (which then needs a folder sarcos). They "
        "are read as they are: nothing has to be prepared."
    )
