"""What is known of tasks beside their labels, as vectors that are held fixed."""

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlrun.models.backbones.pretrained_text import PretrainedText, longest_row
from mtlrun.models.layers import mean_of_tokens


def expect_all(setting: str, given: Mapping[str, Any], tasks: Sequence[str]) -> None:
    """Raise a ValueError where a task has no entry; tasks of other runs may have one."""
    missing = [task for task in tasks if task not in given]
    if missing:
        raise ValueError(
            f"{setting} has no entry for {', '.join(missing)}: use one for each of the tasks "
            f"{', '.join(tasks)} (it has {', '.join(map(str, given)) or 'none'})"
        )


def expect_contexts(tasks: Sequence[str], contexts: Mapping[str, Sequence[float]]) -> Tensor:
    """The contexts of the tasks, in their order: [T, size].

    Raises:
        ValueError: one is missing, is no list of finite numbers, or has another length.
    """
    expect_all("architecture.contexts", contexts, tasks)
    for task in tasks:
        vector = contexts[task]
        if not isinstance(vector, list | tuple) or not vector or not all(map(_number, vector)):
            raise ValueError(
                f"architecture.contexts of task {task} is {vector!r}: use a list of numbers"
            )
    lengths = {task: len(contexts[task]) for task in tasks}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "architecture.contexts have different lengths "
            f"({', '.join(f'{task}: {length}' for task, length in lengths.items())}): use lists of "
            "one length"
        )
    return torch.tensor([[float(value) for value in contexts[task]] for task in tasks])


def _number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def sentence_contexts(tasks: Sequence[str], descriptions: Mapping[str, str], path: str) -> Tensor:
    """Embeddings of sentences by a pretrained encoder of transformers, [T, C].

    The mean of the last layer over a sentence's tokens, the tokenizer's own marks among them.
    Nothing is downloaded.

    Args:
        tasks: in their order.
        descriptions: for each a sentence.
        path: folder with the encoder and its tokenizer, as ``save_pretrained`` writes them.

    Raises:
        ValueError: a sentence is missing or too long, the package or the folder is missing, or the
            folder holds something else.
    """
    expect_all("architecture.descriptions", descriptions, tasks)
    for task in tasks:
        if not isinstance(descriptions[task], str) or not descriptions[task].strip():
            raise ValueError(
                f"architecture.descriptions of task {task} is {descriptions[task]!r}: use a "
                "sentence"
            )
    tokenizer = _tokenizer(path)
    # One more than the tokenizer's: number 0 is padding
    encoder = PretrainedText(
        input_shape=(1,), vocabulary=len(tokenizer) + 1, path=path, freeze="all"
    )
    rows = [[token + 1 for token in tokenizer(descriptions[task])["input_ids"]] for task in tasks]
    longest = max(map(len, rows))
    room = longest_row(encoder.stages[0].model)  # type: ignore[arg-type]  # a module
    if room is not None and longest > room:
        raise ValueError(
            f"architecture.descriptions: one has {longest} tokens, and the encoder in {path} reads "
            f"at most {room}: use a shorter sentence"
        )
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        return mean_of_tokens(encoder(padded))


def _tokenizer(path: str) -> Any:
    """The tokenizer in a folder."""
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise ValueError(
            "architecture.descriptions needs the package transformers, which cannot be imported "
            f"({error}). Install it with pip install 'mtlrun[text]', or use architecture.contexts"
        ) from error
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"architecture.path={path} is no folder: use one with an encoder and its tokenizer, as "
            "save_pretrained of the package transformers writes them. Nothing is downloaded"
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"architecture.path={path} holds no tokenizer that transformers can read ({error}): "
            "use the folder of an encoder with its tokenizer"
        ) from error
