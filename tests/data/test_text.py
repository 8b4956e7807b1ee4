import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtlrun.data.text import Ragged, TokenSource, Vocabulary, words

ROWS = [[5, 6, 7], [], [8], [9, 10]]
some_rows = st.lists(st.lists(st.integers(-1, 9), max_size=5), min_size=1, max_size=6)


def as_lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.row(index).tolist() for index in range(len(ragged))]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't STOP, it’s 'fine'!", ["don't", "stop", ",", "it's", "'", "fine", "'", "!"]),
        ("too-tepid  biopic...", ["too", "-", "tepid", "biopic", ".", ".", "."]),
        ("  clásicos\tÉTÉ\n50 a_b", ["clásicos", "été", "50", "a_b"]),
        ("私はcat's好き。", ["私", "は", "cat's", "好", "き", "。"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("ok 👍", ["ok", "👍"]),
        (" \n", []),
    ],
)
def test_words(text: str, tokens: list[str]) -> None:
    assert words(text) == tokens


@given(st.text())
def test_words_lose_nothing_but_space(text: str) -> None:
    assert "".join(words(text)) == "".join(text.lower().replace("\u2019", "'").split())


def test_a_vocabulary_is_ordered_by_frequency_then_by_word() -> None:
    texts = [["b", "a", "c", "a"], ["d", "c", "a"], ["d"]]
    vocabulary = Vocabulary.of(texts)
    assert vocabulary.words == ("a", "c", "d", "b")
    assert len(vocabulary) == 6
    assert vocabulary.encode(["b", "new", "a"]).tolist() == [5, 1, 2]
    assert vocabulary.encode([]).dtype == np.int32
    assert Vocabulary.of(texts, min_count=2).words == ("a", "c", "d")
    assert Vocabulary.of(texts, max_size=2).words == ("a", "c")
    assert Vocabulary.of(reversed(texts)).words == vocabulary.words


def test_wrong_limits_of_a_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="min_count=0"):
        Vocabulary.of([], min_count=0)
    with pytest.raises(ValueError, match="max_size=0"):
        Vocabulary.of([], max_size=0)


def test_padded_is_as_wide_as_the_longest_row_asked_for() -> None:
    ragged = Ragged.of(ROWS)
    assert ragged.values.dtype == torch.int32
    assert ragged.lengths.tolist() == [3, 0, 1, 2]
    assert ragged.padded(torch.tensor([3, 1, 2])).tolist() == [[9, 10], [0, 0], [8, 0]]
    assert ragged.padded(torch.tensor([2, 0]), -1).tolist() == [[8, -1, -1], [5, 6, 7]]
    assert ragged.padded(torch.tensor([1])).tolist() == [[0]]
    assert ragged.padded(torch.tensor([0])).dtype == torch.int64
    assert Ragged.of([[], []]).padded(torch.tensor([1, 0]), 7).tolist() == [[7], [7]]
    assert ragged.padded(torch.tensor([], dtype=torch.int64)).shape == (0, 1)


@given(some_rows, st.data())
def test_ragged_is_a_list_of_lists(rows: list[list[int]], data: st.DataObject) -> None:
    ragged = Ragged.of(rows)
    assert as_lists(ragged) == rows
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    chosen = torch.tensor(indices, dtype=torch.int64)
    assert as_lists(ragged.subset(chosen)) == [rows[index] for index in indices]
    length = data.draw(st.integers(1, 6))
    assert as_lists(ragged.truncated(length)) == [row[:length] for row in rows]
    kept = [[value for value in row if value > 3] for row in rows]
    assert as_lists(ragged.keep(ragged.values > 3)) == kept
    assert as_lists(ragged.filled(1)) == [row or [1] for row in rows]


@pytest.fixture
def source() -> TokenSource:
    """Rows of 3, 1 and 2 tokens with a class, a score and a tag for each token."""
    targets = {
        "topic": torch.tensor([1, -1, 0]),
        "score": torch.tensor([float("nan"), 2.0, 3.0]),
        "tags": Ragged.of([[4, -1, 5], [-1], [6, 7]]),
        "labels": torch.tensor([[0, -1], [-1, -1], [0, 1]]),
    }
    return TokenSource(Ragged.of([[2, 3, 4], [5], [6, 2]]), targets)


def test_a_token_source_pads_tokens_with_0_and_tags_with_minus_1(source: TokenSource) -> None:
    inputs, targets = source.rows(torch.tensor([1, 2]))
    assert inputs.tolist() == [[5, 0], [6, 2]]
    assert inputs.dtype == targets["tags"].dtype == torch.int64
    assert targets["tags"].tolist() == [[-1, -1], [6, 7]]
    assert targets["topic"].tolist() == [-1, 0]
    assert source.lengths.tolist() == [3, 1, 2]


def test_a_token_source_knows_which_rows_are_labelled(source: TokenSource) -> None:
    masks = {task: mask.tolist() for task, mask in source.labelled.items()}
    assert masks == {
        "topic": [True, False, True],
        "score": [False, True, True],
        "tags": [True, False, True],
        "labels": [True, False, True],
    }
    assert set(source.subset(torch.tensor([2])).labelled) == set()


def test_a_token_source_can_be_selected_cut_and_pickled(source: TokenSource) -> None:
    part = pickle.loads(pickle.dumps(source.select(["tags"]).subset(torch.tensor([2, 0]))))
    assert len(part) == 2
    inputs, targets = part.rows(torch.tensor([0, 1]))
    assert inputs.tolist() == [[6, 2, 0], [2, 3, 4]]
    assert {task: values.tolist() for task, values in targets.items()} == {
        "tags": [[6, 7, -1], [4, -1, 5]]
    }


def test_a_token_source_refuses_rows_that_do_not_fit() -> None:
    tokens = Ragged.of([[2, 3], [4]])
    with pytest.raises(ValueError, match="topic: 1 targets for 2 inputs"):
        TokenSource(tokens, {"topic": torch.tensor([0])})
    with pytest.raises(ValueError, match=r"tags: .* differ in length"):
        TokenSource(tokens, {"tags": Ragged.of([[0], [0, 0]])})
    with pytest.raises(ValueError, match="without tokens"):
        TokenSource(Ragged.of([[2], []]), {})
