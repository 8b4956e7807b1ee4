"""Two streams of unequal length; half of one task's labels are missing."""

import torch

from mtlrun.data.base import Dataset, TensorSource

ROWS = {"wide": 260, "narrow": 110}


class Uneven(Dataset):
    """``wide`` with the task p, ``narrow`` with q, labelled in every second row, and r."""

    def __init__(self) -> None:
        draws = torch.Generator().manual_seed(0)
        self.streams = {"wide": ("p",), "narrow": ("q", "r")}
        self.splits = {}
        for split, share in (("train", 1), ("val", 4), ("test", 4)):
            sources = {}
            for stream, tasks in self.streams.items():
                inputs = torch.randn(ROWS[stream] // share, 6, generator=draws)
                targets = {task: inputs[:, :2].sum(1) + n for n, task in enumerate(tasks)}
                if "q" in targets:
                    targets["q"][::2] = torch.nan
                sources[stream] = TensorSource(inputs, targets)
            self.splits[split] = sources
        self.input_shape = {"wide": (6,), "narrow": (6,)}
        self.facts = {task: {} for tasks in self.streams.values() for task in tasks}
