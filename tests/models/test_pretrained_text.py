"""The backbone that reads an encoder of transformers from a folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_inputs import VOCABULARY, build, tiny_encoder

from mtlrun.models.backbones.pretrained_text import PretrainedText, longest_row

transformers = pytest.importorskip("transformers")
ROWS = torch.tensor([[3, 10, 20, 4], [3, 4, 0, 0]])


def test_tokens_have_the_encoders_numbers_plus_one() -> None:
    backbone = build("pretrained_text").eval()
    encoder = transformers.BertModel.from_pretrained(tiny_encoder()).eval()
    with torch.no_grad():
        found = backbone(ROWS)
        for row, length in enumerate((4, 2)):
            expected = encoder(input_ids=ROWS[row : row + 1, :length] - 1).last_hidden_state[0]
            torch.testing.assert_close(found[row, :length], expected)
    assert (found[1, 2:] == 0).all()
    assert backbone.channels == (16,)


def test_what_is_frozen() -> None:
    trained = {
        freeze: {
            n for n, p in build("pretrained_text", freeze=freeze).named_parameters() if train(p)
        }
        for freeze in ("none", "embeddings", "all")
    }
    assert not any("pooler" in name for name in trained["none"])
    (table,) = trained["none"] - trained["embeddings"]
    assert table.endswith("word_embeddings.weight")
    assert trained["all"] == set()


def train(parameter: torch.nn.Parameter) -> bool:
    return parameter.requires_grad


def test_a_frozen_encoder_drops_nothing_and_keeps_no_graph() -> None:
    frozen, free = build("pretrained_text", freeze="all").train(), build("pretrained_text").train()
    assert torch.equal(frozen(ROWS), frozen.eval()(ROWS))
    assert not frozen(ROWS).requires_grad
    assert not torch.equal(free(ROWS), free(ROWS))


def test_the_encoder_is_held_in_float32(tmp_path: Path) -> None:
    half = transformers.BertModel.from_pretrained(tiny_encoder()).bfloat16()
    half.save_pretrained(tmp_path)
    backbone = build("pretrained_text", path=str(tmp_path))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_a_table_with_spare_rows_goes_by_the_tokenizer(tmp_path: Path) -> None:
    transformers.BertModel.from_pretrained(tiny_encoder()).save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijk"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    assert build("pretrained_text", path=str(tmp_path), vocabulary=len(tokenizer) + 1)
    with pytest.raises(Exception, match=r"numbers 5 words, and the encoder in .* has 29"):
        build("pretrained_text", path=str(tmp_path), vocabulary=6)


def test_robertas_positions_begin_behind_its_padding() -> None:
    config = transformers.RobertaConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=12,
        pad_token_id=1,
    )
    model = transformers.RobertaModel(config)
    assert longest_row(model) == 10
    model(input_ids=torch.full((1, 10), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 11), 5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": None}, "path=None is no folder: name one with an encoder's config.json"),
        ({"path": "/nowhere/at/all"}, "path=/nowhere/at/all is no folder"),
        ({"vocabulary": VOCABULARY + 5}, r"numbers 34 words, .* has 29: use dataset.tokenizer="),
        ({"vocabulary": VOCABULARY - 1}, r"numbers 28 words, .* has 29: use dataset.tokenizer="),
        ({"input_shape": (13,)}, "reads at most 12: use dataset.max_length=12"),
        ({"freeze": "half"}, "freeze='half' is none of none, embeddings, all"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    facts = {"input_shape": (7,), "vocabulary": VOCABULARY, "path": str(tiny_encoder())}
    with pytest.raises(ValueError, match=message):
        PretrainedText(**{**facts, **settings})


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"path={tmp_path} holds no encoder"):
        PretrainedText(input_shape=(7,), vocabulary=VOCABULARY, path=str(tmp_path))
