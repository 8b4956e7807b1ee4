import importlib
import linecache
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mtlrun.data import tokenised
from mtlrun.data.encoded_texts import TextSettings
from mtlrun.data.text import Ragged, spaced
from mtlrun.data.tokenised import Corpus
from mtlrun.errors import UserError

TEXTS = ["the cat sat", "the cat", "", "a dog sat", "the dog sat on the cat"]
TRAINING = torch.tensor([0, 1, 2])


def as_words(corpus: Corpus) -> list[list[str]]:
    rows = (corpus.tokens.row(index).tolist() for index in range(len(corpus.tokens)))
    return [[corpus.lexicon[place] for place in row] for row in rows]


def as_lists(rows: Ragged) -> list[list[int]]:
    return [rows.row(index).tolist() for index in range(len(rows))]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of cache files; all texts are large enough to be kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tokenised, "CACHED_FROM", 0)
    return tmp_path / "mtlrun" / "text"


def test_a_vocabulary_is_made_from_training_rows_only() -> None:
    corpus = Corpus.of(TEXTS, spaced)
    assert as_words(corpus) == [text.split() for text in TEXTS]
    rows, vocabulary = corpus.numbered(TRAINING)
    assert vocabulary.words == ("cat", "the", "sat")
    # a text without words is one unknown word
    assert as_lists(rows) == [[3, 2, 4], [3, 2], [1], [1, 1, 4], [3, 1, 4, 1, 3, 2]]
    rows, vocabulary = corpus.numbered(TRAINING, min_count=2)
    assert vocabulary.words == ("cat", "the")
    assert as_lists(rows)[0] == [3, 2, 1]


def test_bigrams_stand_behind_the_words_and_vanish_where_unknown() -> None:
    corpus = Corpus.of(TEXTS, spaced).with_bigrams(TRAINING, 1)
    assert as_words(corpus) == [
        ["the", "cat", "sat", "the cat", "cat sat"],
        ["the", "cat", "the cat"],
        [],
        ["a", "dog", "sat"],
        ["the", "dog", "sat", "on", "the", "cat", "the cat"],
    ]
    rows, vocabulary = corpus.numbered(TRAINING, min_count=2)
    assert vocabulary.words == ("cat", "the", "the cat")
    assert as_lists(rows) == [[3, 2, 1, 4], [3, 2, 4], [1], [1, 1, 1], [3, 1, 1, 1, 3, 2, 4]]
    fewer, vocabulary = corpus.numbered(TRAINING, max_size=2)
    assert as_lists(fewer)[0] == [3, 2, 1]
    assert as_words(Corpus.of(TEXTS, spaced).with_bigrams(TRAINING, 2))[0] == [
        *("the", "cat", "sat", "the cat"),
    ]


def test_tokens_are_read_from_the_cache_and_made_again_where_it_is_damaged(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        tokenised,
        "_tokenised",
        lambda texts, split, real=tokenised._tokenised: calls.append(1) or real(texts, split),
    )
    first = as_words(Corpus.of(TEXTS, spaced))
    (path,) = cache.iterdir()
    assert as_words(Corpus.of(TEXTS, spaced)) == first
    assert len(calls) == 1

    whole = path.read_bytes()
    middle = len(whole) // 2
    entry = whole.rindex(b"PK\1\2")  # of the archive's last array; how it is kept comes 8 bytes on
    flipped = [
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for place in (middle, entry + 8, entry + 10)
    ]
    for damaged in (b"", whole[:-30], b"no archive", *flipped):
        path.write_bytes(damaged)
        assert as_words(Corpus.of(TEXTS, spaced)) == first
        assert path.read_bytes() == whole
    assert len(calls) == 7
    with np.load(path) as file:
        arrays = dict(file)
    offsets, values = arrays["offsets"], arrays["values"]
    for wrong in (
        {"values": values + 1},  # one is past the lexicon
        {"values": values - 1},
        {"values": values[:-1]},
        {"offsets": offsets + 1, "values": np.append(values, values[:1])},
        {"offsets": offsets[[0, *range(2, len(offsets))]]},  # a row less
        {"offsets": offsets[[0, 2, 1, *range(3, len(offsets))]]},
    ):
        np.savez(path, **{**arrays, **wrong})
        assert as_words(Corpus.of(TEXTS, spaced)) == first
    assert len(calls) == 13


def test_other_texts_or_another_split_do_not_meet_in_the_cache(cache: Path) -> None:
    Corpus.of(["a b"], spaced)
    assert as_words(Corpus.of(["a", "b"], spaced)) == [["a"], ["b"]]
    assert as_words(Corpus.of(["a b."], spaced)) == [["a", "b."]]
    assert as_words(Corpus.of(["a b."])) == [["a", "b", "."]]
    assert as_words(Corpus.of(["ab", "c"], spaced)) == [["ab"], ["c"]]
    assert as_words(Corpus.of(["a", "bc"], spaced)) == [["a"], ["bc"]]
    assert len(list(cache.iterdir())) == 6


