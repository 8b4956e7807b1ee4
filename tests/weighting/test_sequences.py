"""Methods that know the channels of the representation, on sequences [N, L, C]."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from weighting_driver import task_infos

from mtlrun.types import StepInfo
from mtlrun.weighting.great import Great
from mtlrun.weighting.rotograd import Rotation, RotoGrad

TASKS, ROWS, LENGTH, CHANNELS = 2, 3, 5, 4


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def step(
    kind: type[Great | RotoGrad], features: Tensor, gradients: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The direction, in the shape of the features, and gradients of the method's own parameters."""
    weighting = kind(tasks=task_infos(TASKS), channels=CHANNELS)
    weighting.begin_step(StepInfo(0, 0, 0, tuple(range(TASKS))))
    weighting.representation = features
    with torch.no_grad():
        if isinstance(weighting, Great):
            weighting.output_weight.copy_(draw(*weighting.output_weight.shape))
        direction = weighting.direction(gradients.flatten(1), torch.ones(TASKS))
    found = [p.grad for p in weighting.parameters() if p.grad is not None]
    return direction.view(features.shape), found


@pytest.mark.parametrize("kind", [Great, RotoGrad])
def test_a_sequence_is_a_map_of_one_line(kind: type[Great | RotoGrad]) -> None:
    features, gradients = draw(ROWS, LENGTH, CHANNELS), draw(TASKS, ROWS, LENGTH, CHANNELS)
    direction, own = step(kind, features, gradients)
    expected, expected_own = step(kind, features.mT.unsqueeze(2), gradients.mT.unsqueeze(3))
    torch.testing.assert_close(direction, expected.squeeze(2).mT)
    torch.testing.assert_close(own, expected_own)
    assert len(own) == (5 if kind is Great else 1)
    assert all((gradient != 0).any() for gradient in own)


@pytest.mark.parametrize("kind", [Great, RotoGrad])
def test_padding_changes_nothing(kind: type[Great | RotoGrad]) -> None:
    features, gradients = draw(ROWS, LENGTH, CHANNELS), draw(TASKS, ROWS, LENGTH, CHANNELS)
    features[1, 2:], gradients[:, 1, 2:] = 0, 0
    direction, own = step(kind, features, gradients)
    more, padded_own = step(kind, F.pad(features, (0, 0, 0, 6)), F.pad(gradients, (0, 0, 0, 6)))
    torch.testing.assert_close(more[:, :LENGTH], direction)
    assert not more[:, LENGTH:].any()
    torch.testing.assert_close(padded_own, own)


def test_a_rotation_turns_the_channels_of_each_token() -> None:
    rotation = Rotation(2)
    rotation.matrix.copy_(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    tokens = draw(ROWS, LENGTH, CHANNELS)
    expected = torch.stack([-tokens[..., 1], tokens[..., 0], *tokens[..., 2:].unbind(2)], 2)
    torch.testing.assert_close(rotation(tokens), expected)
