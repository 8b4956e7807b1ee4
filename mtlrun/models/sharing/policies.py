"""What AdaShare is told: its schedule, and policies that another run found."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

TABLE = "adashare/policy"
"""The name of what is learned in ``structure.csv``."""


def check_numbers(
    temperature: float, decay: float, decay_steps: int, sparsity: float, sharing: float, rate: float
) -> None:
    """Raise a ValueError where a setting is outside its range."""
    if temperature <= 0 or rate <= 0:
        raise ValueError(f"temperature={temperature} and rate={rate} must be above 0")
    if not 0 < decay <= 1 or decay_steps < 1:
        raise ValueError(
            f"decay={decay} must be above 0 and at most 1, and decay_steps={decay_steps} at least 1"
        )
    if sparsity < 0 or sharing < 0:
        raise ValueError(f"sparsity={sparsity} and sharing={sharing} must be at least 0")


def phases_of(epochs: int, warmup: int | None, policy: int | None) -> tuple[int, int]:
    """The first epoch of the policy phase, and of that behind it."""
    first = round(0.1 * epochs) if warmup is None else warmup
    length = max(1, round(0.4 * epochs)) if policy is None else policy
    if first < 0 or length < 1 or first + length > epochs:
        raise ValueError(
            f"warmup_epochs={first} (0 or more) and policy_epochs={length} (1 or more) must fit "
            f"into the run's epochs={epochs}: use smaller ones, or null for a tenth and four tenths"
        )
    return first, first + length


def curriculum_of(wanted: bool, epochs: int | None, policy_epochs: int) -> int:
    """Epochs of the policy phase until all blocks are learned, 1 or more."""
    if not wanted:
        if epochs is not None:
            raise ValueError(
                f"curriculum_epochs={epochs} has no effect with curriculum=false: leave it out"
            )
        return 1
    if epochs is None:
        return max(1, policy_epochs // 2)
    if not 1 <= epochs <= max(1, policy_epochs):
        raise ValueError(
            f"curriculum_epochs={epochs} must be 1 or more, and at most policy_epochs="
            f"{policy_epochs}, or the first blocks are never learned: use null for half of them"
        )
    return epochs


def read_policy(path: Path, tasks: Sequence[str], blocks: Sequence[str]) -> Tensor:
    """The policies that a run found: probabilities of keeping, [T, L].

    Args:
        path: its folder, or its ``structure.csv``.
        tasks: the rows wanted, in their order.
        blocks: the columns wanted, likewise.

    Raises:
        ValueError: there is no such file, or it holds no policies for these tasks and blocks.
    """
    path = path.expanduser()
    path = path / "structure.csv" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"policy={path}: there is no such file. Use the folder of a finished run with "
            "architecture=adashare, or policy=null to learn the policies"
        )
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("name") == TABLE]
    try:
        last = max(int(row["epoch"]) for row in rows) if rows else 0
        found = {
            (row["row"], row["column"]): float(row["value"])
            for row in rows
            if int(row["epoch"]) == last
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"policy={path} is damaged ({error!r}): use the file of another run, or policy=null"
        ) from error
    if not found:
        raise ValueError(
            f"policy={path} holds no table {TABLE}: use a run with architecture=adashare"
        )
    its_tasks, its_blocks = (list(dict.fromkeys(key[place] for key in found)) for place in (0, 1))
    missing = [task for task in tasks if task not in its_tasks]
    if missing or its_blocks != list(blocks):
        raise ValueError(
            f"policy={path} is for the tasks {', '.join(its_tasks)} and the blocks "
            f"{', '.join(its_blocks)}, and this run has the tasks {', '.join(tasks)} and the "
            f"blocks {', '.join(blocks)}: use a run with these tasks and this backbone"
        )
    try:
        return torch.tensor([[found[task, block] for block in blocks] for task in tasks])
    except KeyError as error:
        raise ValueError(f"policy={path} has no value for {error}: use another run") from error
