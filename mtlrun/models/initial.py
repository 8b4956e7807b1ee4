"""A network that starts from another run's weights."""

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from mtlrun.models.model import MultiTaskModel

State = Mapping[str, Tensor]

OF_TASK = re.compile(r"(heads|architecture\.backbones)\.(\d+)\.(.+)")
"""Entries that belong to a task by its place: heads, and networks of single tasks."""

ONE_BACKBONE = "architecture.backbone."


def take_weights(
    model: MultiTaskModel, state: State, tasks: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Fill a network with what another run's state has for it; heads and networks by task.

    One shared backbone there fills the networks of all tasks here. A head of another shape is left
    as it is, and so is whatever the other run does not have.

    Args:
        model: the network to fill.
        state: the other model's state dict.
        tasks: the other run's tasks, in its order.

    Returns:
        the parts that were filled, and those that were not, in the user's words.

    Raises:
        ValueError: a part other than a head has another shape there, or nothing fits.
    """
    own = model.state_dict()
    taken: dict[str, Tensor] = {}
    for name, value in own.items():
        found = next(
            (state[key] for key in _sources(name, model.tasks, tasks) if key in state), None
        )
        if found is None:
            continue
        if found.shape == value.shape:
            taken[name] = found
        elif not name.startswith("heads."):
            raise ValueError(
                f"its {name.removeprefix('architecture.')} is {list(found.shape)} and this "
                f"network's is {list(value.shape)}: use the same dataset, backbone and settings"
            )
    if not taken:
        raise ValueError(
            "nothing of it fits: the runs have no task and no backbone in common. A network with "
            "one backbone starts from a run with one (architecture=hps, or a single task); one "
            "network a task from either kind"
        )
    members: dict[str, list[str]] = {}
    for name in own:
        members.setdefault(_part(name, model.tasks), []).append(name)
    filled = [part for part, names in members.items() if taken.keys() >= set(names)]
    for part, names in members.items():
        there = taken.keys() & set(names)
        if part in filled or not there:
            continue
        if part.startswith("backbone"):
            missing = next(name for name in names if name not in taken)
            raise ValueError(
                f"it has a part of this network's {part} and lacks the rest "
                f"({missing.removeprefix('architecture.')}): use the same backbone and settings"
            )
        if part.startswith("head "):  # which is taken as a whole, or not at all
            for name in there:
                del taken[name]
    model.load_state_dict({**own, **taken})
    return filled, [part for part in members if part not in filled]


def _sources(name: str, own: Sequence[str], other: Sequence[str]) -> Iterator[str]:
    """The other state's entries that may fill one of ours, the best first."""
    matched = OF_TASK.fullmatch(name)
    if matched is None:
        yield name
        if name.startswith(ONE_BACKBONE) and len(other) == 1:
            yield f"architecture.backbones.0.{name.removeprefix(ONE_BACKBONE)}"
        return
    kind, place, rest = matched.groups()
    task = own[int(place)]
    if task in other:
        yield f"{kind}.{other.index(task)}.{rest}"
    if kind != "heads":
        yield f"{ONE_BACKBONE}{rest}"


def _part(name: str, tasks: Sequence[str]) -> str:
    """What the user calls the part that an entry belongs to."""
    matched = OF_TASK.fullmatch(name)
    if matched is not None:
        kind, place, _ = matched.groups()
        return f"{'head' if kind == 'heads' else 'backbone'} of {tasks[int(place)]}"
    return "backbone" if name.startswith(ONE_BACKBONE) else "the rest of the architecture"
