"""Task gradients through the backbones for text and tables are those of plain autograd."""

from collections.abc import Callable

import pytest
import torch
from engine_reference import assert_gramian, check_update, names_of, plain_gradients
from engine_toys import WEIGHTS, WIDTH, given, hps_model, toy_batch, toy_tasks, training_step
from engine_ways import force, memory_of
from torch import Tensor, nn

from mtlrun.models.backbones.bag_of_words import BagOfWords
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.backbones.lstm import LSTM
from mtlrun.models.backbones.tabular_mlp import TabularMLP
from mtlrun.models.backbones.text_cnn import TextCNN
from mtlrun.models.backbones.transformer import Transformer
from mtlrun.models.layers import pooling

WAYS = ["plain", "kernels", "batched", "segments"]
VOCABULARY = 12
ROWS = torch.tensor(
    [
        [5, 9, 5, 2, 7],
        [8, 2, 2, 0, 0],
        [4, 0, 0, 0, 0],
        [1, 11, 1, 3, 0],
        [0, 0, 0, 0, 0],
        [6, 6, 0, 0, 0],
        [10, 3, 2, 5, 9],
    ]
)
NUMBERS = torch.randn(7, 2, generator=torch.Generator().manual_seed(2))
TABLE = torch.cat([NUMBERS, ROWS[:, :1].clamp(max=3), ROWS[:, 1:2], ROWS], 1)


def table_mlp(dropout: float) -> Backbone:
    return TabularMLP(
        input_shape=(9,),
        numeric=2,
        cardinalities=(4, VOCABULARY),
        text_length=5,
        vocabulary=VOCABULARY,
        hidden=(8, 5),
        dropout=dropout,
        text_embedding=4,
    )


def bag(dropout: float) -> Backbone:
    return BagOfWords(
        vocabulary=VOCABULARY, hidden=(8, 5), scale="binary", word_dropout=dropout, dropout=dropout
    )


def text_cnn(dropout: float) -> Backbone:
    return TextCNN(vocabulary=VOCABULARY, embedding=6, widths=(2, 3), maps=4, dropout=dropout)


def lstm(dropout: float) -> Backbone:
    return LSTM(vocabulary=VOCABULARY, embedding=6, hidden=4, layers=2, dropout=dropout)


def transformer(dropout: float) -> Backbone:
    return Transformer(
        vocabulary=VOCABULARY, width=8, attention_heads=2, feedforward=6, dropout=dropout
    )


BACKBONES: dict[str, tuple[Callable[[float], Backbone], Tensor]] = {
    "bag_of_words": (bag, ROWS),
    "text_cnn": (text_cnn, ROWS),
    "lstm": (lstm, ROWS),
    "transformer": (transformer, ROWS),
    "tabular_mlp": (table_mlp, TABLE),
}


def trunk_of(backbone: Backbone) -> nn.Module:
    """A backbone and, where it gives sequences, the mean over their tokens, to WIDTH features."""
    pool = pooling(backbone.layouts[-1], "mean")
    return nn.Sequential(backbone, *pool, nn.Linear(backbone.channels[-1], WIDTH))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BACKBONES)
def test_gramian_and_update(
    name: str, way: str, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    make, inputs = BACKBONES[name]
    tasks = toy_tasks()
    model = hps_model(trunk_of(make(dropout)), tasks)
    batch = toy_batch(inputs=inputs)
    plain = plain_gradients(model, tasks, [batch], double=dropout == 0)
    weighting = given()
    step = training_step(model, tasks, weighting, memory=memory_of(way))
    force(way, step, monkeypatch)

    step([batch], 0, 0)

    shared = names_of(model, model.shared_parameters())
    assert_gramian(weighting.gramians[0], plain.gramian(shared))
    check_update(model, plain, shared, WEIGHTS, "unweighted")


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_at_the_last_layer(name: str) -> None:
    torch.manual_seed(1)
    make, inputs = BACKBONES[name]
    tasks = toy_tasks()
    backbone = make(0.0)
    model = hps_model(trunk_of(backbone), tasks)
    last = backbone.last_layer()
    model.architecture.last_shared_layer = lambda: last  # type: ignore[method-assign]
    batch = toy_batch(inputs=inputs)
    plain = plain_gradients(model, tasks, [batch])
    weighting = given()
    training_step(model, tasks, weighting, place="last_layer")([batch], 0, 0)
    assert_gramian(weighting.gramians[0], plain.gramian(names_of(model, last)))
    shared = names_of(model, model.shared_parameters())
    check_update(model, plain, shared, WEIGHTS, "unweighted")
