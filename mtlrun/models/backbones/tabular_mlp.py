"""A multi-layer perceptron on the columns of a table."""

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_choice, expect_widths
from mtlrun.models.layers import BatchNorm1d, dense_stages
from mtlrun.models.text import WordSum
from mtlrun.types import InputKind


class TabularMLP(Backbone):
    """Fully connected layers on numbers, embedded categories and embedded text, side by side.

    Stage 1 joins the columns and has the first layer; each further layer is a stage. A layer is
    linear - normalisation - activation - dropout. On inputs that are plain values it is the
    backbone ``mlp``.

    Args:
        input_shape: shape of one input, without the batch.
        numeric: number of numeric columns, the first; None where inputs are plain values.
        cardinalities: codes that each categorical column may have; these columns come next.
        text_length: columns of tokens, the last; 0 where there is no text.
        vocabulary: numbers that a token may have.
        hidden: width of each layer, one or more.
        activation: ``relu``, ``leaky_relu``, ``elu``, ``gelu``, ``silu``, ``tanh`` or ``sigmoid``.
        dropout: rate after each layer.
        norm: of each layer: ``none``, ``batch`` or ``layer``.
        numeric_norm: of the numeric columns: ``none``, or ``batch`` where the dataset does not
            standardise them.
        embedding: width of each category's vector; None for min(50, round(1.6 c^0.56)) in a column
            of c codes (Howard and Gugger, Information 2020: fastai's rule).
        text_embedding: width of the words' vectors, whose mean stands for a text.

    Raises:
        ValueError: where a setting is wrong or has no effect.
    """

    reads: ClassVar[tuple[InputKind, ...]] = ("columns", "values")

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        numeric: int | None = None,
        cardinalities: Sequence[int] = (),
        text_length: int = 0,
        vocabulary: int = 0,
        hidden: Sequence[int] = (200, 100),
        activation: str = "relu",
        dropout: float = 0.0,
        norm: str = "none",
        numeric_norm: str = "none",
        embedding: int | None = None,
        text_embedding: int = 50,
    ) -> None:
        widths = expect_widths("hidden", hidden)
        expect_choice("numeric_norm", numeric_norm, ("none", "batch"))
        expect_widths("text_embedding", [text_embedding])
        if embedding is not None:
            expect_widths("embedding", [embedding])
            if not cardinalities:
                raise ValueError(
                    f"embedding={embedding} has no effect: this dataset has no categorical columns"
                )
        columns = prod(input_shape)
        numbers = columns if numeric is None else numeric
        if numbers + len(cardinalities) + text_length != columns:
            raise ValueError(
                f"{numbers} numeric, {len(cardinalities)} categorical and {text_length} text "
                f"columns do not make the {columns} columns of the inputs"
            )
        if numeric_norm != "none" and numbers == 0:
            raise ValueError(
                f"numeric_norm={numeric_norm} has no effect: this dataset has no numeric columns"
            )
        joined = JoinedColumns(
            numbers,
            [(codes, embedding or usual_width(codes)) for codes in cardinalities],
            (vocabulary, text_embedding) if text_length else None,
            numeric_norm == "batch",
        )
        stages = dense_stages(joined.width, widths, activation, dropout, norm, before=[joined])
        super().__init__(stages, widths, ["vector"] * len(stages))


def usual_width(codes: int) -> int:
    """Width of the vectors of a column with so many codes, see :class:`TabularMLP`."""
    width: float = 1.6 * codes**0.56
    return min(50, max(1, round(width)))


class JoinedColumns(nn.Module):
    """From the columns of a table, [N, ...], to one vector a row, [N, width].

    A category's vector begins normal with deviation 1 / sqrt(its width), so that a column weighs
    about as much as a standardised number. The vector of code 0 (missing, or not in the training
    rows) begins at 0 and is learned where values are missing in training.

    Args:
        numeric: number of numeric columns, the first.
        categories: for each categorical column, which come next, its codes and its vectors' width.
        text: vocabulary and width of the vectors for the columns that are left; None without text.
        norm: whether numeric columns are normalised by the batch.

    Attributes:
        width: features that it gives.
    """

    def __init__(
        self,
        numeric: int,
        categories: Sequence[tuple[int, int]],
        text: tuple[int, int] | None,
        norm: bool,
    ) -> None:
        super().__init__()
        self.numeric = numeric
        self.norm = BatchNorm1d(numeric) if norm else None
        tables = [nn.Embedding(codes, width) for codes, width in categories]
        with torch.no_grad():
            for table in tables:
                table.weight.normal_(std=table.embedding_dim**-0.5)[0] = 0
        self.tables = nn.ModuleList(tables)
        self.words = None if text is None else WordSum(*text, scale="mean", spread=1, bias=False)
        self.width = numeric + sum(w for _, w in categories) + (0 if text is None else text[1])

    def forward(self, inputs: Tensor) -> Tensor:
        """Vectors, [N, width]."""
        columns = inputs.flatten(1)
        numbers = columns[:, : self.numeric]
        parts = [numbers if self.norm is None else self.norm(numbers)]
        if self.tables:
            codes = columns[:, self.numeric : self.numeric + len(self.tables)].long()
            parts += [table(codes[:, place]) for place, table in enumerate(self.tables)]
        if self.words is not None:
            parts.append(self.words(columns[:, self.numeric + len(self.tables) :].long()))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
