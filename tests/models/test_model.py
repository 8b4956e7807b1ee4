from torch import nn
from torch.nn.utils import parametrizations

from mtlrun.models.architectures.hps import HPS
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.heads.linear import LinearHead
from mtlrun.models.model import MultiTaskModel


def names_of_layers(trunk: nn.Module, *frozen: str) -> list[list[str]]:
    backbone = Backbone([trunk], [4], [False])
    architecture = HPS(make_backbone=lambda _: backbone, streams={"rows": ("a", "b")})
    head = LinearHead(in_channels=4, out_channels=1, layout="vector")
    model = MultiTaskModel(architecture, {"a": head, "b": head})
    for name in frozen:
        trunk.get_parameter(name).requires_grad_(False)
    names = {id(parameter): name for name, parameter in trunk.named_parameters()}
    layers = model.shared_layers()
    assert [p for layer in layers for p in layer] == model.shared_parameters()
    return [[names[id(parameter)] for parameter in layer] for layer in layers]


def test_layers_are_the_modules_that_hold_shared_parameters() -> None:
    trunk = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4, False))
    assert names_of_layers(trunk) == [["0.weight", "0.bias"], ["1.weight", "1.bias"], ["3.weight"]]


def test_frozen_parameters_belong_to_no_layer() -> None:
    trunk = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    frozen = ("0.bias", "1.weight", "1.bias")
    assert names_of_layers(trunk, *frozen) == [["0.weight"], ["2.weight", "2.bias"]]


def test_a_tied_weight_belongs_to_one_layer() -> None:
    trunk = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    trunk[1].weight = trunk[0].weight
    found = names_of_layers(trunk)
    assert sorted(name for layer in found for name in layer) == ["0.bias", "0.weight", "1.bias"]


def test_parameters_of_a_module_around_others() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(nn.init.ones_(nn.Linear(1, 1).weight))
            self.inner = parametrizations.weight_norm(nn.Linear(3, 4))

    assert names_of_layers(Scaled()) == [
        ["scale"],
        ["inner.bias"],
        [f"inner.parametrizations.weight.original{number}" for number in (0, 1)],
    ]
