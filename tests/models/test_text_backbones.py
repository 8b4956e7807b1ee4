"""Backbones that read words: padding counts for nothing, and each is what its paper says."""

from typing import Any

import pytest
import torch
from backbone_inputs import NAMES, VOCABULARY, build, kind_of, tokens
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mtlrun.models.backbones.bag_of_words import BagOfWords
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.backbones.lstm import LSTM
from mtlrun.models.backbones.text_cnn import TextCNN
from mtlrun.models.backbones.transformer import Block, Transformer, sinusoids
from mtlrun.models.layers import MARK, only_tokens, pooling, token_mask
from mtlrun.models.text import without_repeats

TEXT = [name for name in NAMES if kind_of(name) == "tokens"]
OWN = [name for name in TEXT if name != "pretrained_text"]
ROWS = torch.tensor([[5, 9, 5, 2, 7, 1, 3], [8, 2, 2, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0]])
LENGTHS = [7, 3, 1]


def stage_outputs(backbone: Backbone, rows: Tensor) -> list[Tensor]:
    outputs = [backbone.stages[0](rows)]
    for stage in backbone.stages[1:]:
        outputs.append(stage(outputs[-1]))
    return outputs


# -- what all have in common ----------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("training", [True, False])
def test_sequences_are_zero_at_padding_and_nowhere_else(name: str, training: bool) -> None:
    backbone = build(name).train(training)
    for features, layout in zip(stage_outputs(backbone, ROWS), backbone.layouts, strict=True):
        if layout == "sequence":
            assert torch.equal(token_mask(features), ROWS != 0)


