"""A run's checkpoints: everything that the rest of the run depends on, part by part."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mtlrun.engine import checkpoint
from mtlrun.engine.evaluation import Selection
from mtlrun.errors import UserError
from mtlrun.models.model import MultiTaskModel

_START_AGAIN = "Run with another study=NAME, or delete the run's folder to start it again."


class Stateful(Protocol):
    """Something whose state goes into the checkpoint."""

    def state_dict(self) -> Any:
        """Its state: tensors and plain data."""

    def load_state_dict(self, state: Any) -> Any:
        """The reverse of :meth:`state_dict`."""


class Saving:
    """Writes and reads the checkpoints of a run.

    Args:
        folder: of the checkpoints.
        model: the network.
        parts: by name what else has a state. They are read back in this order.
    """

    def __init__(self, folder: Path, model: MultiTaskModel, parts: Mapping[str, Stateful]) -> None:
        self.folder = folder
        self.model = model
        self.parts: dict[str, Stateful] = {"model": model, **parts}

    def write(self, position: Mapping[str, Any]) -> None:
        """Write ``last.pt``.

        Args:
            position: where the run stands, plain data.
        """
        states = {name: part.state_dict() for name, part in self.parts.items()}
        checkpoint.rotate_and_write(self.folder, {**position, **states})

    def read(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Fill the parts from the newest checkpoint that is whole.

        Returns:
            the checkpoint, None where there is none, and remarks for the user.

        Raises:
            UserError: it is of another network, optimizer or version, or of other teachers.
        """
        state, remarks = checkpoint.read_latest(self.folder)
        if state is None:
            return None, remarks
        for name, part in self.parts.items():
            try:
                part.load_state_dict(state[name])
            except KeyError as error:  # other parts, or parts of them, than there are here
                raise UserError(
                    f"The checkpoint in {self.folder} is not of this run: it lacks {error} "
                    f"({name}). A run with other settings, or another version of mtlrun, wrote it. "
                    f"{_START_AGAIN}"
                ) from error
            except (RuntimeError, ValueError) as error:
                raise UserError(
                    f"The checkpoint in {self.folder} is not of this run: its {name} does not fit "
                    f"({' '.join(str(error).split())[:300].rstrip('.')}). {_START_AGAIN}"
                ) from error
        return state, remarks

    def keep_best(self, selection: Selection, improved: Sequence[int]) -> None:
        """Write ``best.pt``; independent networks are kept each from its own best epoch.

        Args:
            selection: after the epoch.
            improved: those of its groups for which this epoch is the best.
        """
        model = self.model.state_dict()
        path = self.folder / checkpoint.BEST
        groups = selection.groups
        if len(groups) > 1 and len(improved) < len(groups):
            kept: dict[str, Any] = checkpoint.read(path)["model"]
            for number, keys in enumerate(entries_of(self.model, groups)):
                if number not in improved:
                    model.update({key: kept[key] for key in keys})
        checkpoint.write(path, {"model": model, "epoch": list(selection.epoch)})

    def load_best(self) -> None:
        """Fill the network from ``best.pt``."""
        checkpoint.load_model(self.folder / checkpoint.BEST, self.model)


def entries_of(model: MultiTaskModel, groups: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """For each group of tasks those entries of the model's state dict that are its alone.

    Those are the parameters that its tasks train, each by itself. Anything that is not trained
    (running means, frozen weights) goes with the trained parameters nearest to it in the tree of
    modules, where they are of one group.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    shared = -1
    owner = {
        names[id(parameter)]: number
        for number, group in enumerate(groups)
        for task in group
        for parameter in model.own_parameters(task)
    }
    owners: dict[str, set[int]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        place = name
        while place:
            owners.setdefault(place, set()).add(owner.get(name, shared))
            place = place.rpartition(".")[0]
    entries: list[list[str]] = [[] for _ in groups]
    for key in model.state_dict():
        place = key
        while place and place not in owners:
            place = place.rpartition(".")[0]
        nearest = owners.get(place, set())
        if len(nearest) == 1 and shared not in nearest:
            entries[min(nearest)].append(key)
    return entries