@pytest.mark.parametrize("unicode", ["15.0.0", "99.0.0"])
def test_an_edited_split_or_another_python_does_not_meet_the_cache(
    unicode: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenised, "unidata_version", "15.0.0")
    monkeypatch.syspath_prepend(str(cache.parent.parent))
    for number, (separator, found) in enumerate([("-", ["a.b"]), (".", ["a", "b"])]):
        module = cache.parent.parent / "mine.py"
        module.write_text(f"def mine(text):\n    return text.split('{separator}')\n")
        sys.modules.pop("mine", None)
        importlib.invalidate_caches()
        linecache.clearcache()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        assert as_words(Corpus.of(["a.b"], importlib.import_module("mine").mine)) == [found]
        assert len(list(cache.iterdir())) == number + 1
    monkeypatch.setattr(tokenised, "unidata_version", unicode)
    Corpus.of(["a.b"], importlib.import_module("mine").mine)
    assert len(list(cache.iterdir())) == (2 if unicode == "15.0.0" else 3)


def test_few_texts_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Corpus.of(TEXTS, spaced)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert as_words(Corpus.of(["a b"], spaced)) == [["a", "b"]]


def test_settings_of_texts() -> None:
    settings = TextSettings(min_count=1, max_length=2)
    encoded = settings.encode(TEXTS, TRAINING, spaced)
    assert as_lists(encoded.rows) == [[3, 2], [3, 2], [1], [1, 1], [3, 1]]
    assert (encoded.vocabulary, encoded.longest) == (4, 2)
    assert encoded.remark == (
        "2 words of the training rows; 75.0% of the words in other rows are unknown"
    )
    # a and dog are unknown of the 9 words in the last two rows; that pairs are, too, says nothing
    pairs = TextSettings(ngrams=2).encode(TEXTS, TRAINING, spaced)
    assert pairs.remark == (
        "5 words and pairs of the training rows; 44.4% of the words in other rows are unknown"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_count": 0},
        {"max_words": 0},
        {"max_length": 0},
        {"ngrams": 3},
        {"max_words": 9, "tokenizer": "folder"},
        {"ngrams": 2, "tokenizer": "folder"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"^{name}={value}"):
        TextSettings(**wrong)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A folder with a tokenizer of six tokens, [CLS] and [SEP] around each text."""
    transformers = pytest.importorskip("transformers")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s"]
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(names) + "\n")
    folder = tmp_path / "tokenizer"
    transformers.BertTokenizer(str(vocabulary), model_max_length=512).save_pretrained(folder)
    return folder


def test_a_pretrained_tokenizer_gives_its_numbers_plus_1(tokenizer: Path, cache: Path) -> None:
    settings = TextSettings(tokenizer=str(tokenizer))
    for _ in ("made", "read from the cache"):
        encoded = settings.encode(["Cats", "dog cat"], torch.tensor([0]))
        assert encoded.vocabulary == 8
        assert as_lists(encoded.rows) == [[3, 6, 7, 4], [3, 2, 6, 4]]
        pairs = settings.encode(["cat"], torch.tensor([0]), seconds=["cats"])
        assert as_lists(pairs.rows) == [[3, 6, 4, 6, 7, 4]]
    short = TextSettings(tokenizer=str(tokenizer), max_length=3)
    assert as_lists(short.encode(["cat cat cat"], torch.tensor([0])).rows) == [[3, 6, 4]]


def test_what_a_pretrained_tokenizer_gave_is_not_taken_for_something_else(
    tokenizer: Path, cache: Path
) -> None:
    def encoded(second: str | None = None, length: int | None = None) -> list[int]:
        settings = TextSettings(tokenizer=str(tokenizer), max_length=length)
        seconds = None if second is None else [second]
        return as_lists(settings.encode(["cat cats"], torch.tensor([0]), seconds=seconds).rows)[0]

    assert encoded() == [3, 6, 6, 7, 4]
    assert encoded(length=4) == [3, 6, 6, 4]
    assert encoded("cat") == [3, 6, 6, 7, 4, 6, 4]
    assert encoded("cats") == [3, 6, 6, 7, 4, 6, 7, 4]
    path = tokenizer / "tokenizer.json"
    path.write_text(path.read_text().replace('"##s": 6', '"##z": 6'))
    assert encoded() == [3, 6, 2, 4]


@pytest.mark.parametrize(
    ("length", "second", "message"),
    [
        (513, None, "max_length=513, .* reads at most 512 tokens: use dataset.max_length=null"),
        (2, None, "max_length=2 leaves no place for words beside the 2 special"),
        (3, ["cat"], "max_length=3 leaves no place for words beside the 3 special"),
    ],
)
def test_lengths_that_a_tokenizer_would_ignore_are_refused(
    tokenizer: Path, length: int, second: list[str] | None, message: str
) -> None:
    settings = TextSettings(tokenizer=str(tokenizer), max_length=length)
    with pytest.raises(UserError, match=message):
        settings.encode(["cat cat"], torch.tensor([0]), seconds=second)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    settings = TextSettings(tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"dataset.tokenizer=.*nowhere: there is no such folder"):
        settings.encode(["a"], torch.tensor([0]))
    with pytest.raises(UserError, match="holds no tokenizer that transformers can read"):
        TextSettings(tokenizer=str(tmp_path)).encode(["a"], torch.tensor([0]))


def test_without_transformers_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'mtlrun\[text\]'"):
        TextSettings(tokenizer="folder").encode(["a"], torch.tensor([0]))