@pytest.mark.parametrize("name", TEXT)
def test_a_row_alone_equals_the_row_in_a_longer_batch(name: str) -> None:
    backbone = build(name).eval().double()
    longer = F.pad(ROWS, (0, 4))
    together, padded = stage_outputs(backbone, ROWS), stage_outputs(backbone, longer)
    for row, length in enumerate(LENGTHS):
        alone = stage_outputs(backbone, ROWS[row : row + 1, :length])
        for one, many, most in zip(alone, together, padded, strict=True):
            places = slice(length) if one.dim() == 3 else slice(None)
            torch.testing.assert_close(many[row][places], one[0], rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(most[row][places], one[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", TEXT)
def test_a_row_without_words_is_zero_and_harms_no_gradient(name: str) -> None:
    backbone = build(name).train()
    rows = torch.cat([ROWS, torch.zeros_like(ROWS[:1])])
    features = backbone(rows)
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    if name == "bag_of_words":
        assert torch.equal(features[3], torch.full((200,), 0.5))  # sigmoid(0), the bias being 0
    else:
        assert torch.equal(features[3], torch.zeros_like(features[3]))
    with torch.no_grad():
        nothing = backbone(torch.zeros(2, 1, dtype=torch.int64))
    assert torch.equal(nothing[0].flatten(), features[3].flatten()[: nothing[0].numel()])


@pytest.mark.parametrize("name", OWN)
def test_nothing_is_read_back_from_the_device(name: str) -> None:
    backbone = build(name)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # its tensors have no values
        rows = mode.from_tensor(ROWS)
        backbone(rows).sum().backward()


@pytest.mark.parametrize("name", OWN)
def test_padding_has_no_gradient_and_no_vector(name: str) -> None:
    backbone = build(name)
    (table,) = [module for module in backbone.modules() if isinstance(module, nn.Embedding)]
    backbone(ROWS).sum().backward()
    assert table.weight.grad is not None
    assert not table.weight.grad.is_sparse
    assert table.weight.shape[0] == VOCABULARY
    assert (table.weight[0] == 0).all()
    assert (table.weight.grad[0] == 0).all()
    assert (table.weight.grad[5] != 0).any()


def test_a_token_that_lost_all_its_features_is_not_taken_for_padding() -> None:
    features = torch.tensor([[[0.0, 0.0], [0.0, 2.0], [3.0, 4.0]]], requires_grad=True)
    here = torch.tensor([[True, True, False]])
    marked = only_tokens(features, here)
    assert marked.tolist() == [[[torch.tensor(MARK).item()] * 2, [0, 2], [0, 0]]]
    (gradient,) = torch.autograd.grad(marked.sum(), features)
    assert gradient.tolist() == [[[1, 1], [1, 1], [0, 0]]]


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_pooling_sends_nothing_to_padding(pool: str) -> None:
    features = torch.tensor([[[1.0, 2.0], [3.0, -4.0], [0.0, 0.0]], [[0.0, 0.0]] * 3])
    features.requires_grad_()
    (module,) = pooling("sequence", pool)
    pooled = module(features)
    assert pooled.tolist() == [[2, -1] if pool == "mean" else [3, 2], [0, 0]]
    (gradient,) = torch.autograd.grad(pooled.sum(), features)
    tokens = [[0.5, 0.5], [0.5, 0.5]] if pool == "mean" else [[0, 1], [1, 0]]
    assert gradient.tolist() == [[*tokens, [0, 0]], [[0, 0]] * 3]


def test_dropout_of_few_channels_keeps_every_token() -> None:
    backbone = LSTM(vocabulary=VOCABULARY, embedding=2, hidden=1, layers=2, dropout=0.9)
    rows = tokens(50, 9)
    for features in stage_outputs(backbone, rows):
        assert torch.equal(token_mask(features), rows != 0)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (BagOfWords, {"scale": "tfidf"}, "scale='tfidf' is none of count, binary, mean, sqrt"),
        (BagOfWords, {"word_dropout": 1.0}, "word_dropout=1.0 must be at least 0"),
        (BagOfWords, {"hidden": []}, r"hidden=\[\]"),
        (TextCNN, {"widths": []}, r"widths=\[\]"),
        (TextCNN, {"maps": 0}, r"maps=\[0\]"),
        (LSTM, {"layers": 0}, r"layers=\[0\]"),
        (LSTM, {"dropout": -0.1}, "dropout=-0.1"),
        (Transformer, {"width": 20, "attention_heads": 3}, "width=20 must be a multiple of"),
        (Transformer, {"width": 9, "attention_heads": 3}, "width=9 must be even"),
        (Transformer, {"layers": 0}, "layers=0 must be 1 or more"),
    ],
)
def test_wrong_settings_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(vocabulary=VOCABULARY, **settings)


# -- bag of words ---------------------------------------------------------------------------------


def counts_of(rows: Tensor, scale: str) -> Tensor:
    """The count vectors, [N, vocabulary]."""
    counts = F.one_hot(rows, VOCABULARY).sum(1).double()
    counts[:, 0] = 0
    words = counts.sum(1, keepdim=True)
    if scale == "binary":
        return counts.clamp(max=1)
    return counts / {"count": 1, "mean": words, "sqrt": words.sqrt()}[scale]


@pytest.mark.parametrize("scale", ["count", "binary", "mean", "sqrt"])
def test_bag_of_words_is_a_linear_layer_on_counts(scale: str) -> None:
    backbone = BagOfWords(vocabulary=VOCABULARY, hidden=(6, 4), scale=scale).double()
    rows = torch.cat([F.pad(ROWS, (0, 5)), tokens(5, 12)])
    bias, table, weight, shift = backbone.parameters()
    nn.init.normal_(bias)
    hidden = torch.sigmoid(counts_of(rows, scale) @ table + bias)
    expected = torch.sigmoid(hidden @ weight.T + shift)
    torch.testing.assert_close(backbone(rows), expected)
    cotangent = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(backbone(rows), [table, bias], cotangent),
        torch.autograd.grad(expected, [table, bias], cotangent),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_each_word_stays_once() -> None:
    once = without_repeats(torch.tensor([[5, 9, 5, 2, 5, 0], [7, 7, 0, 0, 0, 0]]))
    assert [sorted(row) for row in once.tolist()] == [[0, 0, 0, 2, 5, 9], [0, 0, 0, 0, 0, 7]]


def test_bag_of_words_begins_as_documented() -> None:
    torch.manual_seed(0)
    bias, table = BagOfWords(vocabulary=5001, hidden=(200,)).parameters()
    assert table[1:].std().item() == pytest.approx(0.1, rel=0.01)
    assert (bias == 0).all()


def test_dropped_words_are_whole_and_the_rest_is_scaled_up() -> None:
    torch.manual_seed(0)
    backbone = BagOfWords(vocabulary=3, hidden=(4,), word_dropout=0.25, norm="none")
    words = backbone.stages[0][0]
    row = torch.full((2000, 3), 2)
    found = words(row) / words.table.weight[2]  # how many are left, times 4/3
    left = (found[:, 0] * 0.75).round()
    torch.testing.assert_close(found, (left / 0.75).unsqueeze(1).expand(-1, 4))
    shares = [(left == number).double().mean().item() for number in range(4)]
    assert shares == pytest.approx([1 / 64, 9 / 64, 27 / 64, 27 / 64], abs=0.03)
    assert torch.equal(words.eval()(row), row.shape[1] * words.table.weight[2].expand(2000, 4))


# -- text CNN -------------------------------------------------------------------------------------


def test_text_cnn_is_kims() -> None:
    backbone = build("text_cnn").eval().double()
    assert backbone.channels == (100, 300)
    expected = []
    for row, length in zip(ROWS, LENGTHS, strict=True):
        vectors = backbone.stages[0].table.weight[row[:length]]
        answers = []
        for part in backbone.stages[1][0].parts:
            width = part.width
            words = F.pad(vectors, (0, 0, 0, max(width - length, 0)))
            runs = [words[i : i + width].T.flatten() for i in range(len(words) - width + 1)]
            filters = part.filters.weight.squeeze(2).flatten(1)
            answers.append((torch.stack(runs) @ filters.T + part.filters.bias).amax(0))
        expected.append(torch.cat(answers).relu())
    torch.testing.assert_close(backbone(ROWS), torch.stack(expected))
    dropped = (backbone.train()(ROWS) == 0) & (torch.stack(expected) > 0)
    assert 0.3 < dropped.sum() / (torch.stack(expected) > 0).sum() < 0.7


# -- LSTM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [True, False])
def test_lstm_is_torchs_on_packed_rows(bidirectional: bool) -> None:
    settings = {"hidden": 6, "layers": 2, "bidirectional": bidirectional}
    backbone = build("lstm", **settings).eval().double()
    assert backbone.channels == ((100, 12, 12) if bidirectional else (100, 6, 6))
    oracle = nn.LSTM(100, 6, 2, batch_first=True, bidirectional=bidirectional).double()
    with torch.no_grad():
        for theirs, mine in zip(
            oracle.parameters(),
            [p for stage in backbone.stages[1:] for p in stage.parameters()],
            strict=True,
        ):
            theirs.copy_(mine)
    packed = pack_padded_sequence(backbone.stages[0](ROWS), LENGTHS, batch_first=True)
    expected, _ = pad_packed_sequence(oracle(packed)[0], batch_first=True)
    torch.testing.assert_close(backbone(ROWS), expected)


# -- Transformer ----------------------------------------------------------------------------------


def test_block_is_torchs_encoder_layer() -> None:
    mine = Block(8, 2, 12, dropout=0.0, last=False).double()
    theirs = nn.TransformerEncoderLayer(
        8, 2, 12, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    attention = theirs.self_attn
    pairs = [
        (mine.attention.queries_keys_values.weight, attention.in_proj_weight),
        (mine.attention.queries_keys_values.bias, attention.in_proj_bias),
        *zip(mine.attention.attended.parameters(), attention.out_proj.parameters(), strict=True),
        *zip(mine.attention.norm.parameters(), theirs.norm1.parameters(), strict=True),
        *zip(mine.feedforward.layers[0].parameters(), theirs.norm2.parameters(), strict=True),
        *zip(mine.feedforward.layers[1].parameters(), theirs.linear1.parameters(), strict=True),
        *zip(mine.feedforward.layers[3].parameters(), theirs.linear2.parameters(), strict=True),
    ]
    with torch.no_grad():
        for one, other in pairs:
            other.copy_(nn.init.normal_(one))
    here = ROWS != 0
    features = torch.randn(3, 7, 8, dtype=torch.float64) * here.unsqueeze(2)
    expected = theirs(features, src_key_padding_mask=~here) * here.unsqueeze(2)
    torch.testing.assert_close(mine(features), expected)


def test_positions_are_vaswanis() -> None:
    found = sinusoids(50, torch.zeros(6, dtype=torch.float64))
    for position in (0, 1, 49):
        for pair in range(3):
            angle = torch.tensor(position / 10_000 ** (2 * pair / 6), dtype=torch.float64)
            assert found[position, 2 * pair].item() == pytest.approx(angle.sin().item(), abs=1e-12)
            assert found[position, 2 * pair + 1].item() == pytest.approx(angle.cos().item())


def test_words_weigh_as_much_as_their_positions() -> None:
    placed = build("transformer").eval().stages[0]
    words = placed.table.weight[ROWS[:1]] * 128**0.5
    assert words.std().item() == pytest.approx(1, rel=0.1)
    torch.testing.assert_close(placed(ROWS[:1]), words + sinusoids(7, words))


def test_transformer_looks_at_the_order_and_ends_normalised() -> None:
    backbone = build("transformer").eval().double()
    one, other = backbone(torch.tensor([[5, 6, 7]])), backbone(torch.tensor([[6, 5, 7]]))
    assert (one[0, 2] - other[0, 2]).abs().max() > 1e-3
    torch.testing.assert_close(one.mean(2), torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(
        one.var(2, correction=0), torch.ones(1, 3).double(), rtol=1e-3, atol=0
    )
    assert backbone(torch.ones(1, 400, dtype=torch.int64)).shape == (1, 400, 128)
