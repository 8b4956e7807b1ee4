"""The grouping file: which networks to train, and which of them serves which task.

It lies in ``<outputs>/<study>/<dataset>/groupings/<name>.json``, beside the runs that it was
chosen from, and finds them by a relative path, so the folder of a dataset may be moved as a whole.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtlrun.durable import write_output
from mtlrun.errors import UserError

FORMAT = 1
FOLDER = "groupings"
"""Where the files lie, in the folder of a study's dataset."""


@dataclass(frozen=True)
class Group:
    """One network.

    Attributes:
        tasks: that it is trained on, in the dataset's order.
        serves: those of them that are answered by this network; the others help it learn.
        cost: in full networks, a multiple of 1/2.
        reference: of a network of another size: a run whose settings it is trained with, as a path
            like the grouping's; None where the grouping's own holds.
    """

    tasks: tuple[str, ...]
    serves: tuple[str, ...]
    cost: float = 1.0
    reference: str | None = None


@dataclass(frozen=True)
class Grouping:
    """Networks within a budget that serve each task once.

    Attributes:
        name: the file's, without its extension.
        source: what it was chosen from: ``tag``, ``cosine``, ``pairs`` or ``runs``.
        budget: what the networks may cost together.
        tasks: all tasks, in the dataset's order.
        groups: the networks; each serves one task at least.
        value: for each task what was predicted, in the source's units; higher is better.
        reference: the folder of the run whose settings the networks are trained with, but for
            ``tasks`` and ``engine.affinity``: a relative path from the file's folder.
    """

    name: str
    source: str
    budget: float
    tasks: tuple[str, ...]
    groups: tuple[Group, ...]
    value: Mapping[str, float]
    reference: str

    def __post_init__(self) -> None:
        """Check what a file may have wrong.

        Raises:
            ValueError: a group is none, or a task is not served exactly once.
        """
        for group in self.groups:
            if not group.serves or not set(group.serves) <= set(group.tasks):
                raise ValueError(f"the network of {list(group.tasks)} serves {list(group.serves)}")
            if len(set(group.tasks)) < len(group.tasks):
                raise ValueError(f"the network of {list(group.tasks)} has a task twice")
            if not set(group.tasks) <= set(self.tasks):
                raise ValueError(f"the network of {list(group.tasks)} has unknown tasks")
            if group.cost <= 0 or not (2 * group.cost).is_integer():
                raise ValueError(f"cost {group.cost} is no multiple of 1/2")
        served = [task for group in self.groups for task in group.serves]
        if sorted(served) != sorted(set(self.tasks)) or len(self.tasks) != len(set(self.tasks)):
            raise ValueError(f"the networks serve {served}, the tasks are {list(self.tasks)}")
        if self.value.keys() != set(self.tasks) or not all(map(math.isfinite, self.value.values())):
            raise ValueError("not every task has a number for its value")

    @property
    def cost(self) -> float:
        """Of all networks."""
        return sum(group.cost for group in self.groups)

    def network_of(self, task: str) -> Group:
        """The network that serves a task."""
        return next(group for group in self.groups if task in group.serves)

    def reference_folder(self, file: Path, group: Group | None = None) -> Path:
        """The folder of the reference run.

        Args:
            file: where this grouping was read from or written to.
            group: a network, which may have one of its own.
        """
        reference = (group and group.reference) or self.reference
        return Path(os.path.normpath(file.resolve().parent / reference))

    @staticmethod
    def read(file: Path) -> "Grouping":
        """Read a grouping file.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            return _grouping(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{file} cannot be read ({reason}). `mtlrun group` writes it anew; delete it where "
                "it is no longer needed."
            ) from error

    def write(self, file: Path) -> None:
        """Write a grouping file, as a whole or not at all.

        Raises:
            UserError: it cannot be written, and why.
        """
        write_output(file, self.text().encode())

    def text(self) -> str:
        """What the file holds: JSON."""
        content = {"format": FORMAT, **asdict(self)}
        for group in content["groups"]:
            if group["reference"] is None:
                del group["reference"]
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def grouping_files(dataset_folder: Path) -> list[Path]:
    """The grouping files of a study's dataset, in the order of their names.

    Args:
        dataset_folder: ``<outputs>/<study>/<dataset>``.
    """
    return sorted((dataset_folder / FOLDER).glob("*.json"))


def _grouping(content: Any) -> Grouping:
    if not isinstance(content, dict):
        raise TypeError("it holds no JSON object")
    if content["format"] != FORMAT:
        raise ValueError(f"it has format {content['format']}, this mtlrun reads format {FORMAT}")
    return Grouping(
        name=str(content["name"]),
        source=str(content["source"]),
        budget=_number(content["budget"]),
        tasks=_names(content["tasks"]),
        groups=tuple(
            Group(
                _names(group["tasks"]),
                _names(group["serves"]),
                _number(group["cost"]),
                str(group["reference"]) if group.get("reference") else None,
            )
            for group in content["groups"]
        ),
        value={str(task): _number(value) for task, value in content["value"].items()},
        reference=str(content["reference"]),
    )


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{value!r} is no list of tasks")
    return tuple(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
