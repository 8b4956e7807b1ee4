"""CARE: attention over encoders by what is known of the tasks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, build, inputs_of, maker
from torch import nn

from mtlrun.models.architectures.care import CARE, beside
from mtlrun.models.sharing.contexts import expect_contexts, sentence_contexts
from mtlrun.models.sharing.reading import stage_outputs

TASKS = ("a", "b", "c")
CONTEXTS = {"a": [1.0, 0.0, -2.0], "b": [0.5, 0.5, 0.0], "c": [1.0, 0.0, -2.0]}


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "lstm"])
def test_one_encoder_is_hard_sharing(backbone: str) -> None:
    alone = build("care", ONE_STREAM, backbone, encoders=1, concat_context=False)
    shared = build("hps", ONE_STREAM, backbone)
    inputs = inputs_of(ONE_STREAM, backbone)
    assert alone.one_representation
    assert len(list(alone.parameters())) == len(list(shared.parameters()))
    features = []
    for architecture in (alone, shared):
        torch.manual_seed(0)
        features.append(architecture(inputs, TASKS)["b"])
    assert torch.equal(*features)
    assert not build("care", ONE_STREAM, backbone, encoders=1).one_representation


def test_features_are_the_attended_encoders_and_the_encoding() -> None:
    architecture = build("care", ONE_STREAM, "mlp", encoders=3, width=7, temperature=0.5)
    inputs = inputs_of(ONE_STREAM)
    features = architecture(inputs, TASKS)
    first, _, second, _ = architecture.encode
    for number, task in enumerate(TASKS):
        hidden = first(architecture.learned[number]).relu()
        encoding = second(hidden).relu()
        scores = architecture.attend(encoding) / 0.5
        weights = scores.exp() / scores.exp().sum()
        outputs = [stage_outputs(copy, inputs["images"])[-1] for copy in architecture.experts]
        mixture = sum(weight * output for weight, output in zip(weights, outputs, strict=True))
        expected = torch.cat([mixture, encoding.expand(3, -1)], 1)
        torch.testing.assert_close(features[task], expected)
    assert (first.out_features, second.out_features) == (14, 7)
    assert architecture.out_channels("a") == 5 + 7
    assert not torch.allclose(features["a"], features["b"])


def test_tasks_of_one_context_read_the_same() -> None:
    architecture = build("care", TWO_STREAMS, "mlp", contexts=CONTEXTS, width=6)
    inputs = inputs_of({"images": ("a", "b")})
    found = architecture({**inputs, "more": inputs["images"]}, TASKS)
    assert torch.equal(found["a"], found["c"])
    assert not torch.allclose(found["a"], found["b"])
    assert torch.equal(architecture.state_dict()["contexts"], torch.tensor(list(CONTEXTS.values())))
    assert all(architecture.task_parameters(task) == [] for task in TASKS)


def test_learned_contexts_are_the_tasks_own() -> None:
    architecture = build("care", ONE_STREAM, "mlp", width=6)
    assert [p.shape for p in architecture.task_parameters("b")] == [(6,)]
    layers = [*architecture.encode.parameters(), *architecture.attend.parameters()]
    shared = {id(p) for p in architecture.shared_parameters()}
    assert all(id(p) in shared for p in layers)


def test_the_largest_attentions_are_scaled_to_sum_to_one() -> None:
    architecture = build("care", ONE_STREAM, "mlp", encoders=4, top=2, width=4)
    with torch.no_grad():
        architecture.attend[-1].weight.zero_()
        architecture.attend[-1].bias.copy_(torch.tensor([0.1, 0.4, 0.2, 0.3]).log())
    weights = architecture.attention(torch.ones(4))
    torch.testing.assert_close(weights, torch.tensor([0.0, 4 / 7, 0.0, 3 / 7]))


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_the_temperature_sharpens_or_evens(temperature: float) -> None:
    architecture = build("care", ONE_STREAM, "mlp", encoders=2, temperature=temperature, width=4)
    with torch.no_grad():
        architecture.attend[-1].weight.zero_()
        architecture.attend[-1].bias.copy_(torch.tensor([1.0, 0.0]))
    weights = architecture.attention(torch.ones(4))
    expected = [1.0, 0.0] if temperature < 1 else [0.5, 0.5]
    torch.testing.assert_close(weights, torch.tensor(expected), atol=1e-3, rtol=0)


def test_an_encoding_stands_at_all_positions_and_not_at_padding() -> None:
    encoding = torch.tensor([2.0, 0.0])
    maps = beside(torch.ones(1, 1, 2, 2), encoding, "map")
    assert torch.equal(maps[0, 1], torch.full((2, 2), 2.0))
    sequence = torch.tensor([[[1.0], [0.0]]])
    both = beside(sequence, encoding, "sequence")
    assert torch.equal(both, torch.tensor([[[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]]))


def test_stages_in_front_of_the_encoders_run_once() -> None:
    architecture = build("care", ONE_STREAM, "mlp", encoders=3, stem=1)
    sizes = [sum(p.numel() for p in copy.parameters()) for copy in architecture.experts]
    assert sizes == [35 + 30, 30, 30]


def test_heads_may_read_several_stages() -> None:
    architecture = CARE(
        make_backbone=maker("cnn"),
        streams=ONE_STREAM,
        input_shape=(1, 8, 8),
        reads={"a": [1, 2]},
        width=3,
    )
    features = architecture(inputs_of(ONE_STREAM, "cnn"), ["a", "b"])
    assert [features[task].shape for task in "ab"] == [(3, 11, 4, 4), (3, 7, 2, 2)]


def test_the_attention_is_shown() -> None:
    architecture = build("care", ONE_STREAM, "mlp", encoders=3).eval()
    architecture.start_evaluation()
    architecture(inputs_of(ONE_STREAM), TASKS)
    (table,) = architecture.structure()
    expected = torch.stack([architecture.attention(architecture.encoding(task)) for task in TASKS])
    torch.testing.assert_close(table.values, expected.detach())
    assert (table.rows, len(table.columns)) == (TASKS, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contexts": {"a": [1.0]}}, "no entry for b, c: use one for each"),
        ({"contexts": {**CONTEXTS, "b": [1.0]}}, r"different lengths \(a: 3, b: 1, c: 3\)"),
        ({"contexts": {**CONTEXTS, "c": [True, 1.0, 2.0]}}, "of task c"),
        ({"contexts": {**CONTEXTS, "c": [float("nan"), 1.0, 2.0]}}, "of task c"),
        ({"contexts": {**CONTEXTS, "c": []}}, "of task c"),
        ({"top": 5}, "there are 4 encoders: use 1 to 4"),
        ({"top": 0}, "use 1 to 4"),
        ({"encoders": 0}, "encoders"),
        ({"temperature": 0.0}, "temperature"),
        ({"descriptions": {"a": "one"}}, "use both"),
        ({"path": "/nowhere"}, "use both"),
        ({"contexts": CONTEXTS, "descriptions": {}, "path": "x"}, "use one of them"),
        ({"descriptions": dict.fromkeys(TASKS, "one"), "path": "/nowhere"}, "no folder"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("care", ONE_STREAM, "mlp", **settings)


def test_contexts_of_tasks_of_other_runs_are_left_out() -> None:
    found = expect_contexts(["c", "b"], {**CONTEXTS, "d": [9.0]})
    assert torch.equal(found, torch.tensor([[1.0, 0.0, -2.0], [0.5, 0.5, 0.0]]))


def test_sentences_become_the_mean_of_their_tokens(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "open", "the", "door", "window"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=7,
    )
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path)
    said = {"a": "open the door", "b": "window"}
    found = sentence_contexts(["b", "a"], said, str(tmp_path))
    for row, task in zip(found, ("b", "a"), strict=True):
        with torch.no_grad():
            encoded = model(**tokenizer(said[task], return_tensors="pt")).last_hidden_state
        torch.testing.assert_close(row, encoded[0].mean(0))
    streams = {"images": ("a", "b")}
    architecture = build("care", streams, "mlp", descriptions=said, path=str(tmp_path))
    assert torch.equal(architecture.contexts, found.flip(0))
    assert not any(isinstance(part, nn.Embedding) for part in architecture.modules())
    with pytest.raises(ValueError, match=r"one has 8 tokens, .* at most 7: use a shorter"):
        sentence_contexts(["a"], {"a": "open the door open the window"}, str(tmp_path))
