"""Any architecture of configs/architecture on any small backbone."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import backbone_inputs
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from mtlrun.models.architectures.base import Architecture, MakeBackbone
from mtlrun.models.backbones.base import Backbone
from mtlrun.types import OutputShape

CONFIGS = Path(__file__).parents[2] / "configs" / "architecture"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
ONE_STREAM = {"images": ("a", "b", "c")}
TWO_STREAMS = {"images": ("a", "b"), "more": ("c",)}
EPOCHS = 8

SMALL: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"input_shape": (6,), "hidden": (5, 5)},
    "cnn": {"input_shape": (1, 8, 8), "channels": (4, 4)},
    "lstm": {"vocabulary": 30, "embedding": 6, "hidden": 3, "layers": 2, "dropout": 0.0},
}
"""One backbone of each layout, with stages that have equal channels in and out."""

SMALLER: Mapping[str, Mapping[str, int]] = {
    "care": {"encoders": 2},
    "cgc": {"shared_experts": 1},
    "mmoe": {"experts": 2},
    "mti_net": {"channels": 32},
    "pad_net": {"channels": 16},
    "ple": {"shared_experts": 1},
}
"""Settings that make an architecture small, where a test has no other."""

KINDS = {"mlp": "values", "cnn": "values", "lstm": "tokens"}


def maker(backbone: str, **settings: Any) -> MakeBackbone:
    """Makes copies of a small backbone."""

    def make(copy: int) -> Backbone:
        made = backbone_inputs.build(backbone, **{**SMALL.get(backbone, {}), **settings})
        return reseeded(made, copy)

    return make


def reseeded(backbone: Backbone, copy: int) -> Backbone:
    """A backbone with other weights for each copy."""
    torch.manual_seed(copy)
    for module in backbone.modules():
        if copy and isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.3)
    return backbone


def facts_for(backbone: str, streams: Mapping[str, Sequence[str]], epochs: int) -> dict[str, Any]:
    """The runtime facts beside the backbone itself."""
    kind = KINDS.get(backbone) or backbone_inputs.kind_of(backbone)
    shape = SMALL.get(backbone, {}).get(
        "input_shape", backbone_inputs.facts_of(kind)["input_shape"]
    )
    dense = len(shape) == 3
    size = (shape[1], shape[2]) if dense else None
    output = OutputShape(2, "pixel", size) if dense else OutputShape(2, "row")
    return {
        "streams": streams,
        "reads": {},
        "input_kind": kind,
        "input_shape": tuple(shape),
        "outputs": {task: output for tasks in streams.values() for task in tasks},
        "epochs": epochs,
    }


def build(
    name: str,
    streams: Mapping[str, Sequence[str]] = ONE_STREAM,
    backbone: str = "mlp",
    *,
    make: MakeBackbone | None = None,
    epochs: int = EPOCHS,
    small: bool = False,
    **settings: Any,
) -> Architecture:
    """An architecture with its YAML's settings; ValueError where it does not fit the backbone.

    With ``small`` those that take long have other ones.
    """
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    facts = {"make_backbone": make or maker(backbone), **facts_for(backbone, streams, epochs)}
    taken = inspect.signature(get_class(config._target_)).parameters
    given = {key: fact for key, fact in facts.items() if key in taken}
    torch.manual_seed(0)
    partial = instantiate(config, _partial_=True, _convert_="all", _recursive_=False)
    known = {key: value for key, value in settings.items() if key in taken or key not in facts}
    known = {**(SMALLER.get(name, {}) if small else {}), **known}
    architecture = partial(**{**given, **known})
    assert isinstance(architecture, Architecture)
    return architecture


def inputs_of(
    streams: Mapping[str, Sequence[str]], backbone: str = "mlp", rows: int = 3
) -> dict[str, Tensor]:
    """Inputs of each stream."""
    kind = KINDS.get(backbone) or backbone_inputs.kind_of(backbone)
    shape = SMALL.get(backbone, {}).get("input_shape", backbone_inputs.SHAPE)
    return {stream: backbone_inputs.inputs_of(kind, rows, tuple(shape)) for stream in streams}


def reached_by(
    architecture: Architecture, inputs: Mapping[str, Tensor], tasks: Sequence[str]
) -> dict[str, set[int]]:
    """For each task the ids of the parameters that a loss on its features reaches, in any epoch."""
    found: dict[str, set[int]] = {task: set() for task in tasks}
    parameters = [p for p in architecture.parameters() if p.requires_grad]
    phases = type(architecture).start_step is not Architecture.start_step
    for epoch in range(EPOCHS if phases else 1):
        for step in range(2 if phases else 1):
            architecture.start_step(epoch, 2 * epoch + step)
            features = architecture(inputs, tasks)
            for task in tasks:
                loss = features[task].square().sum()
                gradients = torch.autograd.grad(
                    loss, parameters, retain_graph=True, allow_unused=True
                )
                found[task] |= {
                    id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None
                }
    return found
