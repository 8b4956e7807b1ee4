"""Features and initial predictions of each task, and what the tasks hand to one another."""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import Pass
from mtlrun.models.backbones.residual_network import BasicBlock, Bottleneck
from mtlrun.models.layers import Pointwise, only_tokens, pooled, resize, token_mask
from mtlrun.types import Layout, OutputShape, Structure

GATES = ("source", "target")


def bottlenecks(in_channels: int, channels: int) -> nn.Sequential:
    """Two residual bottlenecks on maps; ``channels`` is a multiple of 4."""
    width = channels // Bottleneck.expansion
    return nn.Sequential(
        Bottleneck(in_channels, width, 1, (1, 1)), Bottleneck(channels, width, 1, (1, 1))
    )


def basic_blocks(in_channels: int, channels: int) -> nn.Sequential:
    """Two residual blocks of 3x3 convolutions on maps."""
    return nn.Sequential(
        BasicBlock(in_channels, channels, 1, (1, 1)), BasicBlock(channels, channels, 1, (1, 1))
    )


class Dense(nn.Module):
    """Two linear layers with ReLUs, for each vector or token by itself.

    Args:
        layout: of the features.
        in_channels: that come in.
        channels: of both layers.
    """

    def __init__(self, layout: Layout, in_channels: int, channels: int) -> None:
        super().__init__()
        self.padded = layout == "sequence"
        self.layers = nn.Sequential(
            nn.Linear(in_channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same layout."""
        output: Tensor = self.layers(features)
        return only_tokens(output, token_mask(features)) if self.padded else output


class InitialPrediction(nn.Module):
    """A linear layer from a task's features to a prediction of the shape that its head gives.

    Args:
        layout: of the features.
        channels: of the features.
        output: shape of the prediction.

    Raises:
        ValueError: the task predicts for something that these features do not keep.
    """

    def __init__(self, layout: Layout, channels: int, output: OutputShape) -> None:
        super().__init__()
        needed: Mapping[str, Layout] = {"pixel": "map", "token": "sequence"}
        if layout != needed.get(output.per, layout):
            raise ValueError(
                f"A task predicts for each {output.per}, and this backbone ends in {layout}s: use "
                f"a backbone that keeps {needed[output.per]}s "
                f"({'backbone=cnn, resnet18' if output.per == 'pixel' else 'backbone=lstm'} ...)"
            )
        self.layout, self.per, self.size = layout, output.per, output.size
        self.layer: nn.Module
        if output.per == "pixel":
            self.layer = nn.Conv2d(channels, output.channels, 1)
        else:
            self.layer = nn.Linear(channels, output.channels)

    def forward(self, features: Tensor) -> Tensor:
        """The prediction, see :attr:`mtlrun.models.heads.base.Head.per`."""
        if self.per == "row":
            features = pooled(features, self.layout)
        prediction: Tensor = self.layer(features)
        return prediction if self.size is None else resize(prediction, self.size)


def term_names(tasks: Sequence[str]) -> dict[str, str]:
    """For each task a name of letters, digits and ``_``: its own where it has no others."""
    clean = {task: re.sub(r"[^A-Za-z0-9_]", "_", task) for task in tasks}
    names = {task: task for task in tasks if task and clean[task] == task}
    for number, task in enumerate(tasks, 1):
        if task in names:
            continue
        name = clean[task] or str(number)
        while name in names.values():
            name = f"{name}_{number}"
        names[task] = name
    return names


class Initial(nn.Module):
    """The initial predictions of all tasks from one set of features, as auxiliary losses.

    Args:
        layout: of the features.
        channels: of each task's.
        outputs: for each task the shape of its prediction.
        suffix: of the terms' names, ``initial_TASK`` and this.
    """

    def __init__(
        self, layout: Layout, channels: int, outputs: Mapping[str, OutputShape], suffix: str = ""
    ) -> None:
        super().__init__()
        names = term_names(list(outputs))
        self.terms = {task: f"initial_{names[task]}{suffix}" for task in outputs}
        self.heads = nn.ModuleList(
            InitialPrediction(layout, channels, output) for output in outputs.values()
        )
        self._place = {task: place for place, task in enumerate(outputs)}

    def add(self, found: Pass, features: Sequence[Tensor], tasks: Iterable[str]) -> None:
        """Put the predictions of ``tasks`` into a pass; ``features`` are those of all tasks."""
        for task in tasks:
            place = self._place[task]
            prediction = self.heads[place](features[place])
            found.predictions[self.terms[task]] = (task, prediction)


class Distillation(nn.Module):
    """Each task's features and, by attention, messages from those of all others.

    F_i + sum over a != i of sigmoid(G_ia * S) . (M_ia * F_a), where * is a 3x3 convolution without
    bias (on vectors and tokens a linear layer), and . multiplies entry by entry. S is F_a, or with
    the gate of the target F_i, whose attention is one for all messages.

    Args:
        tasks: names, in their order.
        layout: of the features.
        channels: of each task's.
        gate: ``source`` or ``target``.
        table: name of the table of how large the messages are.
    """

    sums: Tensor
    sizes: Tensor

    def __init__(
        self, tasks: Sequence[str], layout: Layout, channels: int, gate: str, table: str
    ) -> None:
        super().__init__()
        self.tasks, self.layout, self.table_name = tuple(tasks), layout, table
        self.from_target = gate == "target"
        others = max(len(tasks) - 1, 0)
        gates = min(others, 1) if self.from_target else others
        self.gates = _layers(layout, channels, len(tasks), gates)
        self.messages = _layers(layout, channels, len(tasks), others)
        shape = len(tasks), len(tasks)
        self.register_buffer("sums", torch.zeros(shape), persistent=False)
        self.register_buffer("sizes", torch.zeros(len(tasks), 1), persistent=False)

    def forward(self, features: Sequence[Tensor], target: int) -> Tensor:
        """The distilled features of one task.

        Args:
            features: of all tasks, of one shape.
            target: the task's place among them.
        """
        own = features[target]
        total = own
        gates, messages = self.gates[target], self.messages[target]
        assert isinstance(gates, nn.ModuleList)
        assert isinstance(messages, nn.ModuleList)
        shared = torch.sigmoid(gates[0](own)) if self.from_target and len(gates) else None
        sources = [place for place in range(len(self.tasks)) if place != target]
        for number, source in enumerate(sources):
            gate = shared if shared is not None else torch.sigmoid(gates[number](features[source]))
            message = gate * messages[number](features[source])
            if not self.training:
                self.sums[target, source] += message.detach().abs().sum()
            total = total + message
        if not self.training:
            self.sizes[target] += own.detach().abs().sum()
        return only_tokens(total, token_mask(own)) if self.layout == "sequence" else total

    def parameters_of(self, target: int) -> list[nn.Parameter]:
        """Those of the messages to one task, which its loss alone reaches."""
        return [*self.gates[target].parameters(), *self.messages[target].parameters()]

    def clear(self) -> None:
        """Forget the evaluation before."""
        self.sums.zero_()
        self.sizes.zero_()

    def table(self) -> Structure:
        """How large messages to a task (row) from each other (column) are beside its own features,
        by sums of absolute values over the evaluation."""
        return Structure(
            self.table_name, self.tasks, self.tasks, self.sums / self.sizes.clamp(min=1e-12)
        )


def _layers(layout: Layout, channels: int, targets: int, each: int) -> nn.ModuleList:
    """For each task so many layers that keep the features' shape."""
    return nn.ModuleList(
        nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            if layout == "map"
            else Pointwise(layout, channels, channels, bias=False)
            for _ in range(each)
        )
        for _ in range(targets)
    )


def last_matrices(branches: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The weight of the last layer of each of some modules that stand side by side."""
    found = []
    for branch in branches:
        found.append([p for p in branch.parameters() if p.dim() >= 2][-1])
    return found
