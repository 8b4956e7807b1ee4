"""Census-Income (KDD): who earns, studied and married what, MMoE's benchmark."""

import csv
import io
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from mtlrun.data.base import (
    Dataset,
    NewInputs,
    Targets,
    TensorSource,
    carve,
    carved,
    check_share,
)
from mtlrun.data.files import find_root, opened, plain_or_gzip, read_bytes
from mtlrun.data.scaling import center_and_scale
from mtlrun.data.unknown import unknown_categories
from mtlrun.errors import UserError, did_you_mean

Categories = Literal["onehot", "codes"]
Codes = npt.NDArray[np.integer[Any]]


class Column(NamedTuple):
    """One column of a file: its distinct values, and for each row the place of its value."""

    levels: list[str]
    codes: Codes


Columns = dict[str, Column]
STREAM = "census_income"
FILES = {"train": "census-income.data", "test": "census-income.test"}

COLUMNS = (
    *("age", "class_of_worker", "industry_code", "occupation_code", "education"),
    *("wage_per_hour", "enrolled_in_education", "marital_status", "major_industry"),
    *("major_occupation", "race", "hispanic_origin", "sex", "labor_union_member"),
    *("reason_for_unemployment", "employment_status", "capital_gains", "capital_losses"),
    *("dividends", "tax_filer_status", "region_of_previous_residence"),
    *("state_of_previous_residence", "household_and_family_status", "household_summary"),
    *("instance_weight", "migration_msa", "migration_region", "migration_within_region"),
    *("same_house_one_year_ago", "previous_residence_in_sunbelt", "employer_size"),
    *("parents_present", "birthplace_of_father", "birthplace_of_mother", "birthplace"),
    *("citizenship", "own_business", "veterans_questionnaire", "veterans_benefits"),
    *("weeks_worked", "year", "income"),
)
AMOUNTS = ("wage_per_hour", "capital_gains", "capital_losses", "dividends")
NUMERIC = ("age", *AMOUNTS, "employer_size", "weeks_worked")
WEIGHT = "instance_weight"
INCOME = "income"
UNKNOWN = "?"
COLLEGE = (
    "Some college but no degree",
    "Associates degree-occup /vocational",
    "Associates degree-academic program",
    "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)",
    "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)
POSITIVE = {
    "income": ("income", ("50000+",)),
    "education": ("education", COLLEGE),
    "never_married": ("marital_status", ("Never married",)),
}
"""For each task its column and the values that count as 1."""

CLASS_NAMES = {
    "income": ["up to 50000", "above 50000"],
    "education": ["no college", "college"],
    "never_married": ["married once", "never married"],
}
GROUPS = {1: ("income", "never_married"), 2: ("education", "never_married")}
INCOMES = ("- 50000", "50000+")
OWN_TEST_SHARE = 1 / 3


class CensusIncome(Dataset):
    """The Census-Income (KDD) data of 1994 and 1995 (Lane & Kohavi, UCI), as MMoE groups its tasks
    (Ma et al., KDD 2018, section 6.3).

    - group 1: ``income``, whether above 50,000 dollars (6 in 100), and ``never_married``;
    - group 2: ``education``, whether the person went to college at all, and ``never_married``. The
      paper says "at least college" and no more.

    A column that is a target of the group is no input, whichever tasks a run picks; income is an
    input in group 2, and education in group 1. The instance weight is left out. Inputs are 7
    numbers, standardised by the training rows (amounts of money as log(1 + x), for they are very
    skewed), and 32 categories, among them the codes of industry and occupation. A category is coded
    by the training rows, from 1; 0 is ``?`` or one that they do not have. Household status and tax
    status, two of the inputs, all but give away who never married; so they do in published figures.

    The files are ``census-income.data`` (199,523 rows to train on) and ``census-income.test``
    (99,762). The paper validates on half of the test file; here validation rows are carved from the
    training rows. Where ``census-income.data`` is absent, the test file alone is split, two thirds
    to train on and one to test on, and a remark says so.

    Args:
        root: folder of the files, plain or compressed; None for ``$MTLRUN_DATA/census_income``,
            else ``data/census_income``.
        group: 1 or 2.
        categories: ``onehot`` gives the backbone one number for each category, ``codes`` the codes
            themselves, for ``backbone=tabular_mlp``. Codes are what is held in memory either way.
        validation: share of the training rows to carve out for validation.
        seed: of the splits; not the run's, so that all runs see the same rows.
        carve_validation: whether to carve at all.

    Raises:
        UserError: a file is missing, damaged, or not of this layout.
    """

    new_inputs = "tables"

    def __init__(
        self,
        root: str | None = None,
        group: int = 1,
        categories: Categories = "onehot",
        validation: float = 0.1,
        seed: int = 0,
        *,
        carve_validation: bool = True,
    ) -> None:
        if group not in GROUPS:
            raise ValueError(f"group={group}: MMoE's groups of tasks are 1 and 2")
        if categories not in get_args(Categories):
            raise ValueError(f"categories={categories!r}: must be onehot or codes")
        check_share("validation", validation)
        names = GROUPS[group]
        self.folder, self.group, self.seed = find_root("census_income", root), group, seed
        columns, parts = self._read(self.folder, seed)
        parts.update(carved(parts["train"], validation, seed, carve_validation))
        self.training = parts["train"]
        inputs, cardinalities = _inputs(columns, names, parts["train"])
        targets = {task: _target(columns, task) for task in names}
        everything = TensorSource(inputs, targets)
        self.splits = {split: {STREAM: everything.subset(rows)} for split, rows in parts.items()}
        self.streams = {STREAM: names}
        self.facts = {
            task: {
                "kind": "binary",
                "class_names": CLASS_NAMES[task],
                "positive_share": targets[task][parts["train"]].mean().item(),
            }
            for task in names
        }
        self.onehot = categories == "onehot"
        widths = torch.tensor(cardinalities) - 1  # 0 has no number of its own
        self.starts = widths.cumsum(0) - widths + len(NUMERIC)
        self.width = len(NUMERIC) + int(widths.sum())
        self.input_shape = {STREAM: (self.width if self.onehot else inputs.shape[1],)}
        if not self.onehot:
            self.input_kind = {STREAM: "columns"}
            facts = {"numeric": len(NUMERIC), "cardinalities": cardinalities}
            self.input_facts = {STREAM: {**facts, "text_length": 0, "vocabulary": 0}}

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """One number for each category, where they are wanted. See :meth:`Dataset.transform`."""
        del stream, draws
        if not self.onehot:
            return inputs, targets
        self.starts = self.starts.to(inputs.device)
        codes = inputs[:, len(NUMERIC) :].long()
        wide = inputs.new_zeros(len(inputs), self.width)
        wide[:, : len(NUMERIC)] = inputs[:, : len(NUMERIC)]
        known = (codes > 0).to(inputs.dtype)  # an unknown category writes 0 to its column's first
        wide.scatter_(1, self.starts + (codes - 1).clamp(min=0), known)
        return wide, targets

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """Rows of a file in the publisher's layout, or with a header line of column names.

        With a header line the columns may come in any order, and those that are no inputs may be
        left out. What targets and the instance weight hold is not looked at. See
        :meth:`Dataset.encode`.
        """
        del stream, column
        left_out = _left_out(GROUPS[self.group])
        new = _read_new(file, left_out)
        rows = len(next(iter(new.values())).codes)
        own, _ = self._read(self.folder, self.seed)
        known = len(own[WEIGHT].codes)
        joined = {name: _joined(own[name], new[name]) for name in own if name not in left_out}
        inputs, _ = _inputs(joined, GROUPS[self.group], self.training)
        remarks: list[str] = []
        for name, (levels, codes) in joined.items():
            if name not in NUMERIC:
                seen = codes[self.training.numpy()]
                remarks += unknown_categories(file, name, codes[known:], seen, levels)
        return NewInputs(TensorSource(inputs[known:], {}), range(1, rows + 1), remarks)

    def _read(self, folder: Path, seed: int) -> tuple[Columns, dict[str, Tensor]]:
        """All rows, and which of them are for training and test."""
        found = {split: plain_or_gzip(folder, name) for split, name in FILES.items()}
        if found["test"] is None:
            raise UserError(_missing(folder))
        testing = read_columns(found["test"])
        rows = len(testing[WEIGHT].codes)
        if found["train"] is None:
            kept, carved = carve(rows, OWN_TEST_SHARE, seed)
            self.remarks = [
                f"census_income: {folder} has no {FILES['train']}, so {FILES['test']} alone is "
                f"split, {len(kept)} of its rows to train on and {len(carved)} to test on: not the "
                "published split."
            ]
            return testing, {"train": kept, "test": carved}
        training = read_columns(found["train"])
        train_rows = len(training[WEIGHT].codes)
        numbers = torch.arange(train_rows + rows)
        joined = {name: _joined(training[name], testing[name]) for name in COLUMNS}
        return joined, {"train": numbers[:train_rows], "test": numbers[train_rows:]}


def read_columns(
    path: Path, names: Sequence[str] = COLUMNS, skipped: int = 0, unread: Collection[str] = ()
) -> Columns:
    """The columns of a file by name.

    Args:
        path: the file, plain or compressed.
        names: of its columns.
        skipped: lines before its first row.
        unread: columns whose values may be anything, and are not given.

    Raises:
        UserError: names the first line that has not a value for each column (the publisher's have
            42), or the first value that cannot be.
    """
    content = read_bytes(path)
    lines = content.rstrip().split(b"\n")
    for number, line in enumerate(lines, start=1):
        values = line.count(b",") + 1
        if values != len(names):
            each = "the first" if skipped else "each line of Census-Income (KDD)"
            raise UserError(
                f"{path}, line {number} has {values} value(s), and {each} has {len(names)}. Copy "
                "or download it again."
            )
        if not line.isascii():
            raise UserError(f"{path}, line {number} is not plain ASCII text. Get the file again.")
    table = pd.read_csv(
        io.BytesIO(content),
        header=None,
        skiprows=skipped,
        names=list(names),
        dtype=object,  # strings, and half the time of dtype=str
        na_filter=False,
        quoting=csv.QUOTE_NONE,
    )
    columns = {}
    for name in names:
        if name in unread:
            continue
        codes, found = pd.factorize(table[name])
        levels = [level.strip() for level in found]
        if name == INCOME:
            levels = [level.removesuffix(".") for level in levels]
        columns[name] = _merged(levels, codes)
        _check(columns[name], name, str(path), names, skipped)
    return columns


def _read_new(path: Path, unread: Collection[str]) -> Columns:
    """The columns of a file of new rows, see :meth:`CensusIncome.encode`."""
    with opened(path) as file:
        first = [cell.strip() for cell in file.readline().decode("ascii", "replace").split(",")]
    if not set(first) & set(COLUMNS):
        return read_columns(path, unread=unread)
    for name in first:
        if name not in COLUMNS:
            raise UserError(f"{path}, line 1: no column {name}. {did_you_mean(name, COLUMNS)}")
    lacking = [name for name in COLUMNS if name not in first and name not in unread]
    if lacking or len(set(first)) < len(first):
        wrong = f"lacks {', '.join(lacking)}" if lacking else "names a column twice"
        raise UserError(f"{path}, line 1: the header {wrong}.")
    return read_columns(path, first, skipped=1, unread=unread)


def _merged(levels: Sequence[str], codes: Codes) -> Column:
    """A column with each level once, and these in order."""
    distinct = sorted(set(levels))
    places = {level: place for place, level in enumerate(distinct)}
    return Column(distinct, np.array([places[level] for level in levels])[codes])


def _joined(first: Column, second: Column) -> Column:
    """The rows of one column after those of another."""
    moved = second.codes + len(first.levels)
    return _merged([*first.levels, *second.levels], np.concatenate([first.codes, moved]))


def _check(column: Column, name: str, path: str, names: Sequence[str], skipped: int) -> None:
    """Refuse values that a column cannot have."""
    for code, level in enumerate(column.levels):
        if name == INCOME:
            fits = level in INCOMES
        else:
            fits = _is_number(level) if name in NUMERIC else level != ""
        if not fits:
            line = int((column.codes == code).argmax()) + 1 + skipped
            kinds = {INCOME: " or ".join(INCOMES)} | dict.fromkeys(NUMERIC, "a number, 0 or more,")
            expected = kinds.get(name, "a category")
            raise UserError(
                f"{path}, line {line}, column {names.index(name) + 1} ({name}) has {level!r} "
                f"where {expected} is expected. Copy or download it again."
            )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) >= 0
    except ValueError:
        return False


