"""The backbone for tables: how columns are joined, and what is refused."""

from typing import Any

import pytest
import torch
from backbone_inputs import CARDINALITIES, NUMERIC, TEXT, build, facts_of, inputs_of
from torch import nn

from mtlrun.models.backbones.tabular_mlp import TabularMLP, usual_width


def test_columns_are_numbers_then_categories_then_text() -> None:
    backbone = build("tabular_mlp", embedding=3, text_embedding=5).double()
    joined = backbone.stages[0][0]
    inputs = inputs_of("columns", 4).double()
    inputs[3, -TEXT:] = 0  # no text
    codes = inputs[:, NUMERIC : NUMERIC + 2].long()
    text = inputs[:, -TEXT:].long()
    words = [joined.words.table.weight[row[row != 0]] for row in text]
    means = [w.mean(0) if len(w) else torch.zeros(5, dtype=torch.float64) for w in words]
    expected = [
        inputs[:, :NUMERIC],
        joined.tables[0].weight[codes[:, 0]],
        joined.tables[1].weight[codes[:, 1]],
        torch.stack(means),
    ]
    torch.testing.assert_close(joined(inputs), torch.cat(expected, 1))
    assert joined.width == NUMERIC + 3 + 3 + 5
    assert joined.words.bias is None
    assert backbone.channels == (200, 100)


def test_missing_categories_begin_at_zero_and_are_learned() -> None:
    joined = build("tabular_mlp").stages[0][0]
    inputs = inputs_of("columns", 2)
    inputs[:, NUMERIC] = 0
    joined(inputs).sum().backward()
    table = joined.tables[0]
    assert (table.weight[0] == 0).all()
    assert (table.weight[1:] != 0).all()
    assert (table.weight.grad[0] == 2).all()


@pytest.mark.parametrize(
    ("codes", "width"), [(1, 2), (2, 2), (3, 3), (10, 6), (100, 21), (468, 50), (10_000, 50)]
)
def test_usual_width_is_fastais(codes: int, width: int) -> None:
    assert usual_width(codes) == width


def test_large_codes_survive_float32() -> None:
    codes = 2**22 - 1
    backbone = TabularMLP(input_shape=(1,), numeric=0, cardinalities=[codes + 1], embedding=1)
    joined = backbone.stages[0][0]
    joined.tables[0].weight.data[codes] = 7.0
    assert joined(torch.tensor([[float(codes)]])).item() == 7.0


def test_values_alone_make_it_the_mlp() -> None:
    shape, inputs = (2, 3, 4), torch.randn(5, 2, 3, 4)
    one = build("tabular_mlp", input_shape=shape, **no_facts(), hidden=[7, 3])
    other = build("mlp", shape, hidden=[7, 3])
    assert torch.equal(one(inputs), other(inputs))


def no_facts() -> dict[str, Any]:
    return {"numeric": None, "cardinalities": (), "text_length": 0, "vocabulary": 0}


def test_numeric_columns_are_normalised_where_asked() -> None:
    facts = {**facts_of("columns"), "numeric_norm": "batch"}
    joined = TabularMLP(**facts).stages[0][0]
    inputs = inputs_of("columns", 50)
    inputs[:, :NUMERIC] = inputs[:, :NUMERIC] * 20 + 300
    joined_numbers = joined(inputs)[:, :NUMERIC]
    torch.testing.assert_close(joined_numbers.mean(0), torch.zeros(NUMERIC), atol=1e-4, rtol=0)
    joined_spread = joined_numbers.std(0, correction=0)
    torch.testing.assert_close(joined_spread, torch.ones(NUMERIC), atol=1e-3, rtol=0)
    assert [type(table) for table in joined.tables] == [nn.Embedding] * len(CARDINALITIES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding": 3}, "embedding=3 has no effect: this dataset has no categorical columns"),
        (
            {"numeric": 0, "cardinalities": (2,) * 4, "numeric_norm": "batch"},
            "numeric_norm=batch has no effect: this dataset has no numeric columns",
        ),
        ({"numeric_norm": "layer"}, "numeric_norm='layer' is none of none, batch"),
        ({"numeric": 1, "cardinalities": (2,)}, "1 numeric, 1 categorical and 0 text .* 4 columns"),
        ({"hidden": []}, r"hidden=\[\]"),
        ({"text_embedding": 0}, r"text_embedding=\[0\]"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularMLP(input_shape=(4,), **settings)
