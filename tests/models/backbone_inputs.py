"""Any backbone of configs/backbone, with inputs of a kind that it reads."""

import inspect
import logging
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import Tensor

from mtlrun.models.backbones.base import Backbone

CONFIGS = Path(__file__).parents[2] / "configs" / "backbone"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
SHAPE = (3, 36, 40)
"""Of an input of values."""

WIDTHS: dict[str, dict[str, Any]] = {
    "segnet": {"widths": (8, 12, 16)},
    "unet": {"widths": (8, 12, 16)},
    "resnet34": {"width": 16},
    "resnet101": {"width": 8},
}
"""Of backbones that would be slow at their own; their tests look at those."""

VOCABULARY = 30
LENGTH = 7
NUMERIC, CARDINALITIES, TEXT = 4, (5, 3), 6


def kind_of(name: str) -> str:
    """The first kind of input that a backbone reads."""
    kind: str = get_class(OmegaConf.load(CONFIGS / f"{name}.yaml")._target_).reads[0]
    return kind


def facts_of(kind: str, shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    """What a dataset says of its inputs; ``shape`` is that of values."""
    if kind == "tokens":
        return {"input_shape": (LENGTH,), "vocabulary": VOCABULARY}
    if kind == "columns":
        return {
            "input_shape": (NUMERIC + len(CARDINALITIES) + TEXT,),
            "numeric": NUMERIC,
            "cardinalities": CARDINALITIES,
            "text_length": TEXT,
            "vocabulary": VOCABULARY,
        }
    return {"input_shape": shape}


def build(name: str, shape: tuple[int, ...] = SHAPE, **settings: Any) -> Backbone:
    """A backbone with the weights of seed 0. The facts that it takes may be overridden."""
    torch.manual_seed(0)
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    if name == "pretrained_text":
        settings = {"path": str(tiny_encoder()), **settings}
    taken = inspect.signature(get_class(config._target_)).parameters
    settings = {**WIDTHS.get(name, {}), **settings}
    facts = {key: fact for key, fact in facts_of(kind_of(name), shape).items() if key in taken}
    backbone = instantiate(config, **{**facts, **settings}, _convert_="all")
    assert isinstance(backbone, Backbone)
    return backbone


def inputs_of(kind: str, rows: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Inputs of a kind, [rows, ...]; the first row of tokens is the longest."""
    if kind == "tokens":
        return tokens(rows, LENGTH)
    if kind == "columns":
        codes = [torch.randint(count, (rows, 1)) for count in CARDINALITIES]
        return torch.cat([torch.randn(rows, NUMERIC), *codes, tokens(rows, TEXT)], 1)
    return torch.randn(rows, *shape)


def tokens(rows: int, length: int) -> Tensor:
    """Rows of 1 token and more, filled up with 0."""
    numbers = torch.randint(1, VOCABULARY, (rows, length))
    lengths = torch.randint(1, length + 1, (rows, 1))
    lengths[0] = length
    return numbers.masked_fill(torch.arange(length) >= lengths, 0)


@cache
def tiny_encoder() -> Path:
    """A folder with a random BERT of VOCABULARY - 1 words."""
    transformers = pytest.importorskip("transformers")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY - 1,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
    )
    folder = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder
