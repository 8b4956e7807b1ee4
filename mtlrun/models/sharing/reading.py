"""Which stages a task's head reads."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mtlrun.models.architectures.base import Architecture
from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.layers import pooled, resize
from mtlrun.types import Layout


class Reading:
    """From the outputs of a backbone's stages to what each task's head reads.

    A head that reads several stages gets them side by side: maps at the size of the largest of
    them, vectors where the stages' layouts differ (maps and sequences by their mean).

    Args:
        backbone: any copy of it.
        reads: for each task the stages, counted from 1; a task that is not there reads the last.

    Raises:
        ValueError: there is no such stage.
    """

    def __init__(self, backbone: Backbone, reads: Mapping[str, Sequence[int]] | None) -> None:
        self.channels = backbone.channels
        self.layouts = backbone.layouts
        last = (len(self.channels) - 1,)
        self._last = last
        self.stages: dict[str, tuple[int, ...]] = {}
        for task, stages in (reads or {}).items():
            wrong = [stage for stage in stages if not 1 <= stage <= len(self.channels)]
            if wrong or not stages:
                raise ValueError(
                    f"heads.stages={list(stages)} of task {task}: this backbone has the stages "
                    f"1 to {len(self.channels)}"
                )
            self.stages[task] = tuple(stage - 1 for stage in stages)

    def of(self, task: str) -> tuple[int, ...]:
        """The stages that a task reads, counted from 0."""
        return self.stages.get(task, self._last)

    def deepest(self, tasks: Sequence[str]) -> int:
        """The last stage that any of these tasks reads, counted from 0."""
        return max(max(self.of(task)) for task in tasks)

    def alike(self, tasks: Sequence[str]) -> bool:
        """Whether all of these tasks read the same."""
        return len({self.of(task) for task in tasks}) == 1

    def out_channels(self, task: str) -> int:
        """Channels of what a task reads."""
        return sum(self.channels[stage] for stage in self.of(task))

    def layout(self, task: str) -> Layout:
        """Of what a task reads."""
        layouts = {self.layouts[stage] for stage in self.of(task)}
        return layouts.pop() if len(layouts) == 1 else "vector"

    def __call__(self, task: str, outputs: Sequence[Tensor]) -> Tensor:
        """What a task reads.

        Args:
            task: its name.
            outputs: of each stage.
        """
        stages = self.of(task)
        if len(stages) == 1:
            return outputs[stages[0]]
        layout = self.layout(task)
        parts = [outputs[stage] for stage in stages]
        if layout == "map":
            largest = max(parts, key=lambda part: part.shape[-2] * part.shape[-1])
            size = (largest.shape[-2], largest.shape[-1])
            return torch.cat([resize(part, size) for part in parts], 1)
        if layout == "sequence":
            return torch.cat(parts, 2)
        return torch.cat(
            [pooled(part, self.layouts[s]) for part, s in zip(parts, stages, strict=True)], 1
        )

    def shared(self, tasks: Sequence[str], outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """What several tasks read of one pass: the same tensor where they read the same stages."""
        made: dict[tuple[int, ...], Tensor] = {}
        for task in tasks:
            if self.of(task) not in made:
                made[self.of(task)] = self(task, outputs)
        return {task: made[self.of(task)] for task in tasks}


class StageReading(Architecture):
    """An architecture whose tasks read stages of a backbone.

    Attributes:
        reading: which ones; set by the architecture itself.
    """

    reading: Reading

    def out_channels(self, task: str) -> int:
        """Channels of the stages that the task's head reads."""
        return self.reading.out_channels(task)

    def layout(self, task: str) -> Layout:
        """That of the stages that the task's head reads."""
        return self.reading.layout(task)


def run_stages(
    backbone: Backbone, stages: Iterable[int], features: Tensor, kept: Kept
) -> list[Tensor]:
    """The outputs of some stages, one after the other."""
    outputs: list[Tensor] = []
    for number in stages:
        features = backbone.step(number, features, kept)
        outputs.append(features)
    return outputs


def stage_outputs(backbone: Backbone, inputs: Tensor, deepest: int | None = None) -> list[Tensor]:
    """The outputs of the stages of one pass, up to the deepest one wanted (None for the last)."""
    stages = len(backbone.stages) if deepest is None else deepest + 1
    return run_stages(backbone, range(stages), inputs, {})
