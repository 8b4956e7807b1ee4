"""From one scale's features of the tasks to the next, finer one: MTI-Net's module."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlrun.models.backbones.residual_network import BasicBlock
from mtlrun.models.sharing.distillation import basic_blocks

PROPAGATIONS = ("tasks", "neighbours")
REDUCTION = 16
"""By how much a squeeze-and-excitation's hidden layer is narrower (Hu et al., CVPR 2018)."""


class FeaturePropagation(nn.Module):
    """MTI-Net's feature propagation module (Vandenhende et al., ECCV 2020, section 3.3).

    Of all tasks' features side by side, [N, T C, H, W], residual blocks of a quarter of the width
    and a 1x1 convolution make scores; their softmax over the tasks, for each channel and position,
    multiplies the features; a residual block makes of them C channels that all tasks share. Each
    task adds these, its channels weighed by a squeeze-and-excitation of its own, to its features.

    Args:
        tasks: how many, T.
        channels: of each task's features, C.
        over: ``tasks``, the paper's softmax, or ``neighbours``: the authors' code (Vandenhende,
            Multi-Task-Learning-PyTorch, ``FPM``) lays the T C channels out as [C, T], so that it is
            taken over each T adjacent channels, most of them of one task.
    """

    def __init__(self, tasks: int, channels: int, over: str) -> None:
        super().__init__()
        joined = tasks * channels
        hidden = max(joined // 4, 1)
        self.tasks, self.over = tasks, over
        self.scores = nn.Sequential(*basic_blocks(joined, hidden), nn.Conv2d(hidden, joined, 1))
        self.reduce = BasicBlock(joined, channels, 1, (1, 1))
        self.excite = nn.ModuleList(SqueezeExcitation(channels) for _ in range(tasks))

    def attention(self, joined: Tensor) -> Tensor:
        """What is taken of each channel of each task, [N, T C, H, W].

        Args:
            joined: all tasks' features side by side, likewise.
        """
        scores: Tensor = self.scores(joined)
        rows, channels, *size = scores.shape
        width = channels // self.tasks
        if self.over == "tasks":
            return scores.view(rows, self.tasks, width, *size).softmax(1).flatten(1, 2)
        return scores.view(rows, width, self.tasks, *size).softmax(2).flatten(1, 2)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """What each task hands to the next scale, [N, C, H, W].

        Args:
            features: of all tasks, likewise.
        """
        joined = torch.cat(list(features), 1)
        shared = self.reduce(self.attention(joined) * joined)
        return [excite(shared) + own for excite, own in zip(self.excite, features, strict=True)]


class SqueezeExcitation(nn.Module):
    """Channels weighed by what their means say (Hu et al., CVPR 2018, section 3).

    Args:
        channels: of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // REDUCTION, 1)
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        weights: Tensor = self.layers(maps.mean((2, 3)))
        return maps * weights[:, :, None, None]
