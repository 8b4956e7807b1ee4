"""A table of the user's own as a dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlrun.data.base import Dataset, NewInputs, Targets, TensorSource
from mtlrun.data.table.columns import Roles, input_roles
from mtlrun.data.table.further import Recipe
from mtlrun.data.table.inputs import encoded
from mtlrun.data.table.names import Names, check_choice, check_uses, names_of
from mtlrun.data.table.reading import ABSENT, Array, Paths, Sheet, read_sheet
from mtlrun.data.table.remarks import remarks_of
from mtlrun.data.table.splits import SplitSettings, split_rows
from mtlrun.data.table.targets import Target, TargetSettings, moments, read_target
from mtlrun.errors import UserError

STREAM = "table"
MISSING = ("NA", "N/A", "#N/A", "<NA>", "n/a", "NaN", "nan", "NULL", "null", "?")


class Table(Dataset):
    """A CSV or parquet file: some columns are predicted from the others.

    The declared tasks name the target columns. Kinds that the user leaves open are inferred, see
    :func:`~mtlrun.data.table.targets.inferred_kind`; so is what each other column holds, see
    :func:`~mtlrun.data.table.columns.input_roles`. What was found is said in ``remarks``. All rows
    are one stream, ``table``; with ``task_column`` there is a stream and a task for each of that
    column's values.

    Statistics, categories, classes and words are learnt from training rows. Targets stay in their
    units. Numbers may be written with a decimal comma, with thousands apart, or in percent or one
    currency; see :mod:`~mtlrun.data.table.numerals`. A text in a column of numbers is refused.

    Args:
        path: the file; a list of files, whose rows follow one another; or
            ``{train: a.csv, val: b.csv, test: c.csv}``. Text files may be gzip; the delimiter is
            found among comma, semicolon, tab and bar. Relative paths count from the working
            directory.
        encoding: of text files.
        columns: names of the columns of text files without a header line; None where there is one.
        inputs: columns to predict from; None for all that have no other use.
        numeric: columns to take for numbers; those that no such list names are inferred.
        categorical: columns to take for categories.
        text: columns to take for text.
        ignore: columns to leave out.
        categories: ``codes``, for a backbone that reads columns, or ``onehot``, for any.
        text_length: words of a row that are read at most; with several text columns they follow one
            another.
        vocabulary: words that are told apart at most, the most frequent first, and no word that
            occurs once.
        missing: cells that, besides empty ones, say that nothing is known.
        separator: stands between several labels in one cell. A cell with the separator alone has
            no label, an empty one is missing.
        classes: for some targets their classes in order (``{risk: [low, high]}``); else those of
            the training rows, by number or name.
        unseen: a class that no training row has: ``refuse``, or count the label as ``missing``.
        standardise: what a regression's center and scale are taken over with ``task_column``:
            ``all`` tasks, or each ``task`` by itself.
        split: a column that says train, val (validation, valid, dev) or test; None to draw.
        validation: share of the training rows to carve out for validation, where none are named.
        test: share of all rows to test on, where none are named.
        group: a column whose rows of one value stay in one split.
        task_column: a column each of whose values stands for tasks of its own.
        seed: of the draws. It is not the run's, so that all runs see the same rows.
        tasks: for each target column its kind, or None.
        carve_validation: whether a validation split is wanted.

    Attributes:
        families: with ``task_column``, for each target column the tasks that it stands for.

    Raises:
        UserError: the file, a column or a cell needs attention.
        ValueError: a setting is none of its values.
    """

    new_inputs = "tables"

    def __init__(
        self,
        path: Paths | None = None,
        encoding: str = "utf-8",
        columns: Names = None,
        inputs: Names = None,
        numeric: Names = None,
        categorical: Names = None,
        text: Names = None,
        ignore: Names = None,
        categories: str = "codes",
        text_length: int = 100,
        vocabulary: int = 10_000,
        missing: Names = MISSING,
        separator: str = ";",
        classes: Mapping[str, Names] | None = None,
        unseen: str = "refuse",
        standardise: str = "all",
        split: str | None = None,
        validation: float = 0.1,
        test: float = 0.2,
        group: str | None = None,
        task_column: str | None = None,
        seed: int = 0,
        *,
        tasks: Mapping[str, str | None],
        carve_validation: bool = True,
    ) -> None:
        check_choice("categories", categories, ("codes", "onehot"))
        check_choice("standardise", standardise, ("all", "task"))
        if standardise == "task" and task_column is None:
            raise ValueError("standardise=task has an effect with dataset.task_column only")
        for name, number in (("text_length", text_length), ("vocabulary", vocabulary)):
            if number < 1:
                raise ValueError(f"{name}={number}: must be at least 1")
        target_settings = TargetSettings(classes or {}, separator, unseen)
        split_settings = SplitSettings(split, validation, test, group, seed)
        kinds = {
            "numeric": names_of(numeric),
            "categorical": names_of(categorical),
            "text": names_of(text),
        }
        own_use = {"split": split, "group": group, "task_column": task_column}
        others = [column for column in own_use.values() if column is not None]
        reading: dict[str, Any] = {
            "encoding": encoding,
            "missing": names_of(missing),
            "as_text": [*tasks, *kinds["categorical"], *kinds["text"], *others],
            "columns": None if columns is None else names_of(columns),
        }
        sheet = read_sheet(path, **reading)
        candidates, named = check_uses(
            sheet,
            tasks,
            own_use,
            names_of(ignore),
            None if inputs is None else names_of(inputs),
            kinds,
            target_settings.classes,
        )

        streams = _streams(sheet, task_column)
        strata = None if task_column is None else sheet.levels(task_column).codes
        rows, source = split_rows(sheet, split_settings, strata, carve_validation)
        training = np.zeros(len(sheet), dtype=bool)
        training[rows["train"]] = True
        roles = input_roles(sheet, candidates, named, training)
        _check_roles(sheet, roles, categories)
        found = {
            task: read_target(sheet, task, kind, training, target_settings)
            for task, kind in tasks.items()
        }
        encoding_of: dict[str, Any] = {
            "onehot": categories == "onehot",
            "text_length": text_length,
            "vocabulary": vocabulary,
        }
        made = encoded(sheet, roles, training, **encoding_of)
        self.recipe = Recipe(path, reading, encoding_of, roles.kinds, training, task_column)
        self.one_hot = made.one_hot
        self.input_kind = dict.fromkeys(streams, made.kind)
        self.input_facts = dict.fromkeys(streams, made.facts)
        self.input_shape = dict.fromkeys(streams, made.shape)
        self._fill(sheet, made.values, found, rows, streams, task_column)
        if standardise == "task":
            self._standardise_each(found, streams, training)
        self.remarks = remarks_of(sheet, roles, found, rows, source, streams, task_column)

    @classmethod
    def possible_tasks(cls, settings: Mapping[str, Any]) -> list[str]:
        """The file's columns. See :meth:`Dataset.possible_tasks`.

        Raises:
            UserError: the file is missing or no table.
        """
        encoding, columns = settings.get("encoding", "utf-8"), settings.get("columns")
        return read_sheet(settings.get("path"), encoding=encoding, columns=columns).columns

    def _fill(
        self,
        sheet: Sheet,
        values: Tensor,
        found: Mapping[str, Target],
        rows: Mapping[str, Array],
        streams: Mapping[str, Array],
        task_column: str | None,
    ) -> None:
        """Streams, tasks, families, and the sources of each split."""
        names = {
            stream: {task: task if task_column is None else f"{task} {stream}" for task in found}
            for stream in streams
        }
        self.streams = {stream: tuple(of.values()) for stream, of in names.items()}
        self.facts = {
            name: dict(found[task].facts) for of in names.values() for task, name in of.items()
        }
        self.families: Mapping[str, Sequence[str]] = {}
        if task_column is not None:
            self.families = {task: [of[task] for of in names.values()] for task in found}
        self.splits = {}
        for split, all_rows in rows.items():
            self.splits[split] = {}
            for stream, own in streams.items():
                index = torch.from_numpy(all_rows[np.isin(all_rows, own, assume_unique=True)])
                if split == "train":
                    _check_labelled(sheet, stream, index, found, task_column)
                self.splits[split][stream] = TensorSource(
                    values[index],
                    {name: found[task].values[index] for task, name in names[stream].items()},
                    {
                        name: found[task].labelled[index]
                        for task, name in names[stream].items()
                        if not bool(found[task].labelled[index].all())
                    },
                )

    def _standardise_each(
        self, found: Mapping[str, Target], streams: Mapping[str, Array], training: Array
    ) -> None:
        """Center and scale of each task of a family by itself."""
        for task, target in found.items():
            if "scale" not in target.facts:
                continue
            numbers = target.values.double().numpy()
            for stream, own in streams.items():
                center, scale = moments(numbers[own][training[own]])
                # A task of one training row, or of equal ones, has no spread of its own.
                spread = scale or target.facts["scale"]
                self.facts[f"{task} {stream}"] |= {"center": center, "scale": spread}

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """Codes of categories to columns of zeros and ones, where these are wanted.

        See :meth:`Dataset.transform`.
        """
        del stream, draws
        return inputs if self.one_hot is None else self.one_hot.expand(inputs), targets

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """Rows of another file with the same input columns; targets may be missing.

        With ``task_column`` only the rows of the stream. See :meth:`Dataset.encode`.
        """
        del column
        own = self.splits["train"][stream]
        assert isinstance(own, TensorSource)
        return self.recipe.encode(file, stream, own.inputs)


def _streams(sheet: Sheet, task_column: str | None) -> dict[str, Array]:
    """For each stream its rows, sorted."""
    if task_column is None:
        return {STREAM: np.arange(len(sheet))}
    levels = sheet.levels(task_column)
    absent = np.flatnonzero(levels.codes == ABSENT)
    if len(absent):
        raise UserError(
            f"{sheet.place(int(absent[0]), task_column)}: the cell is missing, and "
            "dataset.task_column needs a value in every row."
        )
    order = np.argsort(levels.codes, kind="stable")
    ends = np.cumsum(np.bincount(levels.codes))[:-1]
    return dict(zip(levels.names, np.split(order, ends), strict=True))


def _check_labelled(
    sheet: Sheet, stream: str, index: Tensor, found: Mapping[str, Target], task_column: str | None
) -> None:
    """Each task of a family needs a training row with a label."""
    for task, target in found.items():
        if not bool(target.labelled[index].any()):
            raise UserError(
                f"{sheet.title}: no training row of {task_column}={stream} has a value of the "
                f"target {task}. Leave these rows out of the file, or lower dataset.test and "
                "dataset.validation."
            )


def _check_roles(sheet: Sheet, roles: Roles, categories: str) -> None:
    if not roles.numeric and not roles.categorical and not roles.text:
        reasons = "; ".join(f"{column} ({why})" for column, why in roles.left_out.items())
        raise UserError(
            f"{sheet.title} has no column to predict from: {reasons or 'all have another use'}. "
            "Name columns in dataset.numeric, dataset.categorical or dataset.text to use them."
        )
    if categories == "onehot" and roles.text:
        raise UserError(
            f"dataset.categories=onehot: {', '.join(roles.text)} holds text, which columns of "
            f"zeros and ones cannot hold. Use dataset.categories=codes with backbone=tabular_mlp, "
            f"or leave it out: dataset.ignore=[{','.join(roles.text)}]."
        )