def _inputs(columns: Columns, targets: Sequence[str], training: Tensor) -> tuple[Tensor, list[int]]:
    """Numbers, then codes, float32 [rows, 7 + categories]; and how many codes each category has."""
    left_out = _left_out(targets)
    numbers = torch.stack([_numbers(columns[name], name) for name in NUMERIC], dim=1)
    center, scale = center_and_scale(numbers[training])
    blocks = [((numbers - center) / scale).float()]
    cardinalities = []
    for name, column in columns.items():
        if name in left_out or name in NUMERIC:
            continue
        seen = np.unique(column.codes[training.numpy()])
        known = [code for code in seen if column.levels[code] != UNKNOWN]
        lookup = np.zeros(len(column.levels), dtype=np.float32)
        lookup[known] = np.arange(1, len(known) + 1)
        blocks.append(torch.from_numpy(lookup[column.codes]).unsqueeze(1))
        cardinalities.append(len(known) + 1)
    return torch.cat(blocks, dim=1), cardinalities


def _left_out(targets: Sequence[str]) -> set[str]:
    """The columns that are no inputs where these are the targets."""
    return {WEIGHT, *(POSITIVE[task][0] for task in targets)}


def _numbers(column: Column, name: str) -> Tensor:
    """A numeric column's values, float64 [rows]; see :class:`CensusIncome` on amounts."""
    values = np.array([float(level) for level in column.levels])
    values = np.log1p(values) if name in AMOUNTS else values
    return torch.from_numpy(values[column.codes])


def _target(columns: Columns, task: str) -> Tensor:
    """Float32 [rows], 0 or 1."""
    name, positive = POSITIVE[task]
    column = columns[name]
    counts = np.array([level in positive for level in column.levels], dtype=np.float32)
    return torch.from_numpy(counts[column.codes])


def _missing(folder: Path) -> str:
    state = "has no census-income.test" if folder.is_dir() else "does not exist"
    return (
        f"Census-Income (KDD) is read from the two files of its publisher, and the folder {folder} "
        f"{state}. Get {' and '.join(FILES.values())} from the UCI Machine Learning Repository "
        "(archive.ics.uci.edu, data set 117), and put them there, compressed (.gz) or not; or name "
        "the folder that has them by dataset.root=FOLDER, or its parent by the environment "
        "variable MTLRUN_DATA (which then needs a folder census_income). They are read as they "
        "are: nothing has to be prepared."
    )
