"""The contract of a dataset: streams of examples, read by index, whole batches at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mtlrun.randomness import generator
from mtlrun.types import InputKind

Targets = dict[str, Tensor]

NewKind = Literal["images", "tables", "texts"]
"""What files of new inputs hold: an image each; a row an input; or a line, or a cell, an input."""


class Source(ABC):
    """Rows of one stream in one split.

    Attributes:
        labelled: for each task, which rows carry a label (bool, [rows]); a task that is left out
            has a label in every row.
        lengths: tokens of each row (int64, [rows]) where rows are ragged; batches are then made of
            rows of like length. None where all rows are of one shape.
    """

    labelled: Mapping[str, Tensor]
    lengths: Tensor | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def rows(self, indices: Tensor) -> tuple[Tensor, Targets]:
        """Inputs and targets of the rows named, gathered in one go.

        Args:
            indices: int64, shape [N].
        """

    @abstractmethod
    def select(self, tasks: Sequence[str]) -> "Source":
        """The same rows with the targets of ``tasks`` only."""


class TensorSource(Source):
    """Rows that are held in memory.

    Args:
        inputs: [rows, ...], in the type that it came in (uint8 images stay uint8).
        targets: for each task, [rows, ...].
        labelled: see :class:`Source`.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Mapping[str, Tensor],
        labelled: Mapping[str, Tensor] | None = None,
    ) -> None:
        for task, target in targets.items():
            if len(target) != len(inputs):
                raise ValueError(f"{task}: {len(target)} targets for {len(inputs)} inputs")
        self.inputs = inputs
        self.targets = dict(targets)
        self.labelled = dict(labelled or {})

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, indices: Tensor) -> tuple[Tensor, Targets]:
        """See :meth:`Source.rows`."""
        rows = self.inputs.index_select(0, indices)
        return rows, {name: t.index_select(0, indices) for name, t in self.targets.items()}

    def select(self, tasks: Sequence[str]) -> "TensorSource":
        """See :meth:`Source.select`."""
        return TensorSource(
            self.inputs,
            {task: self.targets[task] for task in tasks},
            {task: rows for task, rows in self.labelled.items() if task in tasks},
        )

    def subset(self, indices: Tensor) -> "TensorSource":
        """The rows named, as a source of its own."""
        inputs, targets = self.rows(indices)
        return TensorSource(inputs, targets, {t: m[indices] for t, m in self.labelled.items()})

    def to(self, device: torch.device) -> "TensorSource":
        """The same rows held on ``device``; the label masks stay on the host."""
        targets = {task: target.to(device) for task, target in self.targets.items()}
        return TensorSource(self.inputs.to(device), targets, self.labelled)


@dataclass(frozen=True)
class NewInputs:
    """What a file of new inputs holds.

    Attributes:
        source: its rows, as a dataset's own sources give them, without targets.
        places: for each row its line or record in the file, from 1; None where the file is one
            input, an image.
        remarks: lines for the user, on what the network has not met in training.
    """

    source: Source
    places: Sequence[int] | None = None
    remarks: Sequence[str] = ()


