"""Pictures of dense tasks: input, target and prediction."""

import torch
from torch import Tensor

from mtlrun.engine.backward import Forward
from mtlrun.engine.loader import EvaluationLoader


@torch.inference_mode()
def dense_pictures(forward: Forward, loader: EvaluationLoader, examples: int) -> dict[str, Tensor]:
    """Pictures of the first rows of a split.

    Args:
        forward: how the network is called.
        loader: of the split.
        examples: how many rows.

    Returns:
        for each dense task three rows, input, target and prediction: uint8 [3, N, 3, H, W].
    """
    model = forward.model
    dense = [name for name in forward.names if forward.tasks[name].per == "pixel"]
    if not dense:
        return {}
    training = model.training
    model.eval()
    pictures: dict[str, Tensor] = {}
    for batch, _ in loader:
        here = [name for name in dense if model.architecture.stream_of[name] in batch]
        new = [name for name in here if name not in pictures]
        if not new:
            continue
        indices = [forward.names.index(name) for name in new]
        features = forward.features(batch, indices)
        for index, name in zip(indices, new, strict=True):
            inputs = batch[model.architecture.stream_of[name]].inputs
            prediction = forward.prediction(index, features[name][:examples])
            task = forward.tasks[name]
            target = forward.target(batch, index)[:examples]
            rows = visible(inputs[:examples]), task.picture(target), task.picture(prediction)
            pictures[name] = torch.stack([row.cpu() for row in rows])
    model.train(training)
    return pictures


def visible(inputs: Tensor) -> Tensor:
    """Normalised images, each stretched to its own range: uint8 [N, 3, H, W] on the CPU."""
    images = inputs[:, :3].float()
    if images.shape[1] < 3:
        images = images[:, :1].expand(-1, 3, -1, -1)
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    high = images.amax(dim=(1, 2, 3), keepdim=True)
    scaled = (images - low) / (high - low).clamp(min=1e-6) * 255
    return scaled.round().to(torch.uint8).cpu()