class Dataset:
    """Streams of examples with labels for one or more tasks.

    Subclasses read files in ``__init__`` and fill the attributes. Besides their own settings they
    may take the keyword ``carve_validation: bool``: False where the run selects on the test split
    and so trains on all training rows.

    Attributes:
        splits: ``train``, ``val`` (left out where it was not carved) and ``test``; for each the
            source of each stream.
        streams: for each stream its tasks.
        input_shape: for each stream the shape of one input as the backbone sees it (for ragged
            tokens the longest row that is kept).
        input_kind: for each stream what its inputs are; those left out have ``values``.
        input_facts: for each stream what else a backbone may need to know of them, see
            :data:`~mtlrun.types.InputKind`.
        facts: for each task the keyword arguments that the data decides for its
            :class:`~mtlrun.tasks.base.Task` (number of classes, their names). ``kind``, for a task
            whose kind the user left to the data, names a module of :mod:`mtlrun.tasks`.
        families: where the data makes several tasks of a declared one (a table's target for each
            school), their names. All have the declared settings.
        remarks: lines for the run's log and the console, on what was inferred from the data.
        new_inputs: the kind of files that :meth:`encode` reads; None where there is no such method.
        normalisation: of images, how pixels from 0 to 1 become what the network reads: ``mean`` and
            ``deviation`` of each channel. Empty for all other inputs.
    """

    splits: dict[str, dict[str, Source]]
    streams: dict[str, tuple[str, ...]]
    input_shape: dict[str, tuple[int, ...]]
    input_kind: Mapping[str, InputKind] = {}
    input_facts: Mapping[str, Mapping[str, Any]] = {}
    facts: dict[str, dict[str, Any]]
    families: Mapping[str, Sequence[str]] = {}
    remarks: Sequence[str] = ()
    new_inputs: ClassVar[NewKind | None] = None
    normalisation: Mapping[str, Sequence[float]] = {}

    @classmethod
    def possible_tasks(cls, settings: Mapping[str, Any]) -> Sequence[str]:
        """Names that ``dataset.tasks`` may have, for a user who gave none; empty where unknown.

        Args:
            settings: of the dataset.
        """
        del settings
        return ()

    def select(self, tasks: Sequence[str]) -> None:
        """Keep ``tasks`` only, in this order, and the streams that carry any of them."""
        self.streams = {
            stream: kept
            for stream, names in self.streams.items()
            if (kept := tuple(task for task in tasks if task in names))
        }
        self.splits = {
            split: {stream: sources[stream].select(names) for stream, names in self.streams.items()}
            for split, sources in self.splits.items()
        }

    def transform(
        self, stream: str, inputs: Tensor, targets: Targets, draws: torch.Generator | None
    ) -> tuple[Tensor, Targets]:
        """What a whole batch goes through on the device, between reading and the network.

        Args:
            stream: the stream that the rows came from.
            inputs: as :meth:`Source.rows` gave them.
            targets: likewise.
            draws: generator for augmentation, on the CPU; None in evaluation.

        Returns:
            inputs as the backbone sees them (float), and targets.
        """
        del stream, draws
        return inputs, targets

    def encode(self, file: Path, stream: str, column: str | None = None) -> NewInputs:
        """New inputs as rows of a stream, for a trained network: as the dataset reads its own.

        Means, categories and vocabularies are those of its own training rows. A dataset that can do
        this overrides the method, and says so by ``new_inputs``.

        Args:
            file: holds one input or several.
            stream: the stream whose tasks are to be predicted.
            column: of texts in a table the column that holds them; None elsewhere.

        Raises:
            UserError: the file cannot be read, or is not as the dataset's own are.
        """
        raise NotImplementedError(f"{type(self).__name__} does not read new inputs: {file}")


def carve(rows: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split ``range(rows)`` at random into the kept and the carved-out indices, each sorted.

    The draw depends on ``seed`` of the dataset, not of the run: all runs see the same split.

    Raises:
        ValueError: ``fraction`` is not in [0, 1), or leaves nothing.
    """
    if not 0 <= fraction < 1 or round(rows * fraction) == rows:
        raise ValueError(f"a share of {fraction} of {rows} rows: use 0 or more, and less than 1")
    order = torch.randperm(rows, generator=generator(seed, "carve", rows))
    carved = round(rows * fraction)
    return order[carved:].sort().values, order[:carved].sort().values


def carved(
    train: Tensor, validation: float, seed: int, carve_validation: bool
) -> dict[str, Tensor]:
    """Training rows as the splits ``train`` and, where it is wanted, ``val``.

    Args:
        train: int64, the rows to divide.
        validation: share of them to carve out.
        seed: of the choice.
        carve_validation: whether to carve at all.
    """
    if not carve_validation:
        return {"train": train}
    kept, out = carve(len(train), validation, seed)
    return {"train": train[kept], "val": train[out]}


def check_share(name: str, share: float) -> None:
    """Refuse a share of the rows that leaves one side empty.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"{name}={share}: a share of the rows, between 0 and 1")
